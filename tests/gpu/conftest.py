"""Whole commands on the CUDA devices at hand, and what their runs left behind.

What needs a CUDA device is skipped where there is none. ``AES_TEST_ACCELERATOR=cpu pytest
tests/gpu`` runs such commands on the CPU instead: it tries the tests where there is no card, not
the cards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
FEW = (
    "logger=none",
    "data.copies=2",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_table.num_examples=1",
    "decoding.max_feedback_tokens=8",
)
"""Few samples and short answers, and every step logged; what a command does stays the same."""

TIMEOUT_S = 580


@dataclass(frozen=True)
class Run:
    """A run directory."""

    folder: Path

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Of ``metrics.jsonl``, training steps alone."""
        text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
        return [line for line in map(json.loads, text.splitlines()) if "loss" in line]

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        return [line["loss"] for line in self.lines]

    @property
    def metrics(self) -> dict[str, Any]:
        """The last values."""
        return self.read("metrics.json")

    @property
    def adapter(self) -> dict[str, torch.Tensor]:
        """As it was saved at the end."""
        return load_file(self.folder / "adapter" / "adapter_model.safetensors")

    def read(self, name: str) -> dict[str, Any]:
        """One of its JSON files."""
        found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return found


def environment() -> dict[str, str]:
    """With this checkout's package, installed or not."""
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([others] if others else [])])}


@dataclass(frozen=True)
class Cards:
    """The devices at hand, and commands that use them.

    Attributes:
        num: How many there are.
        cache: What commands build once.
    """

    accelerator: Literal["cpu", "cuda"]
    num: int
    cache: Path

    def settings(self, num: int, precision: str) -> list[str]:
        """The hardware of a command."""
        hardware = "h800x1" if self.accelerator == "cuda" else "cpu"
        return [
            f"hardware={hardware}",
            f"hardware.devices={num}",
            f"hardware.precision={precision}",
            "hardware.micro_batch_size=2",
            "hardware.num_workers=1",
            f"paths.cache={self.cache}",
        ]

    def start(
        self,
        run_dir: Path,
        *settings: str,
        num: int = 1,
        precision: str = "bf16",
        command: Sequence[str] = (sys.executable, str(ROOT / "train.py")),
    ) -> subprocess.Popen[str]:
        """Begin to train; ``command`` stands before the settings."""
        line = [*command, *self.settings(num, precision), *FEW, f"run_dir={run_dir}", *settings]
        return subprocess.Popen(
            line,
            cwd=run_dir.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def attempt(self, run_dir: Path, *settings: str, **how: Any) -> tuple[int, str]:
        """Exit status of a training, and what it said; ``how`` as for ``start``."""
        process = self.start(run_dir, *settings, **how)
        try:
            text, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, text

    def train(self, run_dir: Path, *settings: str, **how: Any) -> Run:
        """Train to the end; ``how`` as for ``start``."""
        status, text = self.attempt(run_dir, *settings, **how)
        assert status == 0, text
        return Run(run_dir)

    def grade(self, run: Run, *settings: str) -> dict[str, Any]:
        """Evaluate a run; the metrics."""
        line = [sys.executable, str(ROOT / "evaluate.py"), f"run={run.folder}", *settings]
        line += ["num_resamples=20", f"paths.cache={self.cache}"]
        done = subprocess.run(
            line, cwd=run.folder.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return run.read("evaluation/test/metrics.json")


@pytest.fixture(scope="session")
def cards(session_cache: Path) -> Cards:
    """The devices; skips the test where there is none."""
    if os.environ.get("AES_TEST_ACCELERATOR") == "cpu":
        return Cards("cpu", 2, session_cache)
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return Cards("cuda", torch.cuda.device_count(), session_cache)


@pytest.fixture
def num_ranks(cards: Cards, strategy: str) -> int:
    """Of the test's strategy; skips it where there are too few devices."""
    if strategy == "single":
        return 1
    if cards.num == 1 and strategy != "zero3_offload":
        # NCCL refuses a second rank on the same device.
        pytest.skip("needs two CUDA devices")
    return min(2, cards.num)


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., tuple[str, ...]]:
    """What stands before a script and its arguments to run it as so many ranks."""

    def line(num: int, script: Path, *arguments: str) -> tuple[str, ...]:
        return (*TORCHRUN, str(num), str(script), *arguments)

    return line
