"""Whole commands as several processes: two ranks of one machine, and two "nodes" of one each."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW = ("data.copies=2", "logger=none", "hardware.num_workers=0")
TWO_NODES = ("hardware=cpu", "hardware.num_nodes=2", "strategy=ddp")

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(session_cache: Path) -> dict[str, str]:
    return os.environ | {"AES_CACHE": str(session_cache), "OMP_NUM_THREADS": "1"}


def _nodes(
    arguments: Sequence[Sequence[str]], folder: Path, environment: dict[str, str]
) -> list[subprocess.Popen[str]]:
    """One node each, with a command line of its own, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = ("--master-addr", "127.0.0.1", "--master-port", str(port))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", *meeting)
    return [
        subprocess.Popen(
            [*torchrun, "--node-rank", str(n), "--nproc-per-node", "1", ROOT / "train.py", *given],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n, given in enumerate(arguments)
    ]


def _finish(nodes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    texts = [node.communicate(timeout=300)[0] for node in nodes]
    return [(node.returncode, text) for node, text in zip(nodes, texts, strict=True)]


def test_two_nodes_share_one_run(tmp_path: Path, environment: dict[str, str]) -> None:
    line = (*TWO_NODES, *FEW, "trainer.max_steps=2")
    first, second = _finish(_nodes([line, line], tmp_path, environment))
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    (run_dir,) = (tmp_path / "outputs").glob("*/*")
    assert (run_dir / "adapter" / "adapter_model.safetensors").is_file()
    assert "run finished" in first[1]
    assert "run finished" not in second[1], "one rank alone speaks"


def test_nodes_with_unlike_settings_do_not_start(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    line = (*TWO_NODES, *FEW, "trainer.max_steps=2")
    first, _ = _finish(_nodes([line, (*line, "optim.lr=0.1")], tmp_path, environment))
    assert first[0] != 0
    assert "ranks 0 and 1 differ in their settings: optim.lr (0.002 and 0.1)" in first[1]
    assert not (tmp_path / "outputs").exists()


def test_another_number_of_ranks_than_the_hardware_has_is_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    line = ("hardware=cpux2", "strategy=ddp", *FEW)
    (status, text), _ = _finish(_nodes([line, line], tmp_path, environment))
    assert status != 0
    assert "2 ranks were started on 2 node(s), but the hardware has 2 device(s) on 1" in text


def test_when_one_node_dies_the_other_stops(tmp_path: Path, environment: dict[str, str]) -> None:
    run_dir = tmp_path / "run"
    line = (*TWO_NODES, *FEW, f"run_dir={run_dir}")
    nodes = _nodes([line, line], tmp_path, environment)
    _await_steps(run_dir, nodes)
    (rank,) = _children(nodes[1].pid)
    os.kill(rank, signal.SIGKILL)
    died = time.monotonic()
    (first, text), (second, _) = _finish(nodes)
    assert time.monotonic() - died < 60
    assert (first != 0, second != 0) == (True, True)
    assert "Another rank is gone" in text


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_rank_dies_the_other_stops_and_its_end_is_told(
    victim: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    run_dir = tmp_path / "run"
    line = ["hardware=cpux2", "strategy=ddp", *FEW, f"run_dir={run_dir}"]
    parent = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *line],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _await_steps(run_dir, [parent])
    ranks = _children(parent.pid)
    (pid,) = [pid for pid in ranks if _variable(pid, "RANK") == str(victim)]
    os.kill(pid, signal.SIGKILL)
    died = time.monotonic()
    _, error = parent.communicate(timeout=120)
    assert time.monotonic() - died < 60
    assert parent.returncode == 1
    assert f"Error: rank {victim} was ended by SIGKILL" in error
    assert "Traceback" not in error
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]


def test_a_scheduler_that_tells_every_process_gets_one_save(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The ranks are told twice: by the scheduler, and by the parent that passes it on."""
    run_dir = tmp_path / "run"
    line = ["hardware=cpux2", "strategy=zero2", *FEW, f"run_dir={run_dir}"]
    parent = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *line],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _await_steps(run_dir, [parent])
    for pid in (*_children(parent.pid), parent.pid):
        os.kill(pid, signal.SIGTERM)
    _, error = parent.communicate(timeout=120)
    assert parent.returncode == 143, error
    assert "Stopped by SIGTERM" in error
    (saved,) = (run_dir / "checkpoints").glob("step-*")
    assert f"step {int(saved.name.removeprefix('step-'))} is saved" in error


def _await_steps(run_dir: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 240
    log = run_dir / "metrics.jsonl"
    while not (log.exists() and [line for line in _lines(log) if "loss" in line]):
        assert time.monotonic() < deadline, "no step was made"
        assert all(process.poll() is None for process in processes), "it ended"
        time.sleep(0.2)


def _lines(log: Path) -> Iterator[dict[str, float]]:
    return map(json.loads, log.read_text(encoding="utf-8").splitlines())


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def _variable(pid: int, name: str) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    found = dict(v.split(b"=", 1) for v in variables if b"=" in v)
    return found.get(name.encode(), b"").decode()
