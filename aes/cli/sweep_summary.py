"""What a sweep's folder holds -> its summary, in files and on the terminal."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from rich.console import Console

from aes.cli.sweep_folder import Record, SweepFolder
from aes.report.sweep import Sweep, Trial
from aes.report.sweep_files import write_sweep
from aes.report.sweep_table import print_sweep


def summarise(folder: SweepFolder) -> Sweep:
    """Writes ``summary.csv``, ``summary.png`` and ``summary.html`` of the trials so far."""
    records = folder.records()
    sweep = Sweep(
        title=" ".join(("train.py", *folder.command)),
        folder=folder.path,
        varied=folder.varied,
        monitor=records[0].monitor if records else "",
        num_trials=folder.num_trials,
        trials=tuple(_trial(folder, record) for record in records),
    )
    write_sweep(sweep)
    return sweep


def show_sweep(sweep: Sweep) -> None:
    """Prints the table, and how to go on with the best trial."""
    best = sweep.best
    commands = []
    if best is not None:
        run = shlex.quote(str(sweep.folder / best.name))
        commands.append(f"python evaluate.py run={run} baseline=true")
    print_sweep(Console(), sweep, commands=commands)


def read_metrics(run_dir: Path) -> dict[str, float]:
    """The last values of a run by name; empty where it has none. Undefined ones are left out."""
    try:
        metrics = json.loads((run_dir / "metrics.json").read_bytes())
    except FileNotFoundError:
        return {}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _trial(folder: SweepFolder, record: Record) -> Trial:
    run_dir = folder.run_dir(record.name)
    is_finished = record.state == "finished"
    return Trial(
        name=record.name,
        varied=record.varied,
        state=record.state,
        objective=record.objective,
        metrics=read_metrics(run_dir) if is_finished else {},
        num_essays=_num_essays(run_dir) if is_finished else None,
        seconds=record.seconds,
        error=record.error,
    )


def _num_essays(run_dir: Path) -> int | None:
    """How many source essays validated; copies of one essay are not independent."""
    try:
        return len(json.loads((run_dir / "split.json").read_bytes())["val"])
    except (FileNotFoundError, KeyError):
        return None
