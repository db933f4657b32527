"""A finished run's numbers -> the card that closes it on the terminal.

Says where the run is, how well it grades beside graders that read nothing, and what to try next.
It knows no model and computes no metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aes.metrics.results import Agreement

SAMPLE_NOTE = (
    "SAMPLE: trained and graded on the embedded sample, which is material for trying things out; "
    "these numbers make no claim about accuracy."
)


@dataclass(frozen=True, kw_only=True)
class ClosingCard:
    """What the card shows.

    Attributes:
        run_dir: Where the run is kept.
        metrics: By name, e.g. ``val/qwk/total``, without the baselines.
        baselines: As ``baseline_metrics`` gives them; empty: none are shown.
        groups: Agreement by operation; empty: no such table.
        commands: To try next, each one line.
        is_sample: Whether the corpus was the embedded sample.
    """

    run_dir: Path
    metrics: Mapping[str, float]
    baselines: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Agreement] = field(default_factory=dict)
    commands: Sequence[str] = ()
    is_sample: bool = False


def print_card(console: Console, card: ClosingCard) -> None:
    """Print the card; paths and commands stay whole lines, so that they can be copied.

    Args:
        console: Where to.
        card: What to show.
    """
    console.print()
    console.rule("run finished", align="left", style="bold green")
    _print_line(console, f"run      {card.run_dir}")
    if card.is_sample:
        console.print(Text(SAMPLE_NOTE, style="yellow"))
    if card.metrics:
        console.print()
        console.print(_metrics_table(card.metrics, card.baselines))
    if card.groups:
        console.print()
        console.print(_groups_table(card.groups))
    if card.commands:
        console.print()
        console.print("try next", style="bold")
    for command in card.commands:
        _print_line(console, f"  {command}")


def _metrics_table(metrics: Mapping[str, float], baselines: Mapping[str, float]) -> Table:
    """One row a metric; the baselines stand beside the metric of the total they belong to."""
    table = _table("metric", "this run")
    if baselines:
        for heading in ("predict the mean", "ridge on length"):
            table.add_column(heading, justify="right")
    for name, value in metrics.items():
        row = [name, _number(value)]
        if baselines:
            row += [_baseline(baselines, kind, name) for kind in ("mean", "length_ridge")]
        table.add_row(*row)
    return table


def _groups_table(groups: Mapping[str, Agreement]) -> Table:
    table = _table("operation", "essays", "QWK", "MAE", "mean shift")
    for group, agreement in groups.items():
        table.add_row(
            Text(group),
            str(agreement.num),
            _number(agreement.metrics["qwk/total"]),
            _number(agreement.metrics["mae/total"]),
            _number(agreement.metrics["mean_shift/total"], sign="+"),
        )
    return table


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first)
    for heading in rest:
        table.add_column(heading, justify="right")
    return table


def _baseline(baselines: Mapping[str, float], kind: str, name: str) -> str:
    """The baseline's value of a metric of the total, e.g. of ``val/qwk/total``; else empty."""
    *_, metric, part = ["", *name.split("/")]
    value = baselines.get(f"baseline/{kind}/{metric}") if part == "total" else None
    return "" if value is None else _number(value)


def _number(value: float, sign: str = "-") -> str:
    return "-" if isnan(value) else f"{value:{sign}.3f}"


def _print_line(console: Console, line: str) -> None:
    # As Text, since square brackets of a command would be read as markup.
    console.print(Text(line), soft_wrap=True)
