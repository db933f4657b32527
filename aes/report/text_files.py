"""An AnswersEvaluation -> files that programs read: our metrics, and LLaMA-Factory's names.

See ``aes.report.evaluation_files``, which does the same for graded essays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from aes.files import write_atomically
from aes.metrics.answers import AnswersEvaluation, AnswersResult
from aes.metrics.results import Interval
from aes.report.evaluation_files import write_references


def write_answer_metrics(evaluation: AnswersEvaluation, path: Path, *, prefix: str) -> None:
    """Every number by name, e.g. ``test/f1``; its interval under ``.../low`` and ``.../high``.

    Those of the base stand under ``<prefix>/baseline/no_adapter`` and those of other runs under
    ``<prefix>/compare/<run>``, as for essays.

    Args:
        prefix: First part of each name.
    """
    found = flat_answer_metrics(evaluation, prefix=prefix)
    write_atomically(path, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())


def flat_answer_metrics(evaluation: AnswersEvaluation, *, prefix: str) -> dict[str, float | None]:
    """Every number of an evaluation by name; ``None`` where it is undefined."""
    found: dict[str, float] = {}
    for name, result in evaluation.models.items():
        # A job of a sweep has the folder above in its name.
        other = f"{prefix}/compare/{name.replace('/', '-')}"
        place = {"trained": prefix, "base": f"{prefix}/baseline/no_adapter"}.get(name, other)
        found |= {f"{place}/{key}": value for key, value in _flat(result).items()}
    return {name: value if isfinite(value) else None for name, value in found.items()}


def write_answer_references(
    evaluation: AnswersEvaluation, folder: Path, *, prompts: Mapping[str, str], batch_size: int
) -> None:
    """The three files that LLaMA-Factory leaves behind, of what was trained.

    Args:
        prompts: The prompt of each sample by its id.
        batch_size: Samples answered together, for steps a second.
    """
    result = evaluation.trained
    lines = [
        {"prompt": prompts[one.id], "predict": one.text, "label": one.gold}
        for one in result.answered
    ]
    metrics = _text(result)
    if result.labels is not None:
        metrics["predict_accuracy"] = result.labels.metrics["accuracy"]
    write_references(
        lines,
        metrics,
        folder,
        answering_s=result.answering_s,
        preparation_s=result.preparation_s if isfinite(result.preparation_s) else 0.0,
        batch_size=batch_size,
    )


def _flat(result: AnswersResult) -> dict[str, float]:
    found: dict[str, float] = {"num": len(result.answered)}
    found |= _with_intervals(
        _text(result), {f"predict_{name}": ends for name, ends in result.text_intervals.items()}
    )
    if result.labels is not None:
        found |= _with_intervals(result.labels.metrics, result.labels.intervals)
    return found | {"answering_s": result.answering_s, "samples_per_s": result.samples_per_s}


def _text(result: AnswersResult) -> dict[str, float]:
    return {f"predict_{name}": value for name, value in result.text.items()}


def _with_intervals(
    metrics: Mapping[str, float], intervals: Mapping[str, Interval]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in metrics.items():
        found[name] = value
        if name in intervals:
            found[f"{name}/low"], found[f"{name}/high"] = intervals[name].low, intervals[name].high
    return found
