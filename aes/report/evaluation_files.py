"""An Evaluation -> files that programs read: our metrics, and those of LLaMA-Factory's names.

``generated_predictions.jsonl``, ``predict_results.json`` and ``all_results.json`` have the keys
that its users' scripts look for, so that two tools can be compared line by line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from aes.files import write_atomically
from aes.metrics.results import Agreement, Evaluation


def write_metrics(evaluation: Evaluation, path: Path, *, prefix: str) -> None:
    """Every number by name, e.g. ``test/qwk/total``; its interval under ``.../low`` and ``/high``.

    Args:
        prefix: First part of each name.
    """
    write_atomically(path, _json(flat_metrics(evaluation, prefix=prefix)))


def flat_metrics(evaluation: Evaluation, *, prefix: str) -> dict[str, float | None]:
    """Every number of an evaluation by name; ``None`` where it is undefined."""
    found = _flat(evaluation.agreement, prefix)
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
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(folder / "generated_predictions.jsonl", content.encode())
    num_steps = -(-len(lines) // batch_size)
    results: dict[str, float] = dict(evaluation.text) | {
        "predict_model_preparation_time": round(preparation_s, 4),
        "predict_runtime": round(grading_s, 4),
        "predict_samples_per_second": round(len(lines) / grading_s, 3) if grading_s else 0.0,
        "predict_steps_per_second": round(num_steps / grading_s, 3) if grading_s else 0.0,
    }
    for name in ("predict_results.json", "all_results.json"):
        write_atomically(folder / name, _json(results))


def _flat(agreement: Agreement, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {f"{prefix}/num": agreement.num}
    for name, value in agreement.metrics.items():
        found[f"{prefix}/{name}"] = value
        if name in agreement.intervals:
            found[f"{prefix}/{name}/low"] = agreement.intervals[name].low
            found[f"{prefix}/{name}/high"] = agreement.intervals[name].high
    return found


def _double(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    double = evaluation.double
    if double is None:
        return {}
    found = {f"{prefix}/double/{name}": value for name, value in double.agreement.items()}
    found[f"{prefix}/double/arbitration_rate"] = double.arbitration_rate
    for name in ("first", "second", "mean", "mean_accepted"):
        found |= _flat(getattr(double, name), f"{prefix}/double/{name}")
    return found


def _robustness(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    result = evaluation.robustness
    if result is None:
        return {}
    found: dict[str, float] = {}
    for kind, rung in result.ladder.items():
        place = f"{prefix}/ladder/{kind}"
        found |= {
            f"{place}/share_in_order": rung.share_in_order,
            f"{place}/mean_drop": rung.mean_drop,
            f"{place}/num_pairs": rung.num_pairs,
        }
    for attack in result.attacks:
        place = f"{prefix}/attack/{attack.name}"
        found |= {
            f"{place}/mean_change": attack.mean_change,
            f"{place}/success_rate": attack.success_rate,
            f"{place}/num": attack.num,
        }
    return found | {f"{prefix}/drift/{k}": v for k, v in result.honest_drift.items()}


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
