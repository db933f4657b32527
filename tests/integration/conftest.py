"""Whole commands, run as ``train.py`` runs them, and folders of essays for them to read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest

from aes.cli import entry
from aes.cli.train import run
from aes.corpus.sample_corpus import load_sample

ROOT = Path(__file__).parents[2]
REAL_DATA = ROOT.parent / "shared" / "data" / "AES_Dataset"


@pytest.fixture(scope="session")
def cheap() -> tuple[str, ...]:
    """Few steps and short answers; what a command does stays the same."""
    return (
        "trainer.max_steps=2",
        "logger=none",
        "hardware.num_workers=0",
        "callbacks.sample_table.num_examples=1",
        "decoding.max_feedback_tokens=8",
    )


@pytest.fixture
def train(
    monkeypatch: pytest.MonkeyPatch, session_cache: Path, tmp_path: Path
) -> Iterator[Callable[..., int]]:
    """Runs the command line in this process, in an empty folder; returns its exit status."""
    monkeypatch.setenv("AES_CACHE", str(session_cache))
    monkeypatch.chdir(tmp_path)

    def command(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *args])
        with pytest.raises(SystemExit) as stop:
            entry.main("train", run)
        assert isinstance(stop.value.code, int)
        return stop.value.code

    yield command


@pytest.fixture
def evaluate(
    monkeypatch: pytest.MonkeyPatch, session_cache: Path, tmp_path: Path
) -> Callable[..., int]:
    """The same for ``evaluate.py``."""
    return _on_run("evaluate", monkeypatch, session_cache, tmp_path)


@pytest.fixture
def predict(
    monkeypatch: pytest.MonkeyPatch, session_cache: Path, tmp_path: Path
) -> Callable[..., int]:
    """The same for ``predict.py``."""
    return _on_run("predict", monkeypatch, session_cache, tmp_path)


def _on_run(
    name: str, monkeypatch: pytest.MonkeyPatch, cache: Path, folder: Path
) -> Callable[..., int]:
    monkeypatch.setenv("AES_CACHE", str(cache))
    monkeypatch.chdir(folder)

    def command(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *args])
        with pytest.raises(SystemExit) as stop:
            getattr(entry, name)()
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return command


@pytest.fixture(scope="session")
def train_once(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, cheap: tuple[str, ...]
) -> Callable[..., Path]:
    """Trains for two steps and returns the run, which tests may read and evaluate."""

    def train(name: str, *args: str) -> Path:
        run_dir = tmp_path_factory.mktemp(name) / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AES_CACHE", str(session_cache))
            patch.setattr(
                sys, "argv", ["train.py", *cheap, "data.copies=2", f"run_dir={run_dir}", *args]
            )
            with pytest.raises(SystemExit) as stop:
                entry.main("train", run)
        assert stop.value.code == 0
        return run_dir

    return train


@pytest.fixture(scope="session")
def trained_run(train_once: Callable[..., Path]) -> Path:
    """A run that every test may copy; results are kept elsewhere with ``out=``."""
    return train_once("trained")


@pytest.fixture(scope="session")
def predict_once(session_cache: Path) -> Callable[..., tuple[int, str]]:
    """``predict.py`` for tests that share a result; returns the status and what stood on stderr."""

    def command(*args: str) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as shown:
            patch.setenv("AES_CACHE", str(session_cache))
            patch.setattr(sys, "argv", ["predict.py", *args])
            with pytest.raises(SystemExit) as stop:
                entry.predict()
        assert isinstance(stop.value.code, int)
        return stop.value.code, shown.getvalue()

    return command


@pytest.fixture(scope="session")
def essay_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded essays in the layout of AES-Dataset, one score each."""
    root = tmp_path_factory.mktemp("essays")
    (root / "essays").mkdir()
    rows = []
    for essay in load_sample():
        text = f"{essay.title}\n{essay.text}\n"
        (root / "essays" / f"{essay.id}.txt").write_text(text, encoding="utf-8")
        rows.append(f"{essay.id}\t{essay.title}\t{sum(essay.scores.values())}\n")
    (root / "scores.txt").write_text("".join(rows), encoding="gb18030")
    return root


@pytest.fixture(scope="session")
def aes_root(essay_folder: Path) -> Path:
    """The real data set where it lies beside the checkout, else a small one of its layout."""
    return REAL_DATA if REAL_DATA.is_dir() else essay_folder
