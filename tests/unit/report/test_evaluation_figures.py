"""Figures and the numbers behind them, and the words of the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest

import aes.report
from aes.metrics.results import Evaluation
from aes.report.evaluation_drawing import to_png, to_svg
from aes.report.evaluation_plots import (
    count_bands,
    draw_evaluation,
    draw_figures,
    uncertainty_rank,
)
from aes.report.evaluation_points import (
    Points,
    bins_of,
    changed_totals,
    collect_points,
    feedback_of,
    shown_calibrations,
)
from aes.report.evaluation_words import words
from aes.rubric import Rubric

NAMES = ["scatter", "distribution", "confusion", "calibration", "residuals", "uncertainty"]


@pytest.fixture(scope="module")
def rubric(make_rubric: Callable[[str], Rubric]) -> Rubric:
    return make_rubric("five_by_twenty")


@pytest.fixture(scope="module")
def points(make_evaluation: Callable[..., Evaluation], rubric: Rubric) -> Points:
    return collect_points(make_evaluation(50, rubric).marked, rubric)


def test_points_count_the_unread_at_the_least_total(points: Points) -> None:
    assert (~points.read).sum() == 2
    assert (points.pred[~points.read] == 0).all()
    assert (points.graded == points.read).all()


def test_all_figures_are_drawn_and_the_same_data_make_the_same_file(
    points: Points, rubric: Rubric
) -> None:
    drawings = draw_figures(points, rubric)
    assert [drawing.name for drawing in drawings] == NAMES
    for drawing in drawings:
        assert drawing.figure is not None
        assert to_png(drawing.figure).startswith(b"\x89PNG")
    once, again = (to_svg(draw_figures(points, rubric)[0].figure) for _ in range(2))
    assert once == again


def test_what_is_not_known_is_not_drawn(points: Points, rubric: Rubric) -> None:
    bare = replace(
        points,
        num_chars=np.zeros_like(points.num_chars),
        uncertainty=np.full_like(points.uncertainty, nan),
    )
    missing = {d.name: d.alt for d in draw_figures(bare, rubric) if d.figure is None}
    assert missing == {
        "residuals": "画不出这张图：字数未知。",
        "uncertainty": "画不出这张图：模型没有给出不确定度。",
    }


def test_labels_with_dollar_signs_are_no_formulas(points: Points, rubric: Rubric) -> None:
    odd = replace(rubric, bands=tuple(replace(b, label=f"$\\{b.label}$") for b in rubric.bands))
    confusion = draw_figures(points, odd)[2]
    assert to_svg(confusion.figure)


def test_bands_of_rounded_totals(rubric: Rubric) -> None:
    counts = count_bands(np.array([80.0, 79, 0, 54]), np.array([79.6, 79.4, 0, 55]), rubric)
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[1, 1] = expected[3, 3] = expected[2, 1] = 1
    assert (counts == expected).all()


def test_uncertainty_that_orders_errors_is_seen(points: Points) -> None:
    knowing = replace(points, uncertainty=np.abs(points.error) ** 2)
    value, interval, num = uncertainty_rank(knowing)
    assert value == pytest.approx(1)
    assert num == 48
    value, interval, _ = uncertainty_rank(points)
    assert -1 <= interval.low < value < interval.high <= 1


def test_bins_hold_everything_once() -> None:
    bins = bins_of(np.array([5.0, 1, 4, 2, 3]), 2)
    assert [sorted(b) for b in bins] == [[1, 3, 4], [0, 2]]
    assert len(bins_of(np.array([1.0]), 10)) == 1


def test_feedback_is_read_from_json_only() -> None:
    assert feedback_of('{"scores": {}, "feedback": "好"}') == "好"
    assert feedback_of('{"scores": {}}') == ""
    for answer in ("好", "[1]", '{"feedback": 3}', ""):
        assert feedback_of(answer) is None


def test_every_word_that_is_asked_for_exists() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(aes.report.__path__[0]).glob("eval*.py")
    )
    asked = set(re.findall(r'say\(\s*"([^"]+)"', source))
    assert len(asked) > 60
    assert asked <= words().keys()


def test_calibrated_curves_are_drawn_where_they_changed_totals(
    make_evaluation: Callable[..., Evaluation], points: Points, rubric: Rubric
) -> None:
    evaluation = make_evaluation(50, rubric)
    assert list(changed_totals(evaluation, rubric)) == ["linear"]
    assert list(shown_calibrations(evaluation, rubric)) == ["linear"]
    (drawn,) = [d for d in draw_evaluation(evaluation, rubric) if d.name == "calibration"]
    curves = {line.get_label(): line for line in drawn.figure.axes[0].lines}
    line = curves["线性校准之后 calibrated"]
    assert (line.get_color(), line.get_linestyle()) not in {
        (other.get_color(), other.get_linestyle()) for other in curves.values() if other is not line
    }
    assert not [label for label in curves if label.startswith("保序校准")]
    assert "其他各折" in drawn.caption
    (bare,) = [d for d in draw_figures(points, rubric) if d.name == "calibration"]
    assert "只有原始评分" in bare.caption


def test_a_calibrated_curve_shows_its_own_totals(points: Points, rubric: Rubric) -> None:
    perfect = np.where(points.read, points.gold, nan)
    drawing = draw_figures(points, rubric, calibrated={"isotonic": perfect}, fitted_on="x")[3]
    (line,) = [x for x in drawing.figure.axes[0].lines if "保序" in str(x.get_label())]
    assert line.get_xdata() == pytest.approx(line.get_ydata())


def test_copies_widen_the_intervals_of_the_calibration_curve(
    points: Points, rubric: Rubric
) -> None:
    def length(sources: tuple[str, ...]) -> float:
        drawing = draw_figures(replace(points, sources=sources), rubric)[3]
        segments = drawing.figure.axes[0].collections[0].get_segments()
        return float(sum(np.ptp(segment[:, 1]) for segment in segments if len(segment)))

    alone = tuple(str(i) for i in range(50))
    copies = tuple(str(i % 3) for i in range(50))
    assert length(copies) > 1.2 * length(alone)
