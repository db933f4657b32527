"""Workspaces are made offline; what they show is compared with a real run in test_wandb_run.py."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.report import dashboard_panels
from aes.report.dashboard import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def extra() -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra aes[dashboards] is not installed")


def dry_run(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    main(["--entity", "school", "--dry-run", *args])
    model: dict[str, Any] = json.loads(capsys.readouterr().out)
    return model


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("kind", ["runs", "sweep"])
def test_dry_run_prints_the_model_and_sends_nothing(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    model = dry_run(capsys, "--project", "marks", "--kind", kind)
    assert (model["entity"], model["project"]) == ("school", "marks")
    sections = model["spec"]["section"]["panelBankConfig"]["sections"]
    assert all(section["isOpen"] and section["panels"] for section in sections)


@pytest.mark.usefixtures("extra")
def test_one_sweep_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    def runset(*args: str) -> dict[str, Any]:
        model = dry_run(capsys, "--kind", "sweep", *args)
        found: dict[str, Any] = model["spec"]["section"]["runSets"][0]
        return found

    (chosen,) = runset("--group", "ranks")["filters"]["filters"]
    assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "group"}, "=")
    assert chosen["value"] == "ranks"
    everything = runset()
    assert everything["filters"]["filters"] == []
    best_first = {"key": {"section": "summary", "name": "val/qwk/total"}, "ascending": False}
    assert everything["sort"]["keys"] == [best_first]


def test_group_without_sweep_is_refused() -> None:
    with pytest.raises(SystemExit, match="--group chooses a sweep"):
        main(["--entity", "school", "--group", "ranks", "--dry-run"])


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit, match=r"pip install 'aes\[dashboards\]'"):
        main(["--entity", "school", "--dry-run"])


@pytest.mark.usefixtures("extra")
def test_without_an_account_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit, match="sign in with wandb login"):
        main(["--entity", "school"])


def test_operations_are_those_of_the_ladder() -> None:
    ladder = yaml.safe_load((ROOT / "aes/corpus/degrade.yaml").read_text(encoding="utf-8"))
    assert set(dashboard_panels.OPERATIONS) == {"cut", *ladder["harms"]}


def test_swept_keys_are_those_of_the_shipped_sweeps() -> None:
    swept: set[str] = set()
    for path in (ROOT / "conf" / "sweep").glob("*.yaml"):
        swept |= set(yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"])
    follows_the_rank = {"adapter.alpha"}
    shown = {*dashboard_panels.SWEPT_NUMBERS, *dashboard_panels.SWEPT_WORDS}
    assert shown == swept | follows_the_rank
