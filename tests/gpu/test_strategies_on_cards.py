"""Every strategy on CUDA devices: one process's training, in as much memory as planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from aes.training.bad_steps import load_bad_batch

if TYPE_CHECKING:
    from conftest import Cards, Run

WATCHED_RANK = Path(__file__).with_name("watched_rank.py")
STEPS = 20
# Micro-batches of 2 in batches of 8, so that accumulation is 2 at least. AdamW hides a factor on a
# gradient, and so does clipping that always clips: a large eps lets it through, and a norm between
# those that there are clips some steps only.
ALIKE = (
    f"trainer.max_steps={STEPS}",
    "trainer.gradient_clip_norm=2.0",
    "optim.eps=1e-3",
    "optim.lr=5e-3",
)
# A base that outweighs all else: 0.4 B parameters.
HEAVY = (
    "model.text.hidden_size=1024",
    "model.text.num_layers=8",
    "model.text.head_dim=128",
    "model.text.mrope_section=[24,20,20]",
    "model.text.num_heads=8",
    "model.text.expert_intermediate_size=768",
    "loss=ce",  # whose logits are what the plan counts
    "trainer.max_steps=3",
)

pytestmark = pytest.mark.gpu

on_any_strategy = pytest.mark.parametrize(
    "strategy", ["single", "zero3_offload", "ddp", "zero2", "zero3", "fsdp2"]
)


@pytest.fixture(scope="module")
def reference(cards: Cards, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process, in float32."""
    folder = tmp_path_factory.mktemp("reference")
    return cards.train(folder / "run", *ALIKE, precision="fp32")


@on_any_strategy
def test_every_strategy_trains_the_same_model(
    strategy: str, num_ranks: int, cards: Cards, reference: Run, tmp_path: Path
) -> None:
    run = cards.train(
        tmp_path / "run", *ALIKE, f"strategy={strategy}", num=num_ranks, precision="fp32"
    )
    assert len(run.losses) == STEPS
    # What a card adds up in parallel comes in no fixed order, so that even one process differs
    # from itself.
    assert run.losses[0] == pytest.approx(reference.losses[0], abs=1e-4)
    assert run.losses == pytest.approx(reference.losses, abs=2e-3)
    assert reference.losses[-1] != pytest.approx(reference.losses[0], abs=0.1), "it learned nothing"
    trained, expected = run.adapter, reference.adapter
    assert trained.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, atol=1e-3, rtol=0)


@on_any_strategy
def test_the_frozen_base_stays_in_bfloat16(
    strategy: str,
    num_ranks: int,
    cards: Cards,
    torchrun: Callable[..., tuple[str, ...]],
    tmp_path: Path,
) -> None:
    job = json.dumps({"folder": str(tmp_path), "spoilt_pass": 0})
    run = cards.train(
        tmp_path / "run",
        f"strategy={strategy}",
        "trainer.max_steps=2",
        num=num_ranks,
        command=torchrun(num_ranks, WATCHED_RANK, job),
    )
    for rank in range(num_ranks):
        told = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert told == {
            "frozen": ["bfloat16"],
            "trained": ["float32"],
            "device": cards.accelerator,
        }
    assert {tensor.dtype for tensor in run.adapter.values()} == {torch.float32}


@on_any_strategy
def test_memory_stays_within_the_plan(
    strategy: str,
    num_ranks: int,
    cards: Cards,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    if cards.accelerator == "cpu":
        pytest.skip("a CPU's figure is of the whole process")
    run = cards.train(tmp_path / "run", *HEAVY, f"strategy={strategy}", num=num_ranks)
    plan = run.read("plan.json")["memory"]
    planned = plan["total"] - plan["overhead"]  # which the allocator knows nothing of
    measured = max(line["peak_memory_gib"] for line in run.lines)
    record_property("planned_gib", planned)
    record_property("measured_gib", measured)
    assert measured < planned * 1.1
    if strategy == "single":
        assert measured > planned * 0.6, "the plan asks for much more than is needed"


@pytest.mark.parametrize("strategy", ["single", "zero3_offload"])
def test_a_loss_that_is_no_number_is_skipped_or_stops_the_run(
    strategy: str,
    cards: Cards,
    torchrun: Callable[..., tuple[str, ...]],
    tmp_path: Path,
) -> None:
    # Four passes make a step: the sixth belongs to the second.
    job = json.dumps({"folder": str(tmp_path), "spoilt_pass": 6})
    line = ("trainer.max_steps=4", f"strategy={strategy}")
    how = {"command": torchrun(1, WATCHED_RANK, job)}

    status, text = cards.attempt(tmp_path / "stopped", *line, **how)
    assert status != 0
    assert "the loss of step 2 is infinite or not a number" in text
    path = tmp_path / "stopped" / "bad_batches" / "step-000002-rank0.pt"
    facts, (bad,) = load_bad_batch(path)
    assert (facts["step"], len(bad.ids)) == (2, 2)
    assert all(tensor.device.type == "cpu" for tensor in bad.tensors.values())

    run = cards.train(tmp_path / "skipped", *line, "trainer.on_bad_loss=skip", **how)
    assert run.metrics["train/skipped_steps"] == 1
    assert [step for step, loss in enumerate(run.losses, 1) if loss is None] == [2]
    assert all(bool(tensor.isfinite().all()) for tensor in run.adapter.values())
