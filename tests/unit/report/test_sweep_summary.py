"""A sweep's summary says what was varied, what came of it, and how far that counts."""

import csv
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aes.report.sweep import Sweep, Trial
from aes.report.sweep_files import write_sweep
from aes.report.sweep_plot import draw_sweep
from aes.report.sweep_table import caution, print_sweep


def trial(name: str, objective: float | None, **changes: Any) -> Trial:
    metrics = {"val/qwk/total": objective, "val/mae/total": 8.25, "baseline/length_ridge/qwk": 0.3}
    plain: dict[str, Any] = {
        "name": name,
        "varied": {
            "optim.schedule": "cosine" if name < "2" else "linear",
            "optim.lr": f"1e-{name}",
        },
        "state": "finished",
        "objective": objective,
        "metrics": {k: v for k, v in metrics.items() if v is not None},
        "num_essays": 64,
        "seconds": 90.0,
        "error": "",
    }
    return Trial(**plain | changes)


def sweep_of(folder: Path, *trials: Trial, **changes: Any) -> Sweep:
    plain: dict[str, Any] = {
        "title": "train.py sweep=schedule",
        "folder": folder,
        "varied": ("optim.schedule", "optim.lr"),
        "monitor": "val/qwk/total",
        "num_trials": 4,
        "trials": trials,
    }
    return Sweep(**plain | changes)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    failed = trial("2", None, state="failed", metrics={}, num_essays=None, error="no <room>; sorry")
    return sweep_of(tmp_path, trial("0", 0.4), trial("1", 0.55), failed)


def test_the_table_has_every_metric_and_marks_the_best(sweep: Sweep) -> None:
    write_sweep(sweep)
    rows = list(csv.DictReader((sweep.folder / "summary.csv").open(encoding="utf-8")))
    assert [row["optim.lr"] for row in rows] == ["1e-0", "1e-1", "1e-2"]
    assert [row["val/qwk/total"] for row in rows] == ["0.4", "0.55", ""]
    assert [row["val/mae/total"] for row in rows] == ["8.25", "8.25", ""]
    assert [row["best"] for row in rows] == ["", "yes", ""]
    assert [row["state"] for row in rows] == ["finished", "finished", "failed"]
    assert rows[2]["error"] == "no <room>; sorry"
    assert rows[0]["num_val_essays"] == "64"


def test_a_cell_is_no_formula(tmp_path: Path) -> None:
    evil = trial("0", 0.4, varied={"optim.lr": "=1+1"})
    write_sweep(sweep_of(tmp_path, evil))
    assert "'=1+1" in (tmp_path / "summary.csv").read_text()


def test_the_report_stands_alone_and_escapes(sweep: Sweep) -> None:
    write_sweep(sweep)
    html = (sweep.folder / "summary.html").read_text(encoding="utf-8")
    assert "no &lt;room&gt;; sorry" in html
    assert "第 1 号（optim.schedule=cosine, optim.lr=1e-1）：0.550" in html
    assert 'src="data:image/svg+xml;base64,' in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert (sweep.folder / "summary.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("num_essays", "values", "words"),
    [
        (64, (0.4, 0.55), "so these differences are noise"),
        (1600, (0.4, 0.55), "so smaller differences are noise"),
        (None, (0.4, 0.55), "Differences between trials hold chance"),
        (64, (0.4, None), ""),
    ],
)
def test_differences_within_chance_are_called_noise(
    tmp_path: Path, num_essays: int | None, values: tuple[float | None, ...], words: str
) -> None:
    trials = [trial(str(i), value, num_essays=num_essays) for i, value in enumerate(values)]
    said = caution(sweep_of(tmp_path, *trials))
    assert words in said
    assert bool(said) == bool(words)


def test_the_interval_is_that_of_the_fewest_essays(tmp_path: Path) -> None:
    both = sweep_of(tmp_path, trial("0", 0.4), trial("1", 0.5, num_essays=16))
    assert both.num_essays == 16
    assert both.noise == pytest.approx(0.4)
    assert sweep_of(tmp_path, trial("0", 0.4, num_essays=1)).noise == 1.0
    mae = sweep_of(tmp_path, trial("0", 0.4), monitor="val/pearson/total")
    assert mae.noise is None


def test_each_varied_setting_has_a_panel_in_its_kind_of_axis(sweep: Sweep) -> None:
    figure = draw_sweep(sweep)
    assert figure is not None
    words, rates = figure.axes
    assert [label.get_text() for label in words.get_xticklabels()] == ["cosine"]
    assert rates.get_xscale() == "log"
    drawn = {tuple(dot.get_offsets()[0]) for dot in rates.collections if len(dot.get_offsets())}
    assert {(1.0, 0.4), (0.1, 0.55)} <= drawn


def test_nothing_measured_is_drawn_nowhere_and_still_written(tmp_path: Path) -> None:
    unmeasured = sweep_of(tmp_path, trial("0", None), trial("1", None, state="running"))
    write_sweep(unmeasured)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.csv", "summary.html"]
    assert "没有可比较的验证结果" in (tmp_path / "summary.html").read_text(encoding="utf-8")
    write_sweep(sweep_of(tmp_path / "empty", monitor=""))
    assert (tmp_path / "empty" / "summary.html").is_file()


def test_the_terminal_shows_it_within_80_columns(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    print_sweep(Console(width=80), sweep, commands=["python evaluate.py run=[1]"])
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith(("trial", "0", "1", "2"))]
    assert table[0].split()[:3] == ["trial", "schedule", "lr"]
    assert table[2].split() == ["1", "cosine", "1e-1", "0.550", "8.250", "1.5", "finished,", "best"]
    assert all(len(line) <= 80 for line in table)
    assert "trial 2 failed: no <room>; sorry" in lines
    assert "  python evaluate.py run=[1]" in lines
    assert f"best     {sweep.folder / '1'}" in lines
