"""Starts our side of a comparison as a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from comparing.watched import Watched, watch

BENCHMARKS = Path(__file__).parents[1]
# The question is short, so that a sample has the reference job's 1,065 tokens.
PROMPT = (
    "prompt.task=请评分。",
    "prompt.rubric=满分100",
    "prompt.trait=''",
    'prompt.answer_feedback="{shape}"',
)


def run_ours(name: str, arguments: Sequence[str], *, folder: Path, threads: int) -> Watched:
    """Run ``comparing.<name>`` to its end in ``folder``.

    Raises:
        ValueError: If it fails.
    """
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"comparing.{name}", *arguments]
    return watch(command, environment=environment, folder=folder)
