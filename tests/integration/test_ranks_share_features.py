"""Two ranks that keep pages' features: the disk is common to them, memory is each one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TWO_EPOCHS = (
    *("hardware=cpux2", "strategy=ddp", "hardware.num_workers=0", "logger=none", "data.copies=2"),
    *("trainer.max_epochs=2", "trainer.val_every_n_epochs=9", "global_batch_size=8"),
)

pytestmark = pytest.mark.slow


def test_what_one_rank_wrote_the_other_reads(session_cache: Path, tmp_path: Path) -> None:
    losses, hits = {}, {}
    for place in ("disk", "memory"):
        run_dir = tmp_path / place
        done = subprocess.run(
            [
                *(sys.executable, ROOT / "train.py", *TWO_EPOCHS, f"vision_cache={place}"),
                *(f"paths.cache={tmp_path / 'cache'}", f"run_dir={run_dir}"),
            ],
            env=os.environ | {"AES_CACHE": str(session_cache), "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert "vision cache of the first rank: features of" in done.stdout
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [line for line in map(json.loads, lines) if "loss" in line]
        losses[place] = [line["loss"] for line in steps]
        hits[place] = [line["vision_cache_hits"] for line in steps]
    assert losses["disk"] == losses["memory"]
    assert hits["disk"][0] == 0
    assert hits["disk"][-1] == 1, "a rank did not find what the other had computed"
    assert hits["memory"][-1] < 1
