"""All metrics of an evaluation, against hand-worked cases, scikit-learn and scipy."""

from collections.abc import Callable
from math import isnan

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from aes.metrics.measure import measure, measure_values
from aes.metrics.results import Agreement
from aes.records import Grade, Marked
from aes.rubric import Rubric

RNG = np.random.default_rng(1)
BY_PART = (
    "qwk", "continuous_qwk", "pearson", "spearman", "mae", "rmse", "mean_shift", "smd", "sd_ratio",
    "exact", "adjacent",
)  # fmt: skip
OF_TOTAL = ("within_threshold", "band_qwk", "band_exact", "band_adjacent")


@pytest.fixture(scope="module")
def marked(mark: Callable[..., Marked]) -> list[Marked]:
    essays = []
    for i in range(60):
        gold = int(RNG.integers(2, 19)), int(RNG.integers(1, 6))
        given = gold[0] + int(RNG.integers(-2, 3)), int(RNG.integers(1, 6)), RNG.uniform(-0.4, 0.4)
        essays.append(mark(f"e{i}", given, gold, source=f"e{i // 2}"))
    return essays


def measured(marked: list[Marked], rubric: Rubric, num_resamples: int = 0) -> Agreement:
    return measure(marked, rubric=rubric, threshold=3, num_resamples=num_resamples, seed=0)


def test_names(marked: list[Marked], exam: Rubric) -> None:
    names = [f"{name}/{part}" for name in BY_PART for part in ("total", "content", "format")]
    names += [f"{name}/total" for name in OF_TOTAL]
    agreement = measured(marked, exam, num_resamples=20)
    assert set(agreement.metrics) == set(agreement.intervals) == {*names, "parse_rate"}
    assert (agreement.num, agreement.num_sources) == (60, 30)
    without = measure(marked, rubric=exam, threshold=None, num_resamples=0, seed=0)
    assert set(agreement.metrics) - set(without.metrics) == {"within_threshold/total"}
    assert without.intervals == {}


def test_correlations_are_of_expected_scores(marked: list[Marked], exam: Rubric) -> None:
    metrics = measured(marked, exam).metrics
    for trait in ("content", "format"):
        pred = [each.grade.expected[trait] for each in marked]
        gold = [each.gold[trait] for each in marked]
        assert metrics[f"pearson/{trait}"] == pytest.approx(stats.pearsonr(pred, gold)[0], abs=1e-6)
        spearman = stats.spearmanr(pred, gold)[0]
        assert metrics[f"spearman/{trait}"] == pytest.approx(spearman, abs=1e-6)
        kappa = cohen_kappa_score(
            [each.grade.scores[trait] for each in marked],
            gold,
            labels=range(21),
            weights="quadratic",
        )
        assert metrics[f"qwk/{trait}"] == pytest.approx(kappa, abs=1e-6)


def test_bands_compare_classes_of_totals(mark: Callable[..., Marked], exam: Rubric) -> None:
    # Bands begin at 20, 15, 9 and 0; totals 20, 14, 9 and 25 lie in 一等, 三等, 三等, 一等, though
    # the first two are expected to be 19.4 and 14.6.
    marked = [
        mark("a", (15, 5, -0.6), (16, 5)),
        mark("b", (11, 3, 0.6), (11, 4)),
        mark("c", (6, 3), (6, 2)),
        mark("d", (20, 5), (7, 3)),
    ]
    metrics = measured(marked, exam).metrics
    kappa = cohen_kappa_score([3, 1, 1, 3], [3, 2, 0, 1], labels=range(4), weights="quadratic")
    assert metrics["band_qwk/total"] == pytest.approx(kappa, abs=1e-6)
    assert metrics["band_exact/total"] == 0.25
    assert metrics["band_adjacent/total"] == 0.75
    assert metrics["exact/total"] == 0.0
    assert metrics["adjacent/total"] == 0.75
    assert metrics["within_threshold/total"] == 0.75


def test_one_trait_is_measured_like_the_total(marked: list[Marked], exam: Rubric) -> None:
    from dataclasses import replace

    alone = Rubric(
        title="one",
        traits={"content": exam.traits["content"]},
        bands=exam.bands,
        deductions=None,
    )
    holistic = [
        replace(
            each,
            gold={"content": each.gold["content"]},
            grade=replace(
                each.grade,
                subtotal=each.grade.scores["content"],
                expected_subtotal=each.grade.expected["content"],
            ),
        )
        for each in marked
    ]
    metrics = measured(holistic, alone).metrics
    for name in BY_PART:
        assert metrics[f"{name}/content"] == metrics[f"{name}/total"]


