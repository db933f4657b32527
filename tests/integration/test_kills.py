"""``train.py`` is killed at random moments, saves included, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aes.training.checkpoint import find_resumable

ROOT = Path(__file__).parents[2]
TIMES = (
    *("tokens_per_s", "data_wait_share", "elapsed_s", "remaining_s", "peak_memory_gib"),
    "vision_cache_hits",  # a resumed run has seen no page yet
)
ARGS = (
    *("data.copies=2", "trainer.log_every_n_steps=1", "trainer.val_every_n_epochs=1"),
    *("callbacks.checkpoint.every_n_train_steps=1", "callbacks.sample_table.num_examples=0"),
    *("adapter.dropout=0.1", "logger=none", "hardware.num_workers=1"),
    "decoding.max_feedback_tokens=8",
)
DEADLINE_S = 300

pytestmark = pytest.mark.command
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(session_cache: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts ``train.py`` as the leader of a group of its own, to be killed with all below it."""
    started: list[subprocess.Popen[str]] = []

    def command(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *ARGS, "resume=auto", *args],
            cwd=tmp_path,
            env=os.environ | {"AES_CACHE": str(session_cache), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield command
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, times left out."""
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def require_same_end(run_dir: Path, whole: Path) -> None:
    assert lines(run_dir) == lines(whole)
    for name in ("metrics.json", "adapter/adapter_model.safetensors"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes(), name
    kept = [{path.name for path in (run / "checkpoints").iterdir()} for run in (run_dir, whole)]
    assert kept[0] == kept[1]
    assert (run_dir / "checkpoints/best").readlink() == (whole / "checkpoints/best").readlink()
    assert not [path.name for path in run_dir.iterdir() if path.name.startswith(".")]


def saved_step(run_dir: Path) -> int:
    """Of the newest whole checkpoint; 0: there is none."""
    found = find_resumable(run_dir / "checkpoints")
    return found.manifest.step if found else 0


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Until it has happened or the process is done."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and not happened():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.0005)


def kill_at_random(
    process: subprocess.Popen[str], run_dir: Path, how: str, chance: random.Random
) -> bool:
    """Kill all of it; false if it was done before."""
    saved, before = run_dir / "checkpoints", saved_step(run_dir)
    if how == "saving":
        skipped = chance.randint(0, 1)  # so many saves are let through
        wait_for(process, lambda: newest_name(saved) >= before + skipped)
        wait_for(process, lambda: any(saved.glob(".saving-*")))
        time.sleep(chance.uniform(0, 0.06))
    elif how == "training":
        wait_for(process, lambda: newest_name(saved) > before)
        time.sleep(chance.uniform(0, 0.6))
    else:
        time.sleep(chance.uniform(0, 8))
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True


def newest_name(saved: Path) -> int:
    """Step of the newest checkpoint by its name, without reading it."""
    return max((int(path.name[5:]) for path in saved.glob("step-*")), default=0)


def train_through_kills(start: Start, run_dir: Path, ways: list[str], *args: str) -> list[int]:
    """Start, kill, start again ... and let it end. Steps that were saved at each kill."""
    chance = random.Random(1)
    saved: list[int] = []
    for how in ways:
        process = start(*args, f"run_dir={run_dir}")
        if not kill_at_random(process, run_dir, how, chance):
            break
        saved.append(saved_step(run_dir))
    last = start(*args, f"run_dir={run_dir}")
    _, told = last.communicate(timeout=DEADLINE_S)
    assert last.returncode == 0, told
    assert saved == sorted(saved), "a whole checkpoint was lost"
    return saved


@pytest.fixture(scope="module")
def whole(train_once: Callable[..., Path]) -> Path:
    """A run that was never interrupted; not to be changed."""
    return train_once("whole", *ARGS, "trainer.max_steps=6")


def test_three_kills_leave_no_trace(start: Start, whole: Path, tmp_path: Path) -> None:
    ways = ["saving", "training", "saving"]
    saved = train_through_kills(start, tmp_path / "run", ways, "trainer.max_steps=6")
    assert len(saved) == 3, "the run ended too soon to be killed"
    require_same_end(tmp_path / "run", whole)


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(
    start: Start, train_once: Callable[..., Path], tmp_path: Path
) -> None:
    ways = [*("anywhere", "saving", "training", "saving") * 6]
    args = ("trainer.max_epochs=8",)
    saved = train_through_kills(start, tmp_path / "run", ways, *args)
    assert len(saved) >= 20, "the run ended too soon to be killed"
    whole = train_once("long", *ARGS, *args, "trainer.max_steps=null")
    require_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_scheduler_that_ends_the_job(
    start: Start, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Its signal goes to all processes of the job, loaders included."""
    run_dir = tmp_path / "run"
    args = ("trainer.max_steps=6", f"run_dir={run_dir}", "callbacks.checkpoint.keep_last=1")
    process = start(*args, "callbacks.checkpoint.every_n_train_steps=99")
    wait_for(process, lambda: (run_dir / "metrics.jsonl").exists())
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number, told
    step = saved_step(run_dir)
    assert 1 <= step < 6
    (line,) = [line for line in told.splitlines() if line.startswith("Stopped")]
    assert line.startswith(f"Stopped by {number.name}: step {step} is saved; ")
    assert line.endswith(f"run_dir={run_dir} resume=auto goes on")
    again = start("trainer.max_steps=6", f"run_dir={run_dir}")
    _, told = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0, told
    require_same_end(run_dir, whole)
