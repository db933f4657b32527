"""A model that reads text alone: our passes are transformers' own, packed and behind a cache too.

Options one by one are compared in ``test_each_option.py``.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from aes.data.processor import Processor
from aes.kernels.attention import use_attention
from aes.kernels.cached import cached_states
from aes.kernels.compiling import compile_layers
from aes.kernels.forward import hidden_states, logits
from aes.kernels.fused import Rotary, fuse_ops
from aes.kernels.parts import language_model_of, tower_of
from aes.kernels.patches import linear_patches
from aes.kernels.prefill import last_tokens_only
from aes.model import LoraSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay

NAMES = ("varlen", "sdpa", "eager")


@pytest.fixture
def model(load_nano_text: Callable[..., Any]) -> Any:
    return load_nano_text().eval()


@pytest.fixture
def make_text(
    make_batch: Callable[..., Any],
    text_builder: ExampleBuilder,
    text_processor: Processor,
    essays: tuple[Essay, ...],
) -> Callable[..., dict[str, Tensor]]:
    """A batch of the first essays as text."""

    def make(number: int, **settings: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = make_batch(
            essays[:number], builder=text_builder, processor=text_processor, **settings
        )
        return found

    return make


def _samples(batch: dict[str, Tensor], states: Tensor) -> Iterator[Tensor]:
    """Of each sample, padding left out."""
    if "sequence_lengths" in batch:
        yield from states[0].split(batch["sequence_lengths"].tolist())
    else:
        for row, mask in zip(states, batch["attention_mask"].bool(), strict=True):
            yield row[mask]


@torch.no_grad()
@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", NAMES)
def test_each_sample_has_the_states_that_it_has_alone(
    name: Any, is_packed: bool, model: Any, make_text: Callable[..., Any]
) -> None:
    batch = make_text(4, is_packed=is_packed)
    samples = list(_samples(batch, batch["input_ids"]))
    truths = [model.model(input_ids=ids[None]).last_hidden_state[0] for ids in samples]
    use_attention(model, name)
    states = list(_samples(batch, hidden_states(model, batch)))
    for ours, truth in zip(states, truths, strict=True):
        torch.testing.assert_close(ours, truth, atol=2e-5, rtol=1e-4)
    last = model(input_ids=samples[0][None], logits_to_keep=1).logits[0]
    torch.testing.assert_close(logits(model, states[0][-1:]), last, atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_no_packed_sample_sees_another(
    name: Any, model: Any, make_text: Callable[..., Any]
) -> None:
    use_attention(model, name)
    batch = make_text(3, is_packed=True)
    start, end = batch["sequence_lengths"].cumsum(0)[:2].tolist()
    changed = dict(batch, input_ids=batch["input_ids"].clone())
    changed["input_ids"][0, start:end] = 1000
    before, after = (list(_samples(b, hidden_states(model, b))) for b in (batch, changed))
    differences = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True)]
    assert differences[1] > 1e-3
    assert max(differences[0], differences[2]) < 5e-6


@torch.no_grad()
def test_padding_needs_no_mask_where_ours_attends(
    model: Any, make_text: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions of padding must not read as further samples, for which a mask would be built."""
    masks: list[Any] = []
    layer = language_model_of(model).layers[0]
    layer.register_forward_pre_hook(
        lambda _, __, given: masks.append(given["attention_mask"]), with_kwargs=True
    )
    use_attention(model, "varlen")
    hidden_states(model, make_text(3))
    use_attention(model, "sdpa")
    hidden_states(model, make_text(3))
    assert masks[0] is None
    assert masks[1] is not None


@torch.no_grad()
def test_only_last_tokens_go_through_the_last_layer(
    model: Any, make_text: Callable[..., Any]
) -> None:
    batch = make_text(3)
    last = batch["attention_mask"].sum(dim=1) - 1
    whole = hidden_states(model, batch)[torch.arange(3), last]
    with last_tokens_only(model, last) as is_shortened:
        short = hidden_states(model, batch)
    assert is_shortened
    torch.testing.assert_close(short[:, 0], whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_behind_a_cache_the_states_are_those_of_the_whole(name: Any, model: Any) -> None:
    from transformers import DynamicCache

    use_attention(model, name)
    ids = torch.randint(0, 1000, (2, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(3, 2, -1)
    mask = torch.ones(2, 1, 3, 9, dtype=torch.bool).tril(6)
    if name == "eager":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    whole = model.model(input_ids=ids).last_hidden_state
    cache = DynamicCache()
    start = {"input_ids": ids[:, :6], "position_ids": positions[..., :6], "attention_mask": None}
    hidden_states(model, start, cache=cache)
    rest = {"input_ids": ids[:, 6:], "position_ids": positions[..., 6:], "attention_mask": mask}
    found = cached_states(model, rest, cache)
    torch.testing.assert_close(found, whole[:, 6:], atol=1e-5, rtol=1e-5)


def test_fused_operations_reach_every_layer(
    model: Any, make_text: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse_ops(model)
    linear_patches(model)  # there are none
    assert tower_of(model) is None
    text = language_model_of(model)
    replaced = [name for name, module in text.named_modules() if "forward" in vars(module)]
    # Of a layer two norms, those of queries and keys, attention and MLP; and the last norm.
    assert len(replaced) == 6 * len(text.layers) + 1
    turned: list[int] = []
    apply = Rotary.apply
    monkeypatch.setattr(Rotary, "apply", lambda *given: turned.append(1) or apply(*given))
    hidden_states(model, make_text(1))
    assert len(turned) == 2 * len(text.layers)


def test_layers_are_compiled_once_for_all_lengths(
    load_nano_text: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_text: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    plain, compiled = (load_nano_text(make_lora()).train() for _ in range(2))
    compile_layers(compiled)
    torch._dynamo.utils.counters.clear()
    for number in (2, 3, 4):
        batch = make_text(number)
        truth, found = hidden_states(plain, batch), hidden_states(compiled, batch)
        torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] < 4
    torch._dynamo.reset()


def test_pages_are_a_mistake_of_ours(model: Any, make_text: Callable[..., Any]) -> None:
    batch = make_text(1) | {"pixel_values": torch.zeros(4, 1536)}
    with pytest.raises(AssertionError, match="reads text alone"):
        hidden_states(model, batch)
