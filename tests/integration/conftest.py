"""Whole commands, run as ``train.py`` runs them, and folders of essays for them to read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aes.cli.entry import main
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
            main("train", run)
        assert isinstance(stop.value.code, int)
        return stop.value.code

    yield command


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
