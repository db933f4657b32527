"""The promise of the default command: the nano learns something real about unseen essays.

So does the one that reads them as text.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[2]
LEAST_QWK = 0.4
MOST_BEHIND_LENGTH = 0.1
"""A model that cannot read may be no more than this behind a regression on length."""

PARTS = ("val", "test")
"""Ten source essays together; each alone is too few to tell learning from luck."""


@pytest.mark.command
@pytest.mark.parametrize("model", ["nano", pytest.param("nano_text", marks=pytest.mark.slow)])
def test_default_run_learns(model: str, tmp_path: Path, session_cache: Path) -> None:
    run = tmp_path / "run"

    def command(name: str, *args: str) -> None:
        done = subprocess.run(
            [sys.executable, ROOT / name, *args],
            cwd=tmp_path,
            env=os.environ | {"AES_CACHE": str(session_cache)},
            capture_output=True,
            text=True,
            timeout=3600,
        )
        assert done.returncode == 0, done.stderr

    command("train.py", f"model={model}", "logger=none", f"run_dir={run}")
    reached, floor = [], []
    for part in PARTS:
        command("evaluate.py", f"run={run}", f"split={part}", "num_resamples=0")
        folder = run / "evaluation" / part
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        reached += [metrics[f"{part}/qwk/total"]] * metrics[f"{part}/num"]
        floor += [metrics[f"{part}/baseline/length_ridge/qwk/total"]] * metrics[f"{part}/num"]
    assert mean(reached) >= LEAST_QWK
    assert mean(reached) >= mean(floor) - MOST_BEHIND_LENGTH
    assert (run / "checkpoints" / "best" / "manifest.json").is_file()
