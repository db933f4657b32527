"""Two markers: who goes to a third, and what the mean of both gains."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from aes.metrics.double import double_marking
from aes.metrics.measure import measure
from aes.metrics.results import DoubleMarking
from aes.records import Marked
from aes.rubric import Rubric

Mark = Callable[..., Marked]


def compared(
    first: list[Marked], second: list[Marked], rubric: Rubric, threshold: float = 3
) -> DoubleMarking:
    return double_marking(
        first,
        second,
        names=("one", "two"),
        rubric=rubric,
        threshold=threshold,
        num_resamples=20,
        seed=0,
    )


def test_by_hand(mark: Mark, exam: Rubric) -> None:
    # Totals 8 and 11: equal to the threshold; 19 and 11: beyond it; 12 and 12.4.
    golds = {"a": (7, 2), "b": (10, 4), "c": (8, 4)}
    first = [mark("a", (6, 2), golds["a"]), mark("b", (16, 3), golds["b"])]
    first.append(mark("c", (9, 3), golds["c"]))
    second = [mark("c", (9, 3, 0.4), golds["c"]), mark("b", (6, 5), golds["b"])]
    second.append(mark("a", (9, 2), golds["a"]))
    double = compared(first, second, exam)
    assert (double.num, double.names, double.threshold) == (3, ("one", "two"), 3)
    assert double.arbitration_rate == pytest.approx(1 / 3)
    assert double.agreement["within_threshold/total"] == pytest.approx(2 / 3)
    assert double.agreement["mean_shift/total"] == pytest.approx((3 - 8 + 0.4) / 3)
    # Means are 9.5, 15 and 12.2; gold is 9, 14 and 12.
    assert double.mean.metrics["mae/total"] == pytest.approx((0.5 + 1 + 0.2) / 3)
    # Content means are 7.5, 11 and 9, of which the half goes to 8; whole totals are 10, 15, 12.
    assert double.mean.metrics["exact/content"] == 0.0
    assert double.mean.metrics["adjacent/content"] == 1.0
    assert double.mean.metrics["exact/total"] == pytest.approx(1 / 3)
    assert double.mean_accepted.num == 2
    assert double.mean_accepted.metrics["mae/total"] == pytest.approx((0.5 + 0.2) / 2)


def test_each_marker_is_measured_on_the_essays_of_both(mark: Mark, exam: Rubric) -> None:
    rng = np.random.default_rng(0)
    golds = [(int(rng.integers(4, 17)), int(rng.integers(1, 6))) for _ in range(40)]

    def marker(noise: float) -> list[Marked]:
        return [
            mark(f"e{i}", (int(np.clip(round(c + rng.normal(0, noise)), 0, 20)), f), (c, f))
            for i, (c, f) in enumerate(golds)
        ]

    first, second = marker(3), marker(3)
    double = compared(first[:30], second[5:], exam)
    options = {"rubric": exam, "threshold": 3, "num_resamples": 20, "seed": 0}
    assert double.num == 25
    assert double.first == measure(first[5:30], **options)  # type: ignore[arg-type]
    assert double.second == measure(second[5:30], **options)  # type: ignore[arg-type]
    # Independent errors cancel, in part.
    assert double.mean.metrics["rmse/total"] < double.first.metrics["rmse/total"]
    assert double.mean.metrics["rmse/total"] < double.second.metrics["rmse/total"]
    assert double.mean_accepted.num == round(25 * (1 - double.arbitration_rate))


def test_an_unread_answer_goes_to_arbitration(mark: Mark, exam: Rubric) -> None:
    first = [mark("a", None, (9, 4)), mark("b", (9, 4), (9, 4))]
    second = [mark("a", (9, 4), (9, 4)), mark("b", (9, 4), (9, 4))]
    double = compared(first, second, exam)
    assert double.arbitration_rate == 0.5
    assert double.mean.metrics["parse_rate"] == 0.5
    assert double.mean_accepted.metrics["exact/total"] == 1.0


def test_markers_that_read_nothing_agree_on_nothing(mark: Mark, exam: Rubric) -> None:
    # The least scores are what unread answers count as; here they are also what others gave.
    first = [mark("a", None, (9, 4)), mark("b", None, (0, 1)), mark("c", (9, 4), (9, 4))]
    second = [mark("a", None, (9, 4)), mark("b", (0, 1), (0, 1)), mark("c", (9, 4), (9, 4))]
    for double in (compared(first, second, exam), compared(second, first, exam)):
        assert double.arbitration_rate == pytest.approx(2 / 3)
        assert double.mean_accepted.num == 1
    nobody = compared(first[:1], second[:1], exam)
    assert (nobody.arbitration_rate, nobody.mean_accepted.num) == (1, 0)


def test_markers_without_common_ground_are_refused(mark: Mark, exam: Rubric) -> None:
    one, other = mark("a", (9, 4), (9, 4)), mark("b", (9, 4), (9, 4))
    with pytest.raises(ValueError, match="one and two graded no essay in common"):
        compared([one], [other], exam)
    with pytest.raises(ValueError, match="essay a has other gold scores in one than in two"):
        compared([one], [replace(one, gold={"content": 1, "format": 1})], exam)
