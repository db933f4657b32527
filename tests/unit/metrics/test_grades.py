"""AgreementMetrics on real Grades: unread answers, ranks, and the same as reports measure."""

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torchmetrics import Metric

from aes.metrics.grades import AgreementMetrics, validation_names
from aes.metrics.measure import measure
from aes.records import Grade, Marked
from aes.rubric import Rubric

GIVEN = [(5, 2), (10, 4, 0.6), (19, 4), (9, 3, -0.3)]
GOLD = [(3, 1), (12, 4), (18, 5), (9, 2)]
UNREAD = Grade(id="u", parse_error="no JSON object", raw="...")

Make = Callable[..., Grade]


@pytest.fixture(scope="module")
def predicted(make_grade: Make) -> list[Grade]:
    return [make_grade(*given) for given in GIVEN]


def gold_scores() -> list[dict[str, int]]:
    return [{"content": content, "format": form} for content, form in GOLD]


def measured(grades: list[Grade], rubric: Rubric) -> dict[str, float]:
    metric = AgreementMetrics(rubric)
    metric.update(grades, gold_scores())
    return {name: float(value) for name, value in metric.compute().items()}


def kappa(pred: list[int], gold: list[int]) -> float:
    return float(cohen_kappa_score(pred, gold, labels=range(26), weights="quadratic"))


def test_values(predicted: list[Grade], exam: Rubric) -> None:
    metrics = measured(predicted, exam)
    assert metrics["qwk/content"] == pytest.approx(kappa([5, 10, 19, 9], [3, 12, 18, 9]), abs=1e-6)
    assert metrics["qwk/format"] == pytest.approx(kappa([2, 4, 4, 3], [1, 4, 5, 2]), abs=1e-6)
    # The awarded scores sum to 14, though the expected total of 14.6 rounds to 15.
    assert metrics["qwk/total"] == pytest.approx(kappa([7, 14, 23, 12], [4, 16, 23, 11]), abs=1e-6)
    assert metrics["mae/total"] == pytest.approx((3 + 1.4 + 0 + 0.7) / 4, abs=1e-6)
    assert metrics["mae/content"] == pytest.approx((2 + 1.4 + 1 + 0.3) / 4, abs=1e-6)
    assert metrics["parse_rate"] == 1.0


def test_training_logs_a_few_of_them(predicted: list[Grade], exam: Rubric) -> None:
    assert validation_names(measured(predicted, exam)) == [
        "qwk/total", "qwk/content", "qwk/format", "pearson/total", "spearman/total", "mae/total",
        "rmse/total", "parse_rate",
    ]  # fmt: skip


def test_an_unread_answer_counts_as_the_least_scores(
    predicted: list[Grade], make_grade: Make, exam: Rubric
) -> None:
    metrics = measured([*predicted[:2], UNREAD, predicted[3]], exam)
    as_minimum = measured([*predicted[:2], make_grade(0, 1), predicted[3]], exam)
    assert metrics["parse_rate"] == 0.75
    del metrics["parse_rate"], as_minimum["parse_rate"]
    assert metrics == as_minimum
    assert metrics["qwk/total"] < measured(predicted, exam)["qwk/total"]


def test_batches_add_up_and_ranks_meet(predicted: list[Grade], exam: Rubric) -> None:
    first, second = AgreementMetrics(exam), AgreementMetrics(exam)
    gold = gold_scores()
    first.update(predicted[:1], gold[:1])
    second.update(predicted[1:3], gold[1:3])
    second.update(predicted[3:], gold[3:])
    first.merge_state(second)
    assert {name: float(v) for name, v in first.compute().items()} == measured(predicted, exam)


def test_ranks_gather_one_flat_vector_even_from_a_rank_without_grades(
    predicted: list[Grade], exam: Rubric
) -> None:
    ranks = [AgreementMetrics(exam), AgreementMetrics(exam)]
    ranks[0].update(predicted, gold_scores())
    # What torchmetrics does between processes: each rank's rows as one vector, then all of them.
    gathered = [torch.cat([torch.empty(0), *rank.rows]) for rank in ranks]
    ranks[1].rows = [torch.cat(gathered)]
    ranks[1]._update_count = 1
    assert {n: float(v) for n, v in ranks[1].compute().items()} == measured(predicted, exam)


def test_reports_measure_the_same(mark: Callable[..., Marked], exam: Rubric) -> None:
    marked = [
        mark(f"e{i}", given, gold)
        for i, (given, gold) in enumerate(zip([*GIVEN[:3], None], GOLD, strict=True))
    ]
    grades = [each.grade for each in marked]
    report = measure(marked, rubric=exam, threshold=None, num_resamples=0, seed=0)
    metrics = measured(grades, exam)
    assert list(report.metrics) == list(metrics)
    assert report.metrics == pytest.approx(metrics, abs=1e-6, nan_ok=True)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_grades_everything_is_nan(exam: Rubric) -> None:
    metric: Metric = AgreementMetrics(exam)
    metric.update([], [])
    assert all(torch.isnan(value) for value in metric.compute().values())


def test_reset_forgets(predicted: list[Grade], exam: Rubric) -> None:
    metric = AgreementMetrics(exam)
    metric.update([UNREAD] * 4, gold_scores())
    metric.reset()
    metric.update(predicted, gold_scores())
    assert float(metric.compute()["parse_rate"]) == 1.0


def test_a_missing_gold_score_is_an_error(make_grade: Make, exam: Rubric) -> None:
    with pytest.raises(ValueError, match=r"essay e has no gold score for \['format'\]"):
        AgreementMetrics(exam).update([make_grade(1, 1)], [{"content": 1}])
