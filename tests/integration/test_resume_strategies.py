"""Two processes that share a model are killed and go on, also as one process and the other way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.cli.launch import run_ranks
from aes.training.bad_steps import load_bad_batch
from aes.training.checkpoint.callback import STATE_FILE
from aes.training.checkpoint.manifest import read_manifest
from aes.training.checkpoint.resumable import checkpoint_folders, step_name

ROOT = Path(__file__).parents[2]
TIMES = (
    *("tokens_per_s", "data_wait_share", "elapsed_s", "remaining_s", "peak_memory_gib"),
    "vision_cache_hits",  # a resumed run has seen no page yet
)
ARGS = (
    *("trainer.max_steps=5", "data.copies=2", "trainer.log_every_n_steps=1", "logger=none"),
    *("callbacks.checkpoint.every_n_train_steps=1", "callbacks.checkpoint.keep_last=9"),
    *("callbacks.sample_table.num_examples=0", "hardware.num_workers=0", "resume=auto"),
    *("hardware.micro_batch_size=2", "trainer.gradient_clip_norm=0.5"),
)
TWO = ("hardware=cpux2", *ARGS)

pytestmark = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(session_cache: Path, tmp_path: Path) -> Start:
    def command(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *args],
            cwd=tmp_path,
            env=os.environ | {"AES_CACHE": str(session_cache), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return command


def finish(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return told


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, times left out."""
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def require_same_path(run_dir: Path, whole: Path, tolerance: float) -> None:
    pairs = list(zip(lines(run_dir), lines(whole), strict=True))
    for found, meant in pairs:
        assert found.keys() == meant.keys()
        assert found == pytest.approx(meant, abs=tolerance, nan_ok=True)


def cut_back(whole: Path, step: int, place: Path) -> Path:
    """The run as a kill behind the save of a step would have left it."""
    shutil.copytree(whole, place, symlinks=True)
    (place / "metrics.json").unlink()
    for folder in checkpoint_folders(place / "checkpoints"):
        if folder.name > step_name(step):
            shutil.rmtree(folder)
    return place


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_a_killed_run_of_two_goes_on_by_the_same_path(
    start: Start, tmp_path: Path, strategy: str
) -> None:
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    command = (*TWO, f"strategy={strategy}", "adapter.dropout=0.1")
    finish(start(*command, f"run_dir={whole}"))
    process = start(*command, f"run_dir={run_dir}")
    second = run_dir / "checkpoints" / step_name(2)
    while process.poll() is None and not second.is_dir():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # the parent; its ranks notice
    process.communicate(timeout=60)
    told = finish(start(*command, f"run_dir={run_dir}"))
    assert "going on after step" in told
    require_same_path(run_dir, whole, 1e-6)
    manifest = read_manifest(run_dir / "checkpoints" / step_name(5))
    assert (manifest.num_ranks, manifest.strategy) == (2, strategy)
    assert {"rank-00000.pt", "rank-00001.pt", "state.ckpt"} == set(manifest.files)


def test_two_go_on_where_one_was_and_the_other_way(start: Start, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finish(start(*ARGS, f"run_dir={whole}"))
    zero = cut_back(whole, 2, tmp_path / "zero")
    told = finish(start(*TWO, "strategy=zero2", f"run_dir={zero}"))
    assert "hardware.devices: 1 -> 2" in told and "order of additions" in told
    require_same_path(zero, whole, 1e-4)
    alone = cut_back(zero, 4, tmp_path / "alone")
    finish(start(*ARGS, f"run_dir={alone}"))
    require_same_path(alone, whole, 1e-4)


def test_other_ranks_draw_other_dropouts(start: Start, tmp_path: Path) -> None:
    command = (*ARGS, "trainer.max_steps=1", "adapter.dropout=0.1", f"run_dir={tmp_path / 'run'}")
    finish(start(*command))
    (tmp_path / "run" / "metrics.json").unlink()
    process = start(*command, "hardware=cpux2", "strategy=ddp", "hardware.micro_batch_size=2")
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "adapter.dropout=0.1" in told and "hardware.devices: 1 -> 2" in told


POISON = """
import numpy as np
from aes.cli.entry import train
from aes.data.dataset import PageDataset

draw = PageDataset.__getitem__

def draw_poisoned(self, pick):
    item = draw(self, pick)
    if pick.index == 0:
        item["patches"] = np.full_like(item["patches"], np.nan)
    return item

PageDataset.__getitem__ = draw_poisoned
train()
"""


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_all_ranks_leave_a_bad_step_out(
    session_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """A page that is not a number goes to one rank alone."""
    monkeypatch.setenv("AES_CACHE", str(session_cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "poison.py").write_text(POISON)
    run_dir = tmp_path / "run"
    command = (*TWO, f"strategy={strategy}", f"run_dir={run_dir}", "trainer.on_bad_loss=skip")
    assert run_ranks([sys.executable, str(tmp_path / "poison.py"), *command], 2) == 0
    (path,) = (run_dir / "bad_batches").iterdir()  # of the rank that had it
    facts, (micro_batch,) = load_bad_batch(path)
    assert path.name == f"step-{facts['step']:06d}-rank{facts['rank']}.pt"
    assert any(tensor.isnan().any() for tensor in micro_batch.tensors.values())
    counts = [line.get("skipped_steps", 0) for line in lines(run_dir) if "loss" in line]
    assert counts == [0] * (facts["step"] - 1) + [1] * (6 - facts["step"])
    assert facts["step"] > 1, "nothing to compare with"
    before, after = (
        torch.load(run_dir / "checkpoints" / step_name(step) / STATE_FILE, weights_only=True)
        for step in (facts["step"] - 1, facts["step"])
    )
    for name, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name]), name
    for index, held in before["optimizer_states"][0]["state"].items():
        for name, value in held.items():
            assert torch.equal(value, after["optimizer_states"][0]["state"][index][name]), name
