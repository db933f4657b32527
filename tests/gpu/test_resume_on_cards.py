"""Killed and resumed on a CUDA device, dropout drawn there included: the same path."""

from __future__ import annotations

import time
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from conftest import Cards, Run

STEPS = 12
SAVED = 4
LINE = (
    f"trainer.max_steps={STEPS}",
    f"callbacks.checkpoint.every_n_train_steps={SAVED}",
    "callbacks.checkpoint.save_each_epoch=false",
    "adapter.dropout=0.5",
)

pytestmark = pytest.mark.gpu


def _kill_after(process: Popen[str], run_dir: Path, step: int) -> None:
    """Kill it, and with it all that it started, once a step is logged."""
    log = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not log.exists() or log.read_bytes().count(b"\n") < step:
        assert time.monotonic() < deadline, "no step was made"
        assert process.poll() is None, "it ended"
        time.sleep(0.02)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("strategy", ["single", "zero3_offload", "ddp", "zero2", "zero3", "fsdp2"])
def test_a_killed_run_takes_the_same_path(
    strategy: str, num_ranks: int, cards: Cards, tmp_path: Path
) -> None:
    line = (*LINE, f"strategy={strategy}")
    how: dict[str, Any] = {"precision": "fp32", "num": num_ranks}
    whole = cards.train(tmp_path / "whole", *line, **how)

    run_dir = tmp_path / "run"
    process = cards.start(run_dir, *line, **how)
    _kill_after(process, run_dir, SAVED + 2)
    assert (run_dir / "checkpoints" / f"step-{SAVED:08d}").is_dir()
    run = cards.train(run_dir, *line, "resume=auto", **how)
    _assert_same_path(run, whole, cards)


def _assert_same_path(run: Run, whole: Run, cards: Cards) -> None:
    assert [line["step"] for line in run.lines] == list(range(1, STEPS + 1))
    assert run.losses == pytest.approx(whole.losses, abs=1e-4)
    for name, tensor in whole.adapter.items():
        torch.testing.assert_close(run.adapter[name], tensor, atol=1e-3, rtol=0)
    # Exactly, and where it was not restored it would have drawn less.
    assert torch.equal(_generator(run, cards), _generator(whole, cards))


def _generator(run: Run, cards: Cards) -> torch.Tensor:
    """The state of what draws dropout, after the last step."""
    newest = max((run.folder / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{STEPS:08d}"
    state = torch.load(newest / "rank-00000.pt", weights_only=True)
    found: torch.Tensor = state["cuda" if cards.accelerator == "cuda" else "torch"]
    return found
