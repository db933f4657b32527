"""The promise of the default command: the nano learns something real about unseen essays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAST_QWK = 0.4
MOST_BEHIND_LENGTH = 0.1
"""A model that cannot read may be no more than this behind a regression on length."""


@pytest.mark.slow
def test_default_run_learns(tmp_path: Path, session_cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "logger=none", f"run_dir={tmp_path / 'run'}"],
        cwd=tmp_path,
        env=os.environ | {"AES_CACHE": str(session_cache)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["val/qwk/total"] >= LEAST_QWK
    assert metrics["val/qwk/total"] >= metrics["baseline/length_ridge/qwk"] - MOST_BEHIND_LENGTH
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
