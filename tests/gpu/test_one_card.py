"""The nano on one CUDA device in bfloat16: a whole run through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_run_on_a_card_learns_and_validates(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, str(ROOT / "train.py"), "hardware=h800x1", f"run_dir={run_dir}"]
    command += ["trainer.max_steps=20", "logger=none", f"paths.cache={tmp_path / 'cache'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert lines[0]["peak_memory_gib"] > 0
    assert json.loads((run_dir / "metrics.json").read_text())["val/parse_rate"] == 1.0
    command = [sys.executable, str(ROOT / "evaluate.py"), f"run={run_dir}", "baseline=true"]
    command += ["num_resamples=20", f"paths.cache={tmp_path / 'cache'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["test/parse_rate"] == 1.0
