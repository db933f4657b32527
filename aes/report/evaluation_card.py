"""An Evaluation -> the few lines that close evaluate.py on the terminal.

The report has everything; this says what matters most, with intervals, beside the baselines.
"""

from __future__ import annotations

from math import isnan
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aes.metrics.results import Agreement, DoubleMarking, Evaluation, Robustness
from aes.metrics.verdict import verdict
from aes.report.card import SAMPLE_NOTE
from aes.report.evaluation_points import shown_calibrations
from aes.rubric import Rubric

_CAUTIONS = {
    "train": "split=train: these essays were trained on; the numbers say nothing about new ones",
    "all": "split=all: essays that were trained on are among them, unless the data is another",
}
_BASELINES = {
    "no_adapter": "without adapter",
    "mean": "predict the mean",
    "length_ridge": "ridge on length",
    "tfidf_ridge": "TF-IDF ridge",
    "tfidf_ridge_rescaled": "TF-IDF rescaled",
}


def print_evaluation(
    console: Console, evaluation: Evaluation, rubric: Rubric, report: Path
) -> None:
    """Print the card; the report's path stays a whole line, so that it can be copied."""
    agreement = evaluation.agreement
    console.print()
    console.rule("evaluation finished", align="left", style="bold green")
    console.print(Text(f"report   {report}"), soft_wrap=True)
    if evaluation.is_sample:
        console.print(Text(SAMPLE_NOTE, style="yellow"))
    if caution := _CAUTIONS.get(evaluation.facts.get("split", "")):
        console.print(Text(caution, style="yellow"))
    if left_out := evaluation.facts.get("left out"):
        console.print(Text(f"left out of every number: {left_out}", style="yellow"))
    console.print(
        Text(
            f"{agreement.num} essays from {agreement.num_sources} sources; "
            f"{agreement.metrics['parse_rate']:.1%} of the answers could be read"
        )
    )
    console.print(Text(_verdict_line(agreement)))
    console.print()
    console.print(_totals(evaluation, rubric))
    if evaluation.calibration_note:
        is_shown = bool(shown_calibrations(evaluation, rubric))
        start = "calibration" if is_shown else "calibration changes no total"
        console.print(Text(f"{start}: {evaluation.calibration_note}", style="dim"))
    if len(rubric.traits) > 1:
        console.print()
        console.print(_traits(agreement, rubric))
    if evaluation.compared:
        console.print()
        console.print(_compared(evaluation))
    if evaluation.double is not None:
        console.print()
        console.print(Text(_double_line(evaluation.double)))
    if evaluation.robustness is not None:
        result = evaluation.robustness
        console.print()
        console.print(Text(f"robustness suite of {result.num_essays} honest essays"))
        for line in _robustness_lines(result):
            # Indented where a narrow terminal breaks them, too.
            console.print(Padding(Text(line), (0, 0, 0, 2)))


def _verdict_line(agreement: Agreement) -> str:
    """What the limits of ETS say, in names of metrics."""
    named: dict[str, list[str]] = {"met": [], "not proven": [], "missed": []}
    for criterion in verdict(agreement):
        state = {True: "met", False: "missed", None: "not proven"}[criterion.passed]
        named[state].append(criterion.criterion.removesuffix("/total"))
    told = [f"{state}: {', '.join(names)}" for state, names in named.items() if names]
    return f"ETS limits {'; '.join(told)}"


def _double_line(double: DoubleMarking) -> str:
    return (
        f"double marking: QWK between the markers {_number(double.agreement['qwk/total'])}, "
        f"of their mean with gold {_number(double.mean.metrics['qwk/total'])}; "
        f"{double.arbitration_rate:.1%} of {double.num} essays to a third marker"
    )


def _robustness_lines(result: Robustness) -> list[str]:
    lines = []
    everything = result.ladder.get("all")
    if everything is not None:
        lines.append(
            f"worse copies: {everything.share_in_order:.1%} of {everything.num_pairs} pairs in "
            f"order, {everything.mean_drop:+.2f} points lost a step"
        )
    # Wordings and places, e.g. order/page/w3, are in the report.
    kinds = [a for a in result.attacks if a.name.count("/") < 2 and not isnan(a.success_rate)]
    kinds.sort(key=lambda attack: -attack.success_rate)
    if kinds:
        told = ", ".join(
            f"{a.name} {a.success_rate:.0%} of {a.num_with_room}"
            for a in kinds[:4]
            if a.success_rate > 0
        )
        lines.append(f"attacks that succeed most: {told or 'none'}")
    return lines


def _totals(evaluation: Evaluation, rubric: Rubric) -> Table:
    """A row a grader: the model as it graded, calibrated where that changed it, the baselines."""
    rows: dict[str, Agreement] = {"this run": evaluation.agreement}
    calibrated = shown_calibrations(evaluation, rubric)
    rows |= {f"calibrated, {method}": agreement for method, agreement in calibrated.items()}
    rows |= {
        label: evaluation.baselines[name]
        for name, label in _BASELINES.items()
        if name in evaluation.baselines
    }
    table = _table("total", "QWK", "95 % interval", "Pearson", "MAE", "RMSE", "SMD")
    for label, agreement in rows.items():
        metrics = agreement.metrics
        table.add_row(
            label,
            *_with_interval(agreement, "qwk/total"),
            _number(metrics.get("pearson/total")),
            *(_number(metrics.get(f"{metric}/total"), ".2f") for metric in ("mae", "rmse")),
            _number(metrics.get("smd/total"), "+.3f"),
        )
    return table


def _compared(evaluation: Evaluation) -> Table:
    """A row a run: its own numbers, and what it is ahead of this one or behind."""
    table = _table("run", "QWK", "less this run's", "95 % interval", "MAE", "less this run's")
    mine = evaluation.agreement.metrics
    table.add_row("this run", _number(mine["qwk/total"]), "", "", _number(mine["mae/total"], ".2f"))
    for name, run in evaluation.compared.items():
        value, ends = _with_interval(run.difference, "qwk/total", "+.3f")
        table.add_row(
            name,
            _number(run.agreement.metrics["qwk/total"]),
            value,
            ends,
            _number(run.agreement.metrics["mae/total"], ".2f"),
            _number(run.difference.metrics["mae/total"], "+.2f"),
        )
    return table


def _traits(agreement: Agreement, rubric: Rubric) -> Table:
    table = _table("trait", "QWK", "95 % interval", "MAE", "exact", "adjacent")
    for name in rubric.traits:
        shares = (agreement.metrics.get(f"{metric}/{name}") for metric in ("exact", "adjacent"))
        table.add_row(
            name,
            *_with_interval(agreement, f"qwk/{name}"),
            _number(agreement.metrics.get(f"mae/{name}"), ".2f"),
            *(_number(share, ".1%") for share in shares),
        )
    return table


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for heading in rest:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _with_interval(agreement: Agreement, name: str, form: str = ".3f") -> tuple[str, str]:
    interval = agreement.intervals.get(name)
    known = interval is not None and not isnan(interval.low)
    ends = f"[{interval.low:.2f}, {interval.high:.2f}]" if interval and known else ""
    return _number(agreement.metrics.get(name), form), ends


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None or isnan(value) else f"{value:{form}}"
