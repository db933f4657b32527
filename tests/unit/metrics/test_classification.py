"""Labels against scikit-learn, answers that are none of them, and intervals."""

import random
from math import isnan, nan

import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from aes.metrics.classification import (
    UNPARSED,
    label_metrics,
    measure_labels,
    metrics_of_confusion,
)

LABELS = ("写景", "叙事", "议论", "说明")


def _draw(num: int, *, seed: int, unparsed: float) -> tuple[list[str | None], list[str]]:
    rng = random.Random(seed)
    golds = [rng.choice(LABELS[:3]) for _ in range(num)]
    preds: list[str | None] = [g if rng.random() < 0.5 else rng.choice(LABELS) for g in golds]
    return [None if rng.random() < unparsed else p for p in preds], golds


@pytest.mark.parametrize("unparsed", [0.0, 0.2, 1.0])
def test_metrics_are_those_of_scikit_learn(unparsed: float) -> None:
    preds, golds = _draw(60, seed=1, unparsed=unparsed)
    said = [p or "?" for p in preds]
    found = measure_labels(preds, golds, labels=LABELS)
    there = [label for label in LABELS if label in golds]
    precision, recall, f1, support = precision_recall_fscore_support(
        golds, said, labels=there, zero_division=0
    )
    for place, label in enumerate(there):
        assert found.metrics[f"precision/{label}"] == pytest.approx(precision[place])
        assert found.metrics[f"recall/{label}"] == pytest.approx(recall[place])
        assert found.metrics[f"f1/{label}"] == pytest.approx(f1[place])
        assert found.support[LABELS.index(label)] == support[place]
    macro = precision_recall_fscore_support(
        golds, said, labels=there, average="macro", zero_division=0
    )
    for name, value in zip(("precision", "recall", "f1"), macro, strict=False):
        assert found.metrics[name] == pytest.approx(value)
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(golds, said))
    assert found.metrics["unparsed"] == pytest.approx(preds.count(None) / 60)
    table = confusion_matrix(golds, said, labels=[*LABELS, "?"])[:4]
    assert [list(row) for row in found.confusion] == table.tolist()


def test_a_class_that_gold_does_not_hold_has_no_numbers_of_its_own() -> None:
    found = measure_labels(["叙事", "说明"], ["叙事", "叙事"], labels=LABELS)
    assert isnan(found.metrics["f1/说明"])
    assert found.metrics["recall"] == 0.5
    assert found.metrics["precision"] == 1.0
    assert found.support == (0, 2, 0, 0)


def test_an_answer_that_is_no_label_is_an_error_and_counted() -> None:
    found = measure_labels(["叙事", None, "小说"], ["叙事"] * 3, labels=LABELS)
    assert found.metrics["unparsed"] == pytest.approx(2 / 3)
    assert found.metrics["accuracy"] == pytest.approx(1 / 3)
    assert found.metrics["precision/叙事"] == 1.0
    assert found.confusion[1] == (0, 1, 0, 0, 2)


def test_an_unknown_gold_label_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="1 gold answers are none of the 4 labels") as error:
        measure_labels(["叙事"], ["秘密"], labels=LABELS)
    assert "秘密" not in str(error.value)


def test_counts_of_ranks_sum_to_the_same_metrics() -> None:
    preds, golds = _draw(40, seed=2, unparsed=0.1)
    whole = measure_labels(preds, golds, labels=LABELS)
    parts = [measure_labels(preds[a:b], golds[a:b], labels=LABELS) for a, b in ((0, 13), (13, 40))]
    summed = sum(torch.tensor(part.confusion) for part in parts)
    assert isinstance(summed, torch.Tensor)
    for name, value in metrics_of_confusion(summed, labels=LABELS).items():
        assert float(value) == pytest.approx(whole.metrics[name], nan_ok=True)


def test_weights_are_repetitions() -> None:
    pred, gold = torch.tensor([0, 1, UNPARSED, 2]), torch.tensor([0, 0, 1, 2])
    weights = torch.tensor([2, 0, 3, 1])
    weighted = label_metrics(pred, gold, weights, labels=LABELS)
    repeated = label_metrics(
        pred.repeat_interleave(weights), gold.repeat_interleave(weights), labels=LABELS
    )
    for name, value in weighted.items():
        assert float(value) == pytest.approx(float(repeated[name]), nan_ok=True)


def test_intervals_hold_the_estimate_and_follow_sources() -> None:
    preds, golds = _draw(80, seed=3, unparsed=0.05)
    found = measure_labels(preds, golds, labels=LABELS, num_resamples=300, seed=1)
    for name in ("accuracy", "f1", "unparsed"):
        assert found.intervals[name].low <= found.metrics[name] <= found.intervals[name].high
    together = measure_labels(
        preds, golds, labels=LABELS, num_resamples=300, seed=1, sources=["a"] * 80
    )
    assert isnan(together.intervals["accuracy"].low)


def test_without_samples_nothing_is_defined() -> None:
    found = measure_labels([], [], labels=LABELS, num_resamples=10)
    assert isnan(found.metrics["accuracy"]) and isnan(found.metrics["f1"])
    assert not found.intervals and found.num == 0
    assert str(nan) == "nan"