def test_whole_totals_are_those_that_were_awarded(exam: Rubric) -> None:
    # Distributions with a mode away from the mean: two decodings award other scores for them.
    distributions = [(8, 9.4, 2, 2.4), (12, 11.3, 4, 3.3), (15, 14.4, 5, 4.4), (5, 6.6, 1, 1.6)]
    found = {}
    for decoding, pick in (("greedy", 0), ("expected", 1)):
        marked = []
        for i, (*content, form, mean_form) in enumerate(distributions):
            scores = {"content": round(content[pick]), "format": round((form, mean_form)[pick])}
            grade = Grade(
                id=f"e{i}",
                scores=scores,
                expected={"content": content[1], "format": mean_form},
                subtotal=sum(scores.values()),
                expected_subtotal=content[1] + mean_form,
            )
            gold = {"content": int(content[0]), "format": form}
            marked.append(
                Marked(
                    id=f"e{i}",
                    grade=grade,
                    gold=gold,
                    source=f"e{i}",
                    group="",
                    num_chars=0,
                    gold_text="",
                )
            )
        found[decoding] = measure(marked, rubric=exam, threshold=1, num_resamples=0, seed=0).metrics
    greedy, expected = found["greedy"], found["expected"]
    assert greedy["qwk/total"] == greedy["exact/total"] == greedy["band_exact/total"] == 1
    # 9 + 2, 11 + 3, 14 + 4 and 7 + 2 for 10, 16, 20 and 6.
    assert expected["exact/total"] == 0
    assert expected["adjacent/total"] == expected["within_threshold/total"] == 0.25
    assert expected["band_exact/total"] == 0.25
    for name in ("mae/total", "rmse/total", "pearson/total", "smd/total", "continuous_qwk/total"):
        assert greedy[name] == expected[name]


def test_totals_alone_are_measured_alike(marked: list[Marked], exam: Rubric) -> None:
    whole = measured(marked, exam, num_resamples=50)
    totals = measure_values(
        [each.grade.expected_subtotal for each in marked],
        [exam.total(each.gold) for each in marked],
        sources=[each.source for each in marked],
        rubric=exam,
        threshold=3,
        num_resamples=50,
        seed=0,
    )
    assert len(totals.metrics) == len(BY_PART) + len(OF_TOTAL) + 1
    for name, value in totals.metrics.items():
        assert value == pytest.approx(whole.metrics[name], abs=1e-7)
        assert totals.intervals[name] == whole.intervals[name]


def test_predictions_off_the_scale_go_to_its_end(exam: Rubric) -> None:
    agreement = measure_values(
        [-4.0, 99.0],
        [1, 25],
        sources=["a", "b"],
        rubric=exam,
        threshold=None,
        num_resamples=0,
        seed=0,
    )
    assert agreement.metrics["mae/total"] == 0.0
    with pytest.raises(ValueError, match="gold holds grades"):
        measure_values(
            [3.0], [26], sources=["a"], rubric=exam, threshold=None, num_resamples=0, seed=0
        )


def test_an_interval_holds_its_value_and_the_seed_decides(
    marked: list[Marked], exam: Rubric
) -> None:
    agreement = measured(marked, exam, num_resamples=200)
    assert agreement == measured(marked, exam, num_resamples=200)
    for name in ("qwk/total", "pearson/content", "rmse/total", "exact/format"):
        interval = agreement.intervals[name]
        assert interval.low < agreement.metrics[name] < interval.high
    assert agreement.intervals["parse_rate"].low == agreement.intervals["parse_rate"].high == 1.0


def test_no_essays_and_one_essay(mark: Callable[..., Marked], exam: Rubric) -> None:
    none = measured([], exam, num_resamples=10)
    assert (none.num, none.num_sources, none.intervals) == (0, 0, {})
    assert all(isnan(value) for value in none.metrics.values())
    one = measured([mark("a", None, (3, 2))], exam, num_resamples=10)
    assert one.metrics["parse_rate"] == 0.0
    assert one.metrics["mae/total"] == 4.0
    assert isnan(one.metrics["qwk/total"])
    assert isnan(one.intervals["mae/total"].low)
