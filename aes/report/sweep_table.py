"""A sweep -> the table that closes it on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aes.report.sweep import Sweep, Trial

_SHOWN = ("val/mae/total",)


def print_sweep(console: Console, sweep: Sweep, *, commands: Sequence[str] = ()) -> None:
    """Print the trials, how far their differences count, where they are, and what to do next.

    Args:
        commands: To try next; whole lines, so that they can be copied.
    """
    console.print()
    num_finished = sum(one.state == "finished" for one in sweep.trials)
    title = f"sweep: {num_finished} of {sweep.num_trials} trials finished"
    console.rule(title, align="left", style="bold")
    if sweep.trials:
        console.print(_table(sweep))
    for trial in sweep.trials:
        if trial.error:
            _line(console, f"trial {trial.name} failed: {trial.error}")
    note = caution(sweep)
    if note:
        console.print(Text(note, style="yellow"))
    _line(console, f"summary  {sweep.folder / 'summary.html'}")
    if sweep.best is not None:
        _line(console, f"best     {sweep.folder / sweep.best.name}")
    for command in commands:
        _line(console, f"  {command}")


def caution(sweep: Sweep) -> str:
    """How far differences between trials count; empty where there is nothing to compare."""
    if len(sweep.measured) < 2:
        return ""
    flattered = "the best of several is also flattered by chance, so evaluate it on the test split"
    if sweep.noise is None:
        return f"Differences between trials hold chance; {flattered}."
    verdict = (
        "so these differences are noise"
        if sweep.spread <= sweep.noise
        else "so smaller differences are noise"
    )
    return (
        f"{sweep.num_essays} essays validated each trial: one QWK alone is uncertain by about "
        f"±{sweep.noise:.2f}, {verdict}; {flattered}."
    )


def _table(sweep: Sweep) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial")
    shown = [name for name in _SHOWN if name in sweep.metric_names()]
    names = [key.rpartition(".")[2] for key in sweep.varied]
    # Short names, unless two keys end alike.
    headings = names if len(set(names)) == len(names) else list(sweep.varied)
    for heading in (*headings, sweep.monitor or "objective", *shown, "minutes"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for trial in sweep.trials:
        style = "bold green" if trial is sweep.best else ""
        table.add_row(*_cells(sweep, trial, shown), style=style)
    return table


def _cells(sweep: Sweep, trial: Trial, shown: Sequence[str]) -> list[Text]:
    cells = [trial.name, *(trial.shown(key) for key in sweep.varied)]
    cells += [_number(trial.objective), *(_number(trial.metrics.get(name)) for name in shown)]
    state = f"{trial.state}, best" if trial is sweep.best else trial.state
    return [Text(cell) for cell in (*cells, f"{trial.seconds / 60:.1f}", state)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _line(console: Console, line: str) -> None:
    # As Text, since square brackets of a path would be read as markup.
    console.print(Text(line), soft_wrap=True)
