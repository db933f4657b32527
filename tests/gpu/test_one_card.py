"""The nano on one CUDA device: whole runs through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Cards, Run

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def trained(cards: Cards, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twenty steps in bfloat16."""
    return cards.train(tmp_path_factory.mktemp("trained") / "run", "trainer.max_steps=20")


def test_a_run_on_a_card_learns_and_validates(trained: Run) -> None:
    assert len(trained.losses) == 20
    assert sum(trained.losses[-5:]) < sum(trained.losses[:5])
    assert trained.lines[0]["peak_memory_gib"] > 0
    assert trained.metrics["val/parse_rate"] == 1.0


def test_a_run_is_evaluated_on_a_card(cards: Cards, trained: Run) -> None:
    metrics = cards.grade(trained, "baseline=true")
    assert metrics["test/parse_rate"] == 1.0


def test_torchrun_starts_a_run_on_one_card(
    cards: Cards, trained: Run, torchrun: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    run = cards.train(
        tmp_path / "run", "trainer.max_steps=3", command=torchrun(1, ROOT / "train.py")
    )
    # Nothing but the schedule's length differs, which the first step does not feel.
    assert run.losses[0] == pytest.approx(trained.losses[0], abs=1e-3)


@pytest.mark.parametrize("loss", ["expected", "ordinal"])
def test_losses_on_scores_learn_on_a_card(loss: str, cards: Cards, tmp_path: Path) -> None:
    run = cards.train(tmp_path / "run", "trainer.max_steps=20", f"loss={loss}")
    assert sum(run.losses[-5:]) < sum(run.losses[:5])
    assert run.metrics["val/parse_rate"] == 1.0
