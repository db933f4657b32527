"""An Evaluation -> files that programs read: our metrics, and those of LLaMA-Factory's names.

``generated_predictions.jsonl``, ``predict_results.json`` and ``all_results.json`` have the keys
that its users' scripts look for, so that two tools can be compared line by line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from aes.files import write_atomically
from aes.metrics.results import Agreement, Evaluation, Interval


def write_metrics(evaluation: Evaluation, path: Path, *, prefix: str) -> None:
    """Every number by name, e.g. ``test/qwk/total``; its interval under ``.../low`` and ``/high``.

    What belongs to single essays is left to the files of predictions.

    Args:
        prefix: First part of each name.
    """
    write_atomically(path, _json(flat_metrics(evaluation, prefix=prefix)))


def flat_metrics(evaluation: Evaluation, *, prefix: str) -> dict[str, float | None]:
    """Every number of an evaluation by name; ``None`` where it is undefined."""
    found = _flat(evaluation.agreement, prefix) | {f"{prefix}/threshold": evaluation.threshold}
    for name, agreements in (
        ("length", evaluation.by_length),
        ("band", evaluation.by_band),
        ("operation", evaluation.by_group),
        ("calibrated", evaluation.calibrated),
        ("baseline", evaluation.baselines),
    ):
        for label, agreement in agreements.items():
            found |= _flat(agreement, f"{prefix}/{name}/{label}")
    found |= {f"{prefix}/{name}": value for name, value in evaluation.text.items()}
    for label, compared in evaluation.compared.items():
        # A job of a sweep has the folder above in its name.
        place = f"{prefix}/compare/{label.replace('/', '-')}"
        found |= _flat(compared.agreement, place)
        found |= _flat(compared.difference, f"{place}/difference")
    found |= _double(evaluation, prefix) | _robustness(evaluation, prefix)
    return {name: value if isfinite(value) else None for name, value in found.items()}


def write_reference_files(
    evaluation: Evaluation,
    folder: Path,
    *,
    prompts: Mapping[str, str],
    grading_s: float,
    preparation_s: float,
    batch_size: int,
) -> None:
    """The three files that LLaMA-Factory leaves behind, under its names and keys.

    Args:
        prompts: The prompt of each essay by its id.
        grading_s: Seconds of answering all essays.
        preparation_s: Seconds of loading the model.
        batch_size: Essays answered together, for steps a second.
    """
    lines = [
        {"prompt": prompts[one.id], "predict": one.grade.raw, "label": one.gold_text}
        for one in evaluation.marked
    ]
    write_references(
        lines,
        evaluation.text,
        folder,
        answering_s=grading_s,
        preparation_s=preparation_s,
        batch_size=batch_size,
    )


def write_references(
    lines: Sequence[Mapping[str, str]],
    metrics: Mapping[str, float],
    folder: Path,
    *,
    answering_s: float,
    preparation_s: float,
    batch_size: int,
) -> None:
    """The three files from what stands in them; see ``write_reference_files``.

    Args:
        lines: Prompt, answer and wanted answer of each sample.
        metrics: By the names that they have there.
        answering_s: Seconds of answering all samples.
    """
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # Half of a surrogate pair has no UTF-8, but its escape is valid JSON.
    written = content.encode("utf-8", "backslashreplace")
    write_atomically(folder / "generated_predictions.jsonl", written)
    num_steps = -(-len(lines) // batch_size)
    results: dict[str, float] = dict(metrics) | {
        "predict_model_preparation_time": round(preparation_s, 4),
        "predict_runtime": round(answering_s, 4),
        "predict_samples_per_second": round(len(lines) / answering_s, 3) if answering_s else 0.0,
        "predict_steps_per_second": round(num_steps / answering_s, 3) if answering_s else 0.0,
    }
    for name in ("predict_results.json", "all_results.json"):
        write_atomically(folder / name, _json(results))


def _flat(agreement: Agreement, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {
        f"{prefix}/num": agreement.num,
        f"{prefix}/num_sources": agreement.num_sources,
    }
    for name, value in agreement.metrics.items():
        found |= _with_interval(f"{prefix}/{name}", value, agreement.intervals.get(name))
    return found


def _with_interval(name: str, value: float, interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {name: value}
    return {name: value, f"{name}/low": interval.low, f"{name}/high": interval.high}


def _double(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    double = evaluation.double
    if double is None:
        return {}
    found = {f"{prefix}/double/{name}": value for name, value in double.agreement.items()}
    for name in ("num", "threshold", "arbitration_rate"):
        found[f"{prefix}/double/{name}"] = getattr(double, name)
    for name in ("first", "second", "mean", "mean_accepted"):
        found |= _flat(getattr(double, name), f"{prefix}/double/{name}")
    return found


def _robustness(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    result = evaluation.robustness
    if result is None:
        return {}
    found = {f"{prefix}/{name}": getattr(result, name) for name in ("gain_points", "num_essays")}
    for kind, rung in result.ladder.items():
        place = f"{prefix}/ladder/{kind}"
        found[f"{place}/num_pairs"] = rung.num_pairs
        found |= _with_interval(f"{place}/share_in_order", rung.share_in_order, rung.interval)
        found |= _with_interval(f"{place}/mean_drop", rung.mean_drop, rung.drop_interval)
    for attack in result.attacks:
        place = f"{prefix}/attack/{attack.name}"
        for name in ("num", "num_with_room", "worst_change"):
            found[f"{place}/{name}"] = getattr(attack, name)
        found |= _with_interval(f"{place}/mean_change", attack.mean_change, attack.interval)
        rate = attack.success_rate
        found |= _with_interval(f"{place}/success_rate", rate, attack.success_interval)
    found |= {f"{prefix}/skipped/{reason}": num for reason, num in result.skipped.items()}
    return found | {f"{prefix}/drift/{k}": v for k, v in result.honest_drift.items()}


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
