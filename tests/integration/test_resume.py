"""``resume=auto|PATH|never`` on the command line: the same path, or a refusal that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.training.checkpoint.manifest import read_manifest
from aes.training.checkpoint.resumable import step_name

pytestmark = pytest.mark.command

TIMES = (
    *("tokens_per_s", "data_wait_share", "elapsed_s", "remaining_s", "peak_memory_gib"),
    "vision_cache_hits",  # a resumed run has seen no page yet
)
ARGS = (
    *("trainer.max_steps=4", "data.copies=2", "trainer.log_every_n_steps=1", "logger=none"),
    *("callbacks.checkpoint.every_n_train_steps=1", "callbacks.checkpoint.keep_last=9"),
    *("adapter.dropout=0.1", "callbacks.sample_table.num_examples=0", "hardware.num_workers=0"),
    "decoding.max_feedback_tokens=8",
)
Train = Callable[..., int]


@pytest.fixture(scope="module")
def whole(train_once: Callable[..., Path]) -> Path:
    """A run that was never interrupted; not to be changed."""
    return train_once("whole", *ARGS)


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """That run as a kill behind its second step would have left it."""
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir, symlinks=True)
    for name in ("metrics.json", "training_loss.png"):
        (run_dir / name).unlink()
    shutil.rmtree(run_dir / "adapter")
    (run_dir / "checkpoints" / "best").unlink()
    for step in (3, 4):
        shutil.rmtree(run_dir / "checkpoints" / step_name(step))
    return run_dir


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, times left out."""
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def adapter(run_dir: Path) -> bytes:
    return (run_dir / "adapter" / "adapter_model.safetensors").read_bytes()


def spoil(folder: Path) -> None:
    file = folder / "state.ckpt"
    file.write_bytes(file.read_bytes()[:-100])


def test_auto_goes_on_by_the_same_path_and_then_has_nothing_to_do(
    train: Train, cut: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*ARGS, f"run_dir={cut}", "resume=auto", "data.copies=2", "hardware.num_workers=1")
    assert train(*command) == 0
    told = capsys.readouterr().out
    assert "going on after step 2 of 4" in told
    assert lines(cut) == lines(whole)
    assert adapter(cut) == adapter(whole)
    assert (cut / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert train(*command) == 0
    assert f"the run in {cut} is finished" in capsys.readouterr().out
    assert lines(cut) == lines(whole)


@pytest.mark.slow
def test_a_run_that_is_made_longer_is_not_finished_before_its_end(
    train: Train,
    train_once: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    constant = (*ARGS[1:], "optim.schedule=constant", "optim.warmup_ratio=0.0")
    run_dir = train_once("longer", *constant, "trainer.max_steps=2")
    longer = (*constant, "trainer.max_steps=3", f"run_dir={run_dir}", "resume=auto")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("aes.training.fit._fit", stop)
        assert train(*longer) == 130
    assert train(*longer) == 0
    assert "going on after step 2 of 2" in capsys.readouterr().out
    assert [line["step"] for line in lines(run_dir) if "loss" in line] == [1, 2, 3]
    assert train(*constant, "trainer.max_steps=1", f"run_dir={run_dir}", "resume=auto") == 1
    assert "is at step 3, in epoch 1, already, beyond" in capsys.readouterr().err


@pytest.mark.slow
def test_a_broken_checkpoint_is_passed_over_and_a_path_starts_a_new_run(
    train: Train, cut: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(cut / "checkpoints" / step_name(2))
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    assert train(*ARGS, f"run_dir={tmp_path / 'new'}", f"resume={cut}") == 0
    told = capsys.readouterr().out
    assert f"passed over {step_name(2)}: state.ckpt has" in told
    assert "going on after step 1 of 4" in told
    assert lines(tmp_path / "new") == lines(whole)[1:]
    assert adapter(tmp_path / "new") == adapter(whole)
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_auto_begins_where_there_is_nothing_to_go_on_from(
    train: Train, cut: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill before the first save leaves a run directory with a log, or only a draft."""
    shutil.rmtree(cut / "checkpoints")
    assert train(*ARGS, f"run_dir={cut}", "resume=auto") == 0
    assert "had saved nothing yet: it begins again" in capsys.readouterr().out
    assert lines(cut) == lines(whole)
    assert adapter(cut) == adapter(whole)


def refusal(train: Train, capsys: pytest.CaptureFixture[str], run_dir: Path, *args: str) -> str:
    """The sentence with which a command is refused that leaves everything as it was."""
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert train(*ARGS, f"run_dir={run_dir}", *args) == 1
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    (told,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert told.startswith("Error: ")
    return told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("optim.lr=0.004", "optim.lr: 0.002 -> 0.004"),
        ("data.copies=4", "data.copies: 2 -> 4"),
        ("trainer.max_steps=9", "trainer.max_steps: 4 -> 9"),
        ("seed=7", "seed: 1 -> 7"),
        ("global_batch_size=16", "global_batch_size: 8 -> 16"),
        ("hardware.micro_batch_size=2", "hardware.micro_batch_size: 4 -> 2"),
    ],
)
def test_changed_settings_are_refused(
    train: Train, cut: Path, capsys: pytest.CaptureFixture[str], change: str, told: str
) -> None:
    assert told in refusal(train, capsys, cut, "resume=auto", change)


def test_without_auto_a_used_directory_is_refused(
    train: Train, cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is in use already" in refusal(train, capsys, cut)
    assert "is in use already" in refusal(train, capsys, cut, f"resume={cut}")
    shutil.rmtree(cut)
    cut.mkdir()
    (cut / "notes.txt").touch()
    assert "not by a run" in refusal(train, capsys, cut, "resume=auto")


def test_broken_checkpoints_alone_are_refused(
    train: Train, cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        spoil(cut / "checkpoints" / step_name(step))
    told = refusal(train, capsys, cut, "resume=auto")
    assert "is whole" in told and step_name(1) in told and step_name(2) in told


def test_a_path_without_a_checkpoint_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert train(*ARGS, f"run_dir={tmp_path / 'new'}", f"resume={tmp_path / 'empty'}") == 1
    assert "holds no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_other_essays_are_refused(
    train: Train, essay_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "essays"
    shutil.copytree(essay_folder, root)
    command = (*ARGS[:1], *ARGS[2:], "data=aes_dataset", "rubric=holistic100", "data.min_chars=20")
    command = (*command, "trainer.max_steps=1", f"data.root={root}", f"run_dir={tmp_path / 'run'}")
    assert train(*command) == 0
    (tmp_path / "run" / "metrics.json").unlink()
    moved = root.rename(tmp_path / "moved")
    changed = next(iter(sorted((moved / "essays").iterdir())))
    text = changed.read_text(encoding="utf-8")
    changed.write_text(text.replace("，", "。"), encoding="utf-8")
    assert train(*command, f"data.root={moved}", "resume=auto") == 1
    assert "are others than when it was written" in capsys.readouterr().err
    changed.write_text(text, encoding="utf-8")
    assert train(*command, f"data.root={moved}", "resume=auto") == 0
    assert read_manifest(tmp_path / "run" / "checkpoints" / step_name(1)).is_last
