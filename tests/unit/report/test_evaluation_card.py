"""The lines that evaluate.py closes with, on terminals of two widths."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from rich.console import Console

from aes.metrics.results import Agreement, Evaluation
from aes.report.evaluation_card import print_evaluation
from aes.rubric import Rubric

REPORT = Path("/somewhere/with a rather long name/outputs/2026-01-02/03-04-05/evaluation/test")


@pytest.fixture(scope="module")
def rubric(make_rubric: Callable[[str], Rubric]) -> Rubric:
    return make_rubric("five_by_twenty")


@pytest.fixture(scope="module")
def evaluation(make_evaluation: Callable[..., Evaluation], rubric: Rubric) -> Evaluation:
    return make_evaluation(40, rubric)


def printed(evaluation: Evaluation, rubric: Rubric, width: int = 80) -> list[str]:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, color_system=None)
    print_evaluation(console, evaluation, rubric, REPORT)
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_and_the_path_stays_whole(
    evaluation: Evaluation, rubric: Rubric, width: int
) -> None:
    lines = printed(evaluation, rubric, width)
    assert f"report   {REPORT}" in lines
    assert all(len(line) <= width for line in lines if str(REPORT) not in line)
    assert "…" not in "\n".join(lines)
    said = " ".join(" ".join(lines).split())
    assert "SAMPLE" in said
    assert "out-of-fold predictions of the other four folds" in said
    assert "17.3% of 40 essays to a third marker" in said


def test_a_row_a_grader_with_its_numbers(evaluation: Evaluation, rubric: Rubric) -> None:
    lines = printed(evaluation, rubric)
    (ridge,) = [line for line in lines if line.startswith("ridge on length")]
    baseline = evaluation.baselines["length_ridge"]
    ends = baseline.intervals["qwk/total"]
    assert f"{baseline.metrics['qwk/total']:.3f}" in ridge
    assert f"[{ends.low:.2f}, {ends.high:.2f}]" in ridge
    assert ridge.endswith(f"{baseline.metrics['smd/total']:+.3f}")
    for start in ("this run", "without adapter", "predict the mean", *rubric.traits):
        assert sum(line.startswith(start) for line in lines) == 1


def test_a_calibration_that_changed_nothing_has_no_row(
    evaluation: Evaluation, rubric: Rubric
) -> None:
    said = "\n".join(printed(evaluation, rubric))
    assert "calibrated, linear" in said
    assert "calibrated, isotonic" not in said
    totals = {"linear": evaluation.calibrated_totals["isotonic"]}
    unchanged = replace(
        evaluation,
        calibrated={"linear": evaluation.calibrated["linear"]},
        calibrated_totals=totals,
    )
    said = "\n".join(printed(unchanged, rubric))
    assert "calibrated, linear" not in said
    assert "calibration changes no total: " in said


def test_limits_are_named_by_how_they_were_met(evaluation: Evaluation, rubric: Rubric) -> None:
    good = {"qwk": 0.8, "pearson": 0.9, "band_exact": 0.4, "band_adjacent": nan, "smd": -0.1}
    metrics = {f"{name}/total": value for name, value in good.items()} | {"parse_rate": 1.0}
    agreement = Agreement(num=9, num_sources=9, metrics=metrics)
    bare = Evaluation(facts={}, marked=evaluation.marked, agreement=agreement)
    lines = printed(bare, rubric, 120)
    assert (
        "ETS limits met: qwk, pearson, smd; not proven: band_adjacent; missed: band_exact" in lines
    )
    assert "SAMPLE" not in "\n".join(lines)
    (own,) = [line for line in lines if line.startswith("this run")]
    assert own.split() == ["this", "run", "0.800", "0.900", "-", "-", "-0.100"]


def test_attacks_are_told_by_kind_and_undefined_ones_are_not(
    evaluation: Evaluation, rubric: Rubric
) -> None:
    (line,) = [line for line in printed(evaluation, rubric, 120) if "succeed most" in line]
    told = "off_topic 62% of 44, order/page 34% of 44, order/text 2% of 44"
    assert line == f"  attacks that succeed most: {told}"


@pytest.mark.parametrize("split", ["train", "all"])
def test_essays_that_were_trained_on_are_told_of(
    evaluation: Evaluation, rubric: Rubric, split: str
) -> None:
    facts = {"split": split, "left out": "3 samples over data.max_tokens=9"}
    said = " ".join(printed(replace(evaluation, facts=facts), rubric))
    assert f"split={split}: " in said
    assert "left out of every number: 3 samples" in said
    assert "trained on" not in " ".join(printed(evaluation, rubric))
