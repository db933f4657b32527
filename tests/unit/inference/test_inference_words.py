"""The likeliest word by bfloat16 and then float32 is the likeliest by float32."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from aes.kernels.words import NUM_CANDIDATES, FromLogits, Screened, WordSearch

Maker = Callable[..., Any]
WORDS, HIDDEN = 5000, 48


def _model(weight: torch.Tensor) -> Any:
    head = nn.Linear(weight.shape[1], len(weight), bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return SimpleNamespace(lm_head=head)


def _random(seed: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(WORDS, HIDDEN, generator=generator)
    return _model(weight), weight, torch.randn(6, HIDDEN, generator=generator)


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_it_finds_what_all_logits_say(seed: int) -> None:
    model, weight, states = _random(seed)
    found = WordSearch(model, "screened")(states)
    assert isinstance(found, Screened)
    full = FromLogits(states @ weight.T)
    assert found.words == full.words
    for row in range(len(states)):
        allowed = torch.rand(WORDS - 7, generator=torch.Generator().manual_seed(row)) < 0.01
        assert found.among(row, allowed) == full.among(row, allowed)
        only = torch.zeros(WORDS, dtype=torch.bool)
        only[row + 3] = True
        assert found.among(row, only) == row + 3


@pytest.mark.parametrize("num_close", [2, NUM_CANDIDATES - 1, 3 * NUM_CANDIDATES])
@torch.no_grad()
def test_words_that_bfloat16_cannot_tell_apart_are_told_apart(num_close: int) -> None:
    """They differ by less than its rounding, and the best of them is not the first."""
    _, weight, states = _random(1)
    best = int((states[0] @ weight.T).argmax())
    places = torch.arange(10, 10 + num_close)
    steps = 1 + 1e-5 * torch.randperm(num_close, generator=torch.Generator().manual_seed(2))
    weight[places] = weight[best] * (1.01 * steps)[:, None]
    found = WordSearch(_model(weight), "screened")(states[:1])
    wanted = int(places[steps.argmax()])
    assert found.words == FromLogits(states[:1] @ weight.T).words == [wanted]
    without = torch.ones(WORDS, dtype=torch.bool)
    without[wanted] = False
    second = FromLogits(states[:1] @ weight.T).among(0, without)
    assert second in places
    assert found.among(0, without) == second


@torch.no_grad()
def test_of_equals_the_first_is_taken() -> None:
    _, weight, states = _random(2)
    best = int((states[0] @ weight.T).argmax())
    weight[best] *= 1.5
    for place in (best // 2, best // 3):
        weight[place] = weight[best]
    assert WordSearch(_model(weight), "screened")(states[:1]).words == [best // 3]


@torch.no_grad()
def test_a_head_that_was_trained_on_is_copied_anew() -> None:
    model, weight, states = _random(3)
    search = WordSearch(model, "screened")
    search(states)
    model.lm_head.weight.mul_(-1)
    assert search(states).words == FromLogits(states @ weight.T).words


@torch.no_grad()
def test_a_head_that_is_trained_is_copied_anew_for_each_call() -> None:
    """DeepSpeed writes weights by ``.data``, which leaves no trace."""
    model, weight, states = _random(3)
    search = WordSearch(model, "screened")
    model.lm_head.weight.requires_grad = True
    search(states)
    model.lm_head.weight.data.mul_(-1)
    search.begin()
    assert search(states).words == FromLogits(states @ weight.T).words


@torch.no_grad()
def test_without_torchs_private_operations_all_words_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, weight, states = _random(4)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    for name in ("auto", "screened"):
        found = WordSearch(model, name)(states)
        assert isinstance(found, FromLogits)
        assert found.words == FromLogits(states @ weight.T).words


@torch.no_grad()
def test_anything_but_a_plain_matrix_is_asked_itself() -> None:
    model, _, states = _random(4)
    handle = model.lm_head.register_forward_hook(lambda _, __, out: -out)
    search = WordSearch(model, "screened")
    assert isinstance(search(states), FromLogits)
    handle.remove()
    assert isinstance(search(states), Screened)
    model.lm_head.to(torch.bfloat16)
    assert isinstance(search(states.bfloat16()), FromLogits)


def test_comments_are_the_same_either_way(make_engine: Maker, examples: Any) -> None:
    found = [
        list(make_engine(engine={"word_search": way}, max_feedback_tokens=12).answer(examples))
        for way in ("full", "screened")
    ]
    assert [answer.text for answer in found[0]] == [answer.text for answer in found[1]]
