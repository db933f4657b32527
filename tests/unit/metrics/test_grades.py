"""AgreementMetrics on real Grades: names, unread answers, ranks."""

import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torchmetrics import Metric

from aes.metrics.grades import AgreementMetrics
from aes.records import Grade

RANGES = {"content": (0, 20), "format": (1, 5)}
GOLD = [
    {"content": 3, "format": 1},
    {"content": 12, "format": 4},
    {"content": 18, "format": 5},
    {"content": 9, "format": 2},
]


def grade(content: int, form: int, nudge: float = 0.0) -> Grade:
    scores = {"content": content, "format": form}
    total = float(content + form)
    return Grade(id="e", scores=scores, total=total, expected_total=total + nudge)


UNREAD = Grade(id="u", parse_error="no JSON object", raw="...")
PREDICTED = [grade(5, 2), grade(10, 4, 0.6), grade(19, 4), grade(9, 3, -0.3)]


def measured(grades: list[Grade]) -> dict[str, float]:
    metric = AgreementMetrics(RANGES)
    metric.update(grades, GOLD)
    return {name: float(value) for name, value in metric.compute().items()}


def kappa(pred: list[int], gold: list[int]) -> float:
    return float(cohen_kappa_score(pred, gold, labels=range(26), weights="quadratic"))


def test_names_and_values() -> None:
    metrics = measured(PREDICTED)
    assert list(metrics) == [
        "qwk/total", "qwk/content", "qwk/format", "mae/total", "pearson/total", "parse_rate",
    ]  # fmt: skip
    assert metrics["qwk/content"] == pytest.approx(kappa([5, 10, 19, 9], [3, 12, 18, 9]), abs=1e-6)
    assert metrics["qwk/format"] == pytest.approx(kappa([2, 4, 4, 3], [1, 4, 5, 2]), abs=1e-6)
    # 14.6 rounds to 15 and 11.7 to 12, though their scores sum to 14 and 12.
    assert metrics["qwk/total"] == pytest.approx(kappa([7, 15, 23, 12], [4, 16, 23, 11]), abs=1e-6)
    assert metrics["mae/total"] == pytest.approx((3 + 1.4 + 0 + 0.7) / 4, abs=1e-6)
    assert metrics["parse_rate"] == 1.0


def test_an_unread_answer_counts_as_the_least_scores() -> None:
    metrics = measured([*PREDICTED[:2], UNREAD, PREDICTED[3]])
    as_minimum = measured([*PREDICTED[:2], grade(0, 1), PREDICTED[3]])
    assert metrics["parse_rate"] == 0.75
    del metrics["parse_rate"], as_minimum["parse_rate"]
    assert metrics == as_minimum
    assert metrics["qwk/total"] < measured(PREDICTED)["qwk/total"]


def test_batches_add_up_and_ranks_meet() -> None:
    whole = measured(PREDICTED)
    first, second = AgreementMetrics(RANGES), AgreementMetrics(RANGES)
    first.update(PREDICTED[:1], GOLD[:1])
    second.update(PREDICTED[1:3], GOLD[1:3])
    second.update(PREDICTED[3:], GOLD[3:])
    first.merge_state(second)
    assert {name: float(v) for name, v in first.compute().items()} == whole


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_grades_everything_is_nan() -> None:
    metric: Metric = AgreementMetrics(RANGES)
    metric.update([], [])
    assert all(torch.isnan(value) for value in metric.compute().values())


def test_reset_forgets() -> None:
    metric = AgreementMetrics(RANGES)
    metric.update([UNREAD] * 4, GOLD)
    metric.reset()
    metric.update(PREDICTED, GOLD)
    assert float(metric.compute()["parse_rate"]) == 1.0


def test_a_missing_gold_score_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"essay e has no gold score for \['format'\]"):
        AgreementMetrics(RANGES).update([grade(1, 1)], [{"content": 1}])
