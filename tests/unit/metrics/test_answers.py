"""Answers in text: means of sample scores with intervals, labels read from free text, speed."""

from math import isnan

import pytest

from aes.metrics.answers import measure_answers
from aes.metrics.text import NAMES, text_scores
from aes.records import Answered

PAIRS = (("胸片未见异常。", "胸片未见明显异常。"), ("右肺结节。", "左肺结节。"), ("", "骨折。"))


def _answered(pairs: tuple[tuple[str, str], ...]) -> list[Answered]:
    return [
        Answered(id=f"s{i}", source=f"s{i}", gold=gold, text=text)
        for i, (text, gold) in enumerate(pairs)
    ]


def test_text_metrics_are_means_over_samples() -> None:
    found = measure_answers(_answered(PAIRS), choices=(), num_resamples=200, seed=1)
    single = [text_scores(*pair) for pair in PAIRS]
    for name in NAMES:
        assert found.text[name] == pytest.approx(sum(one[name] for one in single) / 3)
        low, high = found.text_intervals[name].low, found.text_intervals[name].high
        assert 0 == low <= found.text[name] <= high <= max(one[name] for one in single) + 1e-9
    assert found.of_samples == single
    assert found.labels is None and not found.preds


def test_labels_are_read_from_what_was_written() -> None:
    pairs = (("正面。", "正面"), ("我觉得是负面", "负面"), ("正面", "负面"))
    found = measure_answers(_answered(pairs), choices=("正面", "负面"), num_resamples=0, seed=1)
    assert found.preds == ["正面", None, "正面"]
    assert found.labels is not None
    assert found.labels.metrics["accuracy"] == pytest.approx(1 / 3)
    assert found.labels.metrics["unparsed"] == pytest.approx(1 / 3)
    assert not found.labels.intervals


def test_speed_needs_a_time() -> None:
    one = _answered(PAIRS)
    timed = measure_answers(one, choices=(), num_resamples=0, seed=1, answering_s=1.5)
    assert timed.samples_per_s == 2.0
    assert isnan(measure_answers(one, choices=(), num_resamples=0, seed=1).samples_per_s)


def test_nothing_answered_is_nothing_measured() -> None:
    found = measure_answers([], choices=("a", "b"), num_resamples=10, seed=1)
    assert isnan(found.text["bleu-4"]) and found.labels is not None
    assert isnan(found.labels.metrics["accuracy"])
