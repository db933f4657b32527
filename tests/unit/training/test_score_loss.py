"""Losses on scores: their distribution against every score written out, their slopes by steps."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.autograd import gradcheck

from aes.data.branches import add_branches
from aes.data.collate import Collator
from aes.data.guide import ScoreGuide
from aes.data.processor import Processor
from aes.kernels.forward import hidden_states, logits
from aes.model import ModelSpec, NoAdapterSpec
from aes.model.loading import load_model
from aes.prompt import AnswerSchema
from aes.records import Essay, Example, Message
from aes.training import LossSpec
from aes.training.loss import summed_loss
from aes.training.score_loss import (
    expected_loss,
    ordinal_loss,
    score_log_shares,
    sum_paths,
    summed_score_loss,
)
from aes.training.spec import ExpectedLossSpec, OrdinalLossSpec

EXPECTED = ExpectedLossSpec(name="expected", feedback_weight=0.5, score_weight=0.7)
ORDINAL = OrdinalLossSpec(name="ordinal", feedback_weight=0.5, score_weight=0.4, ordinal_sigma=0.1)


def _sharpen(model: Any) -> Any:
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return model.eval()


@pytest.fixture(scope="module")
def model(load_nano: Callable[..., Any]) -> Any:
    return _sharpen(load_nano())


def _with_ranges(processor: Processor, ranges: dict[str, tuple[int, int]]) -> Processor:
    other = copy.copy(processor)
    other.guide = ScoreGuide(processor.tokenizer, ranges)
    return other


def _written(
    processor: Processor, scores: dict[str, int], *, feedback: bool, num_words: int
) -> dict[str, Any]:
    """An answered question of text alone."""
    schema = AnswerSchema(ranges=processor.guide.ranges, feedback=feedback)
    example = Example(
        id="a",
        messages=(Message("user", ("春天来了。" * num_words,)),),
        answer=schema.segments(scores, "写得好。"),
        asks_feedback=feedback,
    )
    encoded = processor.encode(example, [])
    return {
        "encoded": encoded,
        "patches": [],
        "num_supervised_in_step": len(encoded.steps),
        "is_filler": False,
    }


def _batch(processor: Processor, items: Sequence[dict[str, Any]]) -> Any:
    return Collator(image_token=processor.image_token, pad_token=processor.pad_token)(items)


def _shares(model: Any, batch: Any, processor: Processor) -> Any:
    branched = add_branches(batch, processor.guide)
    with torch.no_grad():
        states = hidden_states(model, branched | {"attention_mask": branched["branch_mask"]})
        return score_log_shares(model, states, branched, score_steps=processor.guide.table)


def _shares_written_out(
    model: Any, processor: Processor, gold: dict[str, int], name: str, *, feedback: bool
) -> list[float]:
    """Log-probability of every score of a trait, each from an answer that holds it.

    Written without the guide: which digits make a valid score is told by the scores themselves.
    """
    ranges = processor.guide.ranges
    schema = AnswerSchema(ranges=ranges, feedback=feedback)
    leads = [lead for _, lead in schema.leads()] + [schema.opening_of_feedback()]
    at = list(ranges).index(name)
    before = "".join(
        lead + str(gold[other]) for lead, other in zip(leads, list(ranges)[:at], strict=False)
    )
    ahead = len(_ids(processor, before + leads[at]))
    after = _ids(processor, leads[at + 1])[0]
    valid = [str(score) for score in range(ranges[name][0], ranges[name][1] + 1)]
    items = [
        _written(processor, gold | {name: int(score)}, feedback=feedback, num_words=2)
        for score in valid
    ]
    start = items[0]["encoded"].num_prompt + ahead
    with torch.no_grad():
        states = hidden_states(model, _batch(processor, items))
        seen = logits(model, states[:, start - 1 : start + 3])
    found = []
    for i, score in enumerate(valid):
        written = [*_ids(processor, score), after]
        assert items[i]["encoded"].input_ids[start : start + len(written)] == written
        total = 0.0
        for k, token in enumerate(written):
            ways = {s[k] for s in valid if s[:k] == score[:k] and len(s) > k}
            tokens = _ids(processor, "".join(sorted(ways)))
            tokens += [after] if score[:k] in valid else []
            total += float(seen[i, k, tokens].log_softmax(0)[tokens.index(token)])
        found.append(total)
    return found


def _ids(processor: Processor, text: str) -> list[int]:
    return list(processor.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    ("ranges", "gold", "feedback"),
    [
        ({"a": (0, 20), "b": (8, 12)}, {"a": 15, "b": 9}, False),
        ({"a": (0, 20), "b": (8, 12)}, {"a": 2, "b": 11}, True),
        ({"a": (0, 100)}, {"a": 57}, False),
        ({"a": (0, 100)}, {"a": 100}, True),
        ({"a": (0, 100)}, {"a": 1}, False),
        ({"a": (95, 105), "b": (0, 9)}, {"a": 98, "b": 4}, True),
    ],
)
def test_branches_give_what_writing_every_score_out_gives(
    model: Any,
    processor: Processor,
    ranges: dict[str, tuple[int, int]],
    gold: dict[str, int],
    feedback: bool,
) -> None:
    processor = _with_ranges(processor, ranges)
    neighbour = {name: high for name, (_, high) in ranges.items()}
    found = _shares(
        model,
        _batch(
            processor,
            [
                _written(processor, neighbour, feedback=not feedback, num_words=9),
                _written(processor, gold, feedback=feedback, num_words=2),
            ],
        ),
        processor,
    )[1]
    for t, name in enumerate(ranges):
        expected = torch.tensor(
            _shares_written_out(model, processor, gold, name, feedback=feedback)
        )
        of_trait, none = found[t, : len(expected)], found[t, len(expected) :]
        assert torch.allclose(of_trait, expected, atol=1e-4)
        assert torch.allclose(of_trait.exp(), expected.exp(), atol=1e-5)
        assert float(of_trait.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert (none == float("-inf")).all()


@pytest.fixture(scope="module")
def dense(nano_spec: ModelSpec, session_cache: Path) -> Any:
    """The architecture without experts, its layers computed twice as in a real training."""
    text = replace(nano_spec.text, num_experts=0, experts_per_token=0, expert_intermediate_size=0)
    spec = replace(nano_spec, architecture="qwen3_vl", text=text)
    model = load_model(
        spec,
        NoAdapterSpec(),
        cache=session_cache,
        precision="fp32",
        accelerator="cpu",
        gradient_checkpointing="all",
        seed=1,
    )
    return _sharpen(model)


@pytest.mark.parametrize("kind", ["model", "dense"])
def test_the_sequence_is_read_as_without_branches(
    request: pytest.FixtureRequest,
    make_batch: Callable[..., Any],
    processor: Processor,
    essays: tuple[Essay, ...],
    kind: str,
) -> None:
    model, batch = request.getfixturevalue(kind), make_batch(essays[:3])
    branched = add_branches(batch, processor.guide)
    length = batch["input_ids"].shape[1]
    assert branched["input_ids"].shape[1] > length
    with torch.no_grad():
        before = hidden_states(model, batch)
        states = hidden_states(model, branched | {"attention_mask": branched["branch_mask"]})
    real = batch["attention_mask"].bool()
    assert torch.allclose(states[:, :length][real], before[real], atol=1e-5)
    assert states.isfinite().all()
    for name in ("labels", "steps"):
        assert torch.equal(branched[name][:, :length], batch[name])


@pytest.mark.parametrize("spec", [EXPECTED, ORDINAL])
@pytest.mark.parametrize("kind", ["model", "dense"])
def test_neighbours_and_the_cut_into_batches_change_nothing(
    request: pytest.FixtureRequest,
    make_batch: Callable[..., Any],
    processor: Processor,
    essays: tuple[Essay, ...],
    spec: LossSpec,
    kind: str,
) -> None:
    model = request.getfixturevalue(kind)
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight

    def loss_and_slope(parts: Sequence[Sequence[Essay]]) -> tuple[float, torch.Tensor]:
        model.train()
        model.zero_grad()
        total = 0.0
        for part in parts:
            batch = add_branches(make_batch(part), processor.guide)
            loss = summed_loss(model, batch, spec=spec, score_steps=processor.guide.table)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        model.eval()
        return total, weight.grad.clone()

    whole, slope = loss_and_slope([essays[:4]])
    for parts in ([[essay] for essay in essays[:4]], [essays[2:4], essays[:2]]):
        loss, other = loss_and_slope(parts)
        assert loss == pytest.approx(whole, rel=1e-5)
        assert torch.allclose(other, slope, rtol=1e-3, atol=1e-5 * float(slope.abs().max()))
    assert slope.any()


def test_the_weight_mixes_both_losses(
    model: Any, make_batch: Callable[..., Any], processor: Processor, essays: tuple[Essay, ...]
) -> None:
    batch = add_branches(make_batch(essays[:3]), processor.guide)
    table = processor.guide.table

    def loss(spec: LossSpec) -> float:
        with torch.no_grad():
            return float(summed_loss(model, batch, spec=spec, score_steps=table))

    tokens = LossSpec(name="valid_digits", feedback_weight=0.5)
    shares = _shares(model, make_batch(essays[:3]), processor).exp()
    squares = 0.0
    for b, essay in enumerate(essays[:3]):
        for t, (name, (low, high)) in enumerate({"content": (0, 20), "language": (8, 12)}.items()):
            mean = sum(k * float(shares[b, t, k - low]) for k in range(low, high + 1))
            squares += ((mean - essay.scores[name]) / (high - low)) ** 2
    comments = loss(tokens) - loss(replace(tokens, feedback_weight=0.0))
    assert comments > 0
    assert loss(replace(EXPECTED, score_weight=1.0)) == pytest.approx(comments + squares, rel=1e-4)
    for spec in (EXPECTED, ORDINAL):
        alone, w = loss(replace(spec, score_weight=1.0)), spec.score_weight
        assert loss(replace(spec, score_weight=0.0)) == pytest.approx(loss(tokens), rel=1e-5)
        assert loss(spec) == pytest.approx((1 - w) * loss(tokens) + w * alone, rel=1e-5)


def test_an_answer_without_scores_has_no_score_loss(model: Any, processor: Processor) -> None:
    example = Example(id="q", messages=(Message("user", ("几月？",)),), answer=(("三月", "*"),))
    encoded = processor.encode(example, [])
    question = {
        "encoded": encoded,
        "patches": [],
        "num_supervised_in_step": len(encoded.steps),
        "is_filler": False,
    }
    scored = _written(processor, {"content": 12, "language": 10}, feedback=False, num_words=3)

    def loss(items: list[dict[str, Any]]) -> float:
        batch = add_branches(_batch(processor, items), processor.guide)
        spec = replace(ORDINAL, score_weight=1.0, feedback_weight=0.0)
        with torch.no_grad():
            return float(summed_loss(model, batch, spec=spec, score_steps=processor.guide.table))

    assert loss([question]) == 0
    assert loss([question, scored]) == pytest.approx(loss([scored]), rel=1e-5)


def _log_shares(num: int, width: int) -> torch.Tensor:
    """Float64 logits ``[num, width]``."""
    return torch.randn(num, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["expected", "ordinal"])
def test_slopes_of_the_pure_losses(kind: str) -> None:
    gold = torch.tensor([0, 4, 2])
    none = torch.zeros(3, 6, dtype=torch.bool)
    none[1, 5:] = none[2, 3:] = True

    def loss(scores: torch.Tensor) -> torch.Tensor:
        shares = scores.masked_fill(none, float("-inf")).log_softmax(dim=1)
        if kind == "expected":
            return expected_loss(shares, gold)
        return ordinal_loss(shares, gold, sigma=0.3)

    assert gradcheck(loss, _log_shares(3, 6).requires_grad_())


@pytest.mark.parametrize("kind", ["expected", "ordinal"])
def test_slopes_from_digits_to_loss(processor: Processor, kind: str) -> None:
    guide = ScoreGuide(processor.tokenizer, {"a": (0, 12), "b": (9, 10)})
    shape = 2, len(guide.nodes["a"]), guide.table.shape[1]
    none = torch.ones(shape, dtype=torch.bool)
    for t, name in enumerate(guide.ranges):
        for node, prefix in enumerate(guide.nodes[name]):
            none[t, node, : len(guide.step(name, prefix, feedback=False).allowed)] = False
    none[none.all(dim=2)] = False  # no such node; never read

    def loss(scores: torch.Tensor) -> torch.Tensor:
        choices = scores.masked_fill(none, float("-inf")).log_softmax(dim=-1)
        shares = sum_paths(choices, guide.paths).flatten(0, 1)
        gold = torch.tensor([11, 1])
        if kind == "expected":
            return expected_loss(shares, gold)
        return ordinal_loss(shares, gold, sigma=0.2)

    assert gradcheck(
        loss, _log_shares(shape[0] * shape[1], shape[2]).view(1, *shape).requires_grad_()
    )


@pytest.mark.parametrize("spec", [EXPECTED, ORDINAL])
def test_slopes_through_the_model(
    dense: Any,
    make_batch: Callable[..., Any],
    processor: Processor,
    essays: tuple[Essay, ...],
    spec: Any,
) -> None:
    """A step along the slope of one matrix, and one against it, of the loss on scores alone.

    Without experts: choosing others would make the loss jump.
    """
    weight = dense.model.language_model.layers[0].self_attn.v_proj.weight
    batch = add_branches(make_batch(essays[:2]), processor.guide)

    def loss() -> torch.Tensor:
        states = hidden_states(dense, batch | {"attention_mask": batch["branch_mask"]})
        return summed_score_loss(dense, states, batch, spec=spec, score_steps=processor.guide.table)

    (slope,) = torch.autograd.grad(loss(), weight)
    steepness, way = float(slope.norm()), slope / slope.norm()
    step = 0.01 / steepness
    assert steepness > 0.1
    found = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.add_(way, alpha=sign * step)
            found.append(float(loss()))
            weight.add_(way, alpha=-sign * step)
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(steepness, rel=0.01)


def test_losses_by_hand() -> None:
    shares = torch.tensor([[0.25, 0.25, 0.5, 0.0]]).log()  # three scores: 0, 1, 2
    gold = torch.tensor([2])
    assert float(expected_loss(shares, gold)) == pytest.approx(((1.25 - 2) / 2) ** 2)
    # One point is 0.5 of the range: labels exp(-8), exp(-2), 1 at sigma 0.25.
    labels = torch.tensor([-8.0, -2.0, 0.0]).softmax(0)
    expected = -float((labels * torch.tensor([0.25, 0.25, 0.5]).log()).sum())
    assert float(ordinal_loss(shares, gold, sigma=0.25)) == pytest.approx(expected)


def test_a_certain_model_gives_no_nan() -> None:
    scores = torch.tensor([[80.0, -80.0, -80.0]], requires_grad=True)
    for loss in (expected_loss, lambda s, g: ordinal_loss(s, g, sigma=0.01)):
        (slope,) = torch.autograd.grad(loss(scores.log_softmax(1), torch.tensor([2])), scores)
        assert slope.isfinite().all()


def test_far_off_costs_more() -> None:
    near, far = torch.full((2, 1, 21), 0.01 / 20).log()
    near[0, 17], far[0, 3] = (torch.tensor(0.99).log(),) * 2
    gold = torch.tensor([18])
    assert expected_loss(near, gold) < 0.1 * expected_loss(far, gold)
    assert ordinal_loss(near, gold, sigma=0.05) < 0.8 * ordinal_loss(far, gold, sigma=0.05)


def test_a_run_takes_them_whatever_the_micro_batch(
    make_training: Callable[..., Any], tmp_path: Path
) -> None:
    losses = []
    for micro in (1, 4):
        module, run = make_training(micro=micro)
        module.loss_spec = EXPECTED
        run(tmp_path / str(micro), max_epochs=1, max_steps=2)
        lines = (tmp_path / str(micro) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 2


@pytest.mark.parametrize("name", ["expected", "ordinal"])
def test_a_score_loss_by_name_alone_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match=f"choose it whole by loss={name}"):
        LossSpec(name=name, feedback_weight=1.0)
