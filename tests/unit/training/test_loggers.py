"""What a logger leaves in the run directory, read back through W&B's own reader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger

from aes.training.loggers import build_logger, close_logger, log_final, wandb_id
from aes.training.spec import CsvSpec, NoLoggerSpec, WandbSpec

_ENVIRONMENT = (
    "WANDB_DATA_DIR",
    "WANDB_CACHE_DIR",
    "WANDB_DISABLE_GIT",
    "WANDB_DISABLE_CODE",
    "WANDB_ERROR_REPORTING",
    "WANDB_MODE",
    "WANDB_RUN_ID",
    "WANDB_API_KEY",
)


@pytest.fixture(autouse=True)
def fresh_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B reads its environment once a process: each test begins anew and leaves nothing behind."""
    for name in _ENVIRONMENT:
        monkeypatch.setenv(name, "")  # to be restored, also where the code sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository around the run, with something to hide."""
    if shutil.which("git") is None:
        pytest.skip("no git here, so W&B could not tell anything of it")
    for args in (
        ("init", "--quiet"),
        ("remote", "add", "origin", "https://example.org/private.git"),
        ("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "a", "--allow-empty"),
    ):
        subprocess.run(["git", "-C", str(tmp_path), *args], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_spec(**changes: Any) -> WandbSpec:
    plain: dict[str, Any] = {
        "project": "aes",
        "entity": None,
        "name": None,
        "group": None,
        "tags": (),
        "mode": "offline",
    }
    return WandbSpec(**plain | changes)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "first_try"
    folder.mkdir()
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    """All that one offline folder holds."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in shown.splitlines()]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in found if record["type"] == kind]


def history(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by step, without W&B's clocks."""
    items = [row["item"] for row in of_kind(found, "history")]
    clocks = ("_runtime", "_timestamp")
    return [{k: v for k, v in item.items() if k not in clocks} for item in items]


def offline_folders(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def test_no_logger_and_csv_have_no_wandb_id(run_dir: Path) -> None:
    assert build_logger(NoLoggerSpec(), run_dir=run_dir, config={}) is None
    csv = build_logger(CsvSpec(), run_dir=run_dir, config={})
    assert isinstance(csv, CSVLogger)
    assert wandb_id(None) is wandb_id(csv) is None
    log_final(csv, {"val/qwk/total": 0.5})
    close_logger(csv)
    assert not (run_dir / "wandb").exists()


def test_run_says_what_it_was_asked_to_say_and_nothing_of_the_working_copy(
    run_dir: Path, working_copy: Path
) -> None:
    spec = make_spec(project="marks", entity="school", group="ranks", tags=["a", "b"])
    logger = build_logger(spec, run_dir=run_dir, config={"optim": {"lr": 0.1}})
    close_logger(logger)
    found = records(offline_folders(run_dir)[0])
    (run,) = of_kind(found, "run")
    named = {k: run[k] for k in ("project", "entity", "run_group", "tags", "display_name")}
    assert named == {
        "project": "marks",
        "entity": "school",
        "run_group": "ranks",
        "tags": ["a", "b"],
        "display_name": "first_try",
    }
    assert run["run_id"] == wandb_id(logger)
    assert run["config"]["update"]["optim"] == {"lr": 0.1}
    assert "private.git" not in json.dumps(found)
    assert '"git"' not in json.dumps(found)
    assert not list(run_dir.rglob("*.patch"))


def test_user_may_ask_for_git(
    run_dir: Path, working_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DISABLE_GIT", "false")
    close_logger(build_logger(make_spec(), run_dir=run_dir, config={}))
    assert "private.git" in json.dumps(records(offline_folders(run_dir)[0]))


def test_one_optimiser_step_is_one_row_and_final_values_are_the_summary(run_dir: Path) -> None:
    logger = build_logger(make_spec(), run_dir=run_dir, config={})
    assert logger is not None
    logger.log_metrics({"train/loss": 2.0}, step=5)
    logger.log_metrics({"train/loss": 1.0}, step=10)
    logger.log_metrics({"val/qwk/total": 0.5}, step=9)  # as Lightning numbers a validation
    log_final(logger, {"val/qwk/total": 0.6, "val/qwk/operation/typo": nan})
    close_logger(logger)
    found = records(offline_folders(run_dir)[0])
    assert history(found) == [
        {"_step": 5, "train/loss": 2},
        {"_step": 10, "train/loss": 1, "val/qwk/total": 0.5},
    ]
    summary: dict[str, Any] = {}
    for change in of_kind(found, "summary"):
        summary |= change["update"]
    assert summary["val/qwk/total"] == 0.6
    assert "val/qwk/operation/typo" not in summary


def test_resumed_run_keeps_id_and_steps(run_dir: Path) -> None:
    """Also when the run before it was killed and left half a folder behind."""
    first = build_logger(make_spec(), run_dir=run_dir, config={})
    assert first is not None
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": 1 / step}, step=step)
    close_logger(first)
    (cut,) = offline_folders(run_dir)[0].glob("*.wandb")
    cut.write_bytes(cut.read_bytes()[:-50])
    latest = run_dir / "wandb" / "latest-run"
    latest.unlink()
    latest.symlink_to("gone")

    second = build_logger(make_spec(), run_dir=run_dir, config={}, run_id=wandb_id(first))
    assert second is not None
    for step in (3, 4):
        second.log_metrics({"train/loss": 1 / step}, step=step)
    close_logger(second)
    assert wandb_id(second) == wandb_id(first)
    folders = offline_folders(run_dir)
    assert len(folders) == 2
    assert history(records(folders[1])) == [
        {"_step": 3, "train/loss": pytest.approx(1 / 3)},
        {"_step": 4, "train/loss": 0.25},
    ]


def test_starting_a_run_warns_of_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "false")
    logger = build_logger(make_spec(), run_dir=run_dir, config={})
    assert wandb_id(logger)
    close_logger(logger)
    said = capfd.readouterr().err
    assert "offline" in said  # W&B does speak
    assert not [line for line in said.splitlines() if "WARN" in line or "deprecated" in line]


def test_online_without_an_account_is_one_sentence(run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"logger\.mode=online.*wandb login.*offline") as caught:
        build_logger(make_spec(mode="online"), run_dir=run_dir, config={})
    assert "\n" not in str(caught.value)


def test_a_run_of_an_embedding_program_stays_its_own(run_dir: Path, tmp_path: Path) -> None:
    other = wandb.init(dir=str(tmp_path), mode="offline", project="other")
    logger = build_logger(make_spec(), run_dir=run_dir, config={})
    assert wandb_id(logger) != other.id
    close_logger(logger)
    other.log({"still": 1})
    other.finish()
