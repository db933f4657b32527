"""The ETS thresholds: met, missed, not proven."""

from math import nan

import pytest

from aes.metrics.results import Agreement, Interval
from aes.metrics.verdict import Criterion, verdict

GOOD = {
    "qwk/total": 0.8,
    "pearson/total": 0.75,
    "band_exact/total": 0.6,
    "band_adjacent/total": 0.98,
    "smd/total": -0.05,
}


def judged(name: str, value: float, interval: tuple[float, float] | None = None) -> Criterion:
    agreement = Agreement(
        num=60,
        num_sources=60,
        metrics=GOOD | {name: value},
        intervals={} if interval is None else {name: Interval(*interval)},
    )
    return next(found for found in verdict(agreement) if found.criterion == name)


def test_all_limits_are_judged_in_order() -> None:
    found = verdict(Agreement(num=1, num_sources=1, metrics=GOOD))
    assert {each.criterion: each.limit for each in found} == {
        "qwk/total": 0.7,
        "pearson/total": 0.7,
        "band_exact/total": 0.5,
        "band_adjacent/total": 0.95,
        "smd/total": 0.15,
    }
    assert all(each.passed for each in found)


@pytest.mark.parametrize(
    ("name", "value", "interval", "passed", "word"),
    [
        ("qwk/total", 0.70, None, True, "met"),
        ("qwk/total", 0.75, (0.71, 0.79), True, "met"),
        ("qwk/total", 0.75, (0.61, 0.85), None, "not proven"),
        ("qwk/total", 0.65, (0.55, 0.74), False, "perhaps by chance"),
        ("qwk/total", 0.35, (0.26, 0.45), False, ": missed."),
        ("qwk/total", nan, (nan, nan), None, "undefined"),
        ("qwk/total", 0.75, (nan, nan), True, "met"),
        ("smd/total", -0.10, (-0.14, -0.06), True, "met"),
        ("smd/total", -0.10, (-0.20, 0.01), None, "not proven"),
        ("smd/total", 0.20, (0.10, 0.30), False, "perhaps by chance"),
        ("smd/total", -0.30, (-0.40, -0.20), False, ": missed."),
    ],
)
def test_the_interval_decides_what_is_proven(
    name: str,
    value: float,
    interval: tuple[float, float] | None,
    passed: bool | None,
    word: str,
) -> None:
    found = judged(name, value, interval)
    assert found.passed is passed
    assert word in found.sentence


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("qwk/total", 0.698, ": 0.698; at least 0.70 is asked for: missed."),
        ("qwk/total", 0.69996, ": 0.69996; at least 0.70 is asked for: missed."),
        ("qwk/total", 0.702, ": 0.702; at least 0.70 is asked for: met."),
        ("qwk/total", 0.70, ": 0.70; at least 0.70 is asked for: met."),
        ("band_adjacent/total", 0.947, ": 94.7%; at least 95% is asked for: missed."),
        ("smd/total", 0.154, ": 0.154; at most 0.15 is asked for: missed."),
    ],
)
def test_no_value_is_rounded_onto_its_limit(name: str, value: float, shown: str) -> None:
    assert judged(name, value).sentence.endswith(shown)


def test_sentences_show_the_numbers() -> None:
    share = judged("band_exact/total", 0.625, (0.55, 0.7))
    assert "62% (95 % interval 55% to 70%); at least 50% is asked for: met." in share.sentence
    smd = judged("smd/total", -0.05, (-0.12, 0.03))
    assert smd.value == 0.05
    assert "0.05 (95 % interval 0.00 to 0.12); at most 0.15 is asked for" in smd.sentence
