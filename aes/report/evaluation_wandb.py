"""An Evaluation -> the report's panels in W&B: scalars, tables, figures, worst essays.

Keys are ``evaluation/<split>/...``. Logs to a run that is open; opens and finishes none.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan, nan
from typing import Any

from PIL import Image

from aes.metrics.results import Agreement, Evaluation, Interval
from aes.metrics.verdict import verdict
from aes.report.evaluation_drawing import to_png
from aes.report.evaluation_plots import draw_evaluation
from aes.report.evaluation_points import gold_total, pred_total, worst
from aes.report.evaluation_worst import PageImages
from aes.rubric import Rubric

_NUM_WORST = 10


def log_evaluation(
    run: Any,
    evaluation: Evaluation,
    rubric: Rubric,
    *,
    split: str,
    page_images: PageImages | None = None,
) -> None:
    """Log the panels of the report to W&B, at one step.

    Args:
        run: An open ``wandb`` run, e.g. ``WandbLogger.experiment``.
        evaluation: What to log.
        rubric: What the essays were graded under.
        split: Names the keys, e.g. ``test`` for ``evaluation/test/qwk/total``.
        page_images: Pages of an essay by its id, for the table of the worst; ``None``: no such
            table, and nothing that a pupil or the model wrote.
    """
    import wandb

    panels: dict[str, Any] = dict(evaluation.agreement.metrics)
    panels |= {f"text/{name}": value for name, value in evaluation.text.items()}
    for drawing in draw_evaluation(evaluation, rubric):
        if drawing.figure is not None:
            picture = Image.open(io.BytesIO(to_png(drawing.figure)))
            panels[f"figures/{drawing.name}"] = wandb.Image(picture, caption=drawing.caption)
    for name, (columns, rows) in tables(evaluation).items():
        panels[f"tables/{name}"] = wandb.Table(columns=columns, data=rows)
    if evaluation.double:
        panels["double/arbitration_rate"] = evaluation.double.arbitration_rate
        between = evaluation.double.agreement
        panels |= {f"double/between/{name}": value for name, value in between.items()}
    if page_images is not None:
        panels["tables/worst"] = _worst_table(evaluation, rubric, page_images)
    run.log({f"evaluation/{split}/{name}": panel for name, panel in panels.items()})


def tables(evaluation: Evaluation) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Columns and rows of the tables, by name; a table without rows is left out.

    Every number of an agreement is a row of its own, with its interval and its n.
    """
    double, robustness = evaluation.double, evaluation.robustness
    agreements: dict[str, Mapping[str, Agreement]] = {
        "agreement": {"as graded": evaluation.agreement} | dict(evaluation.calibrated),
        "baselines": {"as graded": evaluation.agreement} | dict(evaluation.baselines),
        "by_length": evaluation.by_length,
        "by_band": evaluation.by_band,
        "by_group": evaluation.by_group,
    }
    if double:
        first, second = double.names
        markers = {first: double.first, f"{second} (second)": double.second}
        agreements["double"] = markers | {"mean": double.mean, "accepted": double.mean_accepted}
    found = {
        name: (["of", "metric", "value", "low", "high", "n", "sources"], _rows(named))
        for name, named in agreements.items()
    }
    found["verdict"] = _from_dicts([c._asdict() for c in verdict(evaluation.agreement)])
    unread = [m for m in evaluation.marked if m.grade.parse_error]
    # Without the answers: they may quote the essay, and stand in predictions.jsonl.
    found["unread"] = (["id", "reason"], [[m.id, m.grade.parse_error] for m in unread])
    found["facts"] = (["fact", "value"], [list(fact) for fact in evaluation.facts.items()])
    if robustness:
        ladder = [{"harm": name} | asdict(r) for name, r in robustness.ladder.items()]
        # A rate that is not defined has no order among others.
        rates = {
            a.name: -1 if isnan(a.success_rate) else a.success_rate for a in robustness.attacks
        }
        attacks = sorted(robustness.attacks, key=lambda attack: -rates[attack.name])
        found["ladder"] = _from_dicts(ladder)
        found["attacks"] = _from_dicts([asdict(a) for a in attacks])
        drift = [[name, points] for name, points in robustness.honest_drift.items()]
        found["drift"] = (["change", "points"], drift)
    return {name: table for name, table in found.items() if table[1]}


def _rows(named: Mapping[str, Agreement]) -> list[list[Any]]:
    nothing = Interval(nan, nan)
    return [
        [of, metric, value, interval.low, interval.high, a.num, a.num_sources]
        for of, a in named.items()
        for metric, value in a.metrics.items()
        for interval in [a.intervals.get(metric, nothing)]
    ]


def _from_dicts(entries: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns are the fields; an interval becomes two, as ``drop_low`` and ``drop_high``."""
    rows = [_flat(entry) for entry in entries]
    columns = list(rows[0]) if rows else []
    return columns, [[row[column] for column in columns] for row in rows]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            flat |= {f"{name.removesuffix('interval')}{end}": at for end, at in value.items()}
        else:
            flat[name] = value
    return flat


def _worst_table(evaluation: Evaluation, rubric: Rubric, page_images: PageImages) -> Any:
    import wandb

    columns = ["id", "pages", "gold", "predicted", "uncertainty", "deductions"]
    table = wandb.Table(columns=[*columns, "gold answer", "predicted answer"])
    for m in worst(evaluation.marked, rubric, _NUM_WORST):
        pages = page_images(m.id)
        table.add_data(
            m.id,
            wandb.Image(_sheet(pages)) if pages else None,
            gold_total(m, rubric),
            pred_total(m, rubric),
            m.grade.uncertainty,
            "; ".join(f"{d.reason}: -{d.points:g}" for d in m.grade.deductions),
            m.gold_text,
            m.grade.raw,
        )
    return table


def _sheet(pages: Sequence[Image.Image]) -> Image.Image:
    """All pages side by side, since a cell of a table shows one picture."""
    size = sum(page.width for page in pages), max(page.height for page in pages)
    sheet = Image.new("RGB", size, "white")
    left = 0
    for page in pages:
        sheet.paste(page, (left, 0))
        left += page.width
    return sheet
