"""The loss against transformers' own and against sums done by hand from full logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from aes.data.collate import IGNORED
from aes.data.processor import FREE_STEP, Processor
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss, valid_digits_loss


@pytest.fixture(scope="module")
def model(load_nano: Callable[..., Any]) -> Any:
    model = load_nano()
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return model.eval()


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Any], essays: tuple[Essay, ...]) -> Any:
    return make_batch(essays[:2])


@pytest.fixture(scope="module")
def full(model: Any, batch: Any, processor: Processor) -> Any:
    """transformers' own output for the batch, with its own positions and its own loss."""
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "labels")
    kinds = (batch["input_ids"] == processor.image_token).int()
    with torch.no_grad():
        return model(**{name: batch[name] for name in names}, mm_token_type_ids=kinds)


def _loss(model: Any, batch: Any, processor: Processor, name: Any, weight: float = 1.0) -> float:
    spec = LossSpec(name=name, feedback_weight=weight)
    with torch.no_grad():
        return float(summed_loss(model, batch, spec=spec, score_steps=processor.guide.table))


@pytest.fixture(scope="module")
def token_losses(full: Any, batch: Any) -> torch.Tensor:
    """Cross-entropy of every next token, 0 where none is supervised, ``[B, T - 1]``."""
    targets = batch["labels"][:, 1:]
    rows = targets != IGNORED
    losses = torch.zeros(targets.shape)
    losses[rows] = functional.cross_entropy(
        full.logits[:, :-1][rows], targets[rows], reduction="none"
    )
    return losses


def test_ce_equals_transformers_loss(
    model: Any, batch: Any, processor: Processor, full: Any
) -> None:
    num = int((batch["labels"] != IGNORED).sum())
    assert _loss(model, batch, processor, "ce") == pytest.approx(float(full.loss) * num, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_weight_acts_on_feedback_alone(
    model: Any, batch: Any, processor: Processor, token_losses: torch.Tensor, weight: float
) -> None:
    losses = token_losses
    free = batch["steps"][:, 1:] == FREE_STEP
    supervised = batch["labels"][:, 1:] != IGNORED
    assert 0 < int((free & supervised).sum()) < int(supervised.sum())
    expected = float(losses[~free].sum() + weight * losses[free].sum())
    assert _loss(model, batch, processor, "ce", weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_valid_digits_equal_sums_by_hand(
    model: Any,
    batch: Any,
    processor: Processor,
    full: Any,
    token_losses: torch.Tensor,
    essays: tuple[Essay, ...],
    weight: float,
) -> None:
    def first(text: str) -> int:
        return int(processor.tokenizer.encode(text, add_special_tokens=False)[0])

    expected = 0.0
    for b, essay in enumerate(essays[:2]):
        ids = batch["input_ids"][b].tolist()
        places = [t for t, label in enumerate(batch["labels"][b].tolist()) if label != IGNORED]
        at = 0
        for name, (low, high), last in (("content", (0, 20), False), ("language", (8, 12), True)):
            after = ('},"feedback":"' if essay.comment else "}}") if last else ',"language":'
            lead = ("," if last else '{"scores":{') + f'"{name}":'
            lead_ids = processor.tokenizer.encode(lead, add_special_tokens=False)
            assert ids[places[at] : places[at] + len(lead_ids)] == lead_ids
            at += len(lead_ids)
            valid = [str(s) for s in range(low, high + 1)]
            score = str(essay.scores[name])
            for k in range(len(score) + 1):
                ways = sorted({s[k] for s in valid if s[:k] == score[:k] and len(s) > k})
                tokens = [first(way) for way in ways]
                tokens += [first(after)] if score[:k] in valid else []
                place = places[at + k]
                shares = full.logits[b, place - 1, tokens].log_softmax(0)
                expected -= float(shares[tokens.index(ids[place])])
            at += len(score)
        if essay.comment:
            opening = processor.tokenizer.encode('},"feedback":"', add_special_tokens=False)
            free = places[at + len(opening) :]
            losses = token_losses[b]
            expected += weight * sum(float(losses[place - 1]) for place in free)
    found = _loss(model, batch, processor, "valid_digits", weight)
    assert found == pytest.approx(expected, rel=1e-5)


def test_padding_and_neighbours_change_nothing(
    model: Any, make_batch: Callable[..., Any], processor: Processor, essays: tuple[Essay, ...]
) -> None:
    for name in ("ce", "valid_digits"):
        alone = sum(_loss(model, make_batch([essay]), processor, name) for essay in essays[:4])
        together = _loss(model, make_batch(essays[:4]), processor, name)
        assert together == pytest.approx(alone, rel=1e-5)


def test_gradients_flow_through_heads_trained_whole(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
    batch: Any,
    processor: Processor,
) -> None:
    model = load_nano(make_lora(modules_to_save=("lm_head", "visual.merger")))
    spec = LossSpec(name="valid_digits", feedback_weight=0.0)
    summed_loss(model, batch, spec=spec, score_steps=processor.guide.table).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:  # A's gradient is 0 while B is
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_one_choice_costs_nothing_and_padding_none_is_chosen() -> None:
    allowed = torch.tensor([[7, -1, -1], [3, 5, -1]])
    scores = torch.tensor([[2.0, 99.0, 99.0], [1.0, 1.0, 99.0]])
    loss = valid_digits_loss(scores, torch.tensor([7, 5]), allowed)
    assert float(loss) == pytest.approx(0.6931472)


def test_a_gold_token_that_is_not_allowed_stops_the_run() -> None:
    with pytest.raises(AssertionError, match="not among the valid ones"):
        valid_digits_loss(torch.zeros(1, 2), torch.tensor([4]), torch.tensor([[3, -1]]))
