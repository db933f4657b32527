"""The files that programs read: names, nulls, and the keys of LLaMA-Factory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import count
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from aes.metrics.results import Evaluation
from aes.report.evaluation_files import flat_metrics, write_metrics, write_reference_files
from aes.rubric import Rubric


@pytest.fixture(scope="module")
def evaluation(
    make_evaluation: Callable[..., Evaluation], make_rubric: Callable[[str], Rubric]
) -> Evaluation:
    return make_evaluation(40, make_rubric("five_by_twenty"))


def test_every_number_has_a_name_of_its_own(evaluation: Evaluation) -> None:
    found = flat_metrics(evaluation, prefix="test")
    agreement, ridge = evaluation.agreement, evaluation.baselines["length_ridge"]
    assert found["test/qwk/total"] == agreement.metrics["qwk/total"]
    assert found["test/qwk/total/low"] == agreement.intervals["qwk/total"].low
    assert found["test/mae/content"] == agreement.metrics["mae/content"]
    assert found["test/num"] == 40
    assert found["test/baseline/length_ridge/mae/total"] == ridge.metrics["mae/total"]
    assert found["test/calibrated/linear/qwk/total/high"] == (
        evaluation.calibrated["linear"].intervals["qwk/total"].high
    )
    assert found["test/band/四等/num"] == evaluation.by_band["四等"].num
    assert found["test/predict_bleu-4"] == 41.23
    assert found["test/double/arbitration_rate"] == 0.173
    assert found["test/ladder/all/share_in_order"] == 0.871
    assert found["test/attack/order/page/success_rate"] == 0.34
    assert found["test/drift/type size"] == 0.88


def numbered(value: Any, numbers: Iterator[int]) -> Any:
    """The same with a number of its own for each number that it holds, however deep."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return next(numbers)
    if isinstance(value, Mapping):
        return {key: numbered(inner, numbers) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return tuple(numbered(inner, numbers) for inner in value)
    assert is_dataclass(value)
    inner = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(
        value,  # type: ignore[type-var]
        **{name: numbered(held, numbers) for name, held in inner.items()},
    )


def test_no_field_that_holds_a_number_is_forgotten(evaluation: Evaluation) -> None:
    numbers = count()
    # What belongs to single essays stands in the files of predictions.
    whole = replace(evaluation, marked=(), calibrated_totals={})
    found = flat_metrics(numbered(whole, numbers), prefix="test")
    assert sorted(found.values()) == list(range(next(numbers)))  # type: ignore[type-var]


def test_what_is_undefined_is_null(evaluation: Evaluation, tmp_path: Path) -> None:
    agreement = evaluation.agreement
    metrics = dict(agreement.metrics) | {"pearson/total": nan}
    odd = replace(evaluation, agreement=replace(agreement, metrics=metrics))
    write_metrics(odd, tmp_path / "metrics.json", prefix="val")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=refuse)
    assert read == flat_metrics(odd, prefix="val")
    assert read["val/pearson/total"] is None
    assert read["val/attack/padding/mean_change"] is None
    assert isnan(evaluation.baselines["mean"].metrics["pearson/total"])
    assert read["val/baseline/mean/pearson/total"] is None
    assert all(value is None or isinstance(value, int | float) for value in read.values())


def write_reference(evaluation: Evaluation, folder: Path, grading_s: float) -> None:
    write_reference_files(
        evaluation,
        folder,
        prompts={m.id: f"评分：{m.id}" for m in evaluation.marked},
        grading_s=grading_s,
        preparation_s=1.23456,
        batch_size=16,
    )


def test_the_reference_files_have_its_keys(evaluation: Evaluation, tmp_path: Path) -> None:
    write_reference(evaluation, tmp_path, 8.0)
    text = (tmp_path / "generated_predictions.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    first = evaluation.marked[0]
    assert lines[0] == {
        "prompt": f"评分：{first.id}",
        "predict": first.grade.raw,
        "label": first.gold_text,
    }
    assert len(lines) == 40
    assert "\\u" not in text
    results = json.loads((tmp_path / "predict_results.json").read_text(encoding="utf-8"))
    assert results == dict(evaluation.text) | {
        "predict_model_preparation_time": 1.2346,
        "predict_runtime": 8.0,
        "predict_samples_per_second": 5.0,
        # 40 essays in batches of 16 are 3 steps.
        "predict_steps_per_second": 0.375,
    }
    assert (tmp_path / "all_results.json").read_bytes() == (
        tmp_path / "predict_results.json"
    ).read_bytes()


def test_nothing_graded_anew_takes_no_time(evaluation: Evaluation, tmp_path: Path) -> None:
    write_reference(evaluation, tmp_path, 0.0)
    results = json.loads((tmp_path / "all_results.json").read_text(encoding="utf-8"))
    assert results["predict_samples_per_second"] == 0.0
