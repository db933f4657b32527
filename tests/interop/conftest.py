"""LLaMA-Factory where an environment variable names one, and a run of ours to hand to it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.cli import entry
from aes.cli.train import run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from comparing.peer import Peer, find_peer, write_checkpoint  # noqa: E402

VARIABLE = "LLAMAFACTORY_PYTHON"


@pytest.fixture(scope="session")
def peer() -> Peer:
    """Its environment."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no Python with llamafactory")
    return find_peer(Path(python))


@pytest.fixture(scope="session")
def ask_peer(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs a script of ``peer/`` with a request; returns the file that it wrote."""

    def ask(script: str, request: Any, suffix: str) -> Path:
        folder = tmp_path_factory.mktemp(script)
        question, answer = folder / "request.json", folder / f"answer{suffix}"
        question.write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
        arguments = [str(HERE / "peer" / f"{script}.py"), str(question), str(answer)]
        peer.run(arguments, folder=folder, threads=2)
        return answer

    return ask


@pytest.fixture(scope="session")
def peer_checkpoint(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano, its processors named as LLaMA-Factory looks for them."""
    folder = tmp_path_factory.mktemp("nano") / "checkpoint"
    write_checkpoint(nano_checkpoint, folder)
    return folder


@pytest.fixture(scope="session")
def train(session_cache: Path) -> Callable[..., Path]:
    """A nano run of a few steps, on a sixth of the embedded sample, in a folder."""

    def command(run_dir: Path, *args: str) -> Path:
        cheap = (
            *("logger=none", "hardware.num_workers=0", "data.copies=2", f"run_dir={run_dir}"),
            *("callbacks.sample_table.num_examples=0", "decoding.max_feedback_tokens=8"),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AES_CACHE", str(session_cache))
            patch.setattr(sys, "argv", ["train.py", *cheap, *args])
            with pytest.raises(SystemExit) as stop:
                entry.main("train", run)
        assert stop.value.code == 0
        return run_dir

    return command
