"""Agreement by length, by band and by operation."""

from collections.abc import Callable
from dataclasses import replace
from math import isnan

import pytest

from aes.metrics.groups import by_band, by_group, by_length
from aes.metrics.measure import measure
from aes.records import Marked
from aes.rubric import Rubric

OPTIONS = {"threshold": 2.0, "num_resamples": 30, "seed": 0}
LENGTHS = [300, 650, 300, 900, 410, 500, 800, 700]
GROUPS = ["", "cut_50", "", "cut_25", "no_ending_15", "", "cut_50", ""]


@pytest.fixture(scope="module")
def marked(mark: Callable[..., Marked]) -> list[Marked]:
    return [
        mark(f"e{i}", (2 * i + 3, 2, 0.2), (2 * i + i % 3, 1 + i % 5), num_chars=n, group=group)
        for i, (n, group) in enumerate(zip(LENGTHS, GROUPS, strict=True))
    ]


def test_each_group_is_measured_alone(marked: list[Marked], exam: Rubric) -> None:
    groups = by_group(marked, rubric=exam, **OPTIONS)
    assert {kind: agreement.num for kind, agreement in groups.items()} == {
        "original": 4, "cut": 3, "no_ending": 1,
    }  # fmt: skip
    cut = [each for each in marked if each.group.startswith("cut")]
    # As text, in which NaN equals itself.
    assert str(groups["cut"]) == str(measure(cut, rubric=exam, **OPTIONS))
    assert isnan(groups["no_ending"].metrics["qwk/total"])
    assert groups["no_ending"].metrics["mean_shift/total"] == pytest.approx(13.2 - 14)


def test_originals_alone_are_no_groups(marked: list[Marked], exam: Rubric) -> None:
    assert by_group([replace(m, group="") for m in marked], rubric=exam, **OPTIONS) == {}


def test_quartiles_of_length_run_from_short_to_long(marked: list[Marked], exam: Rubric) -> None:
    quartiles = by_length(marked, rubric=exam, **OPTIONS)
    assert list(quartiles) == [
        "300-300 chars", "410-500 chars", "650-700 chars", "800-900 chars",
    ]  # fmt: skip
    assert [agreement.num for agreement in quartiles.values()] == [2, 2, 2, 2]
    longest = [each for each in marked if each.num_chars >= 800]
    assert str(quartiles["800-900 chars"]) == str(measure(longest, rubric=exam, **OPTIONS))


def test_equal_lengths_stand_together(marked: list[Marked], exam: Rubric) -> None:
    alike = [replace(each, num_chars=500) for each in marked]
    assert [a.num for a in by_length(alike, rubric=exam, **OPTIONS).values()] == [8]


def test_unknown_lengths_make_no_quartiles(marked: list[Marked], exam: Rubric) -> None:
    assert by_length([*marked, replace(marked[0], num_chars=0)], rubric=exam, **OPTIONS) == {}
    assert by_length([], rubric=exam, **OPTIONS) == {}


def test_bands_are_of_gold_and_run_from_best_to_worst(
    mark: Callable[..., Marked], exam: Rubric
) -> None:
    # Bands begin at 20, 15, 9 and 0.
    golds = [(3, 1), (15, 5), (5, 4), (20, 5), (4, 4)]
    essays = [mark(f"e{i}", (9, 3), gold) for i, gold in enumerate(golds)]
    bands = by_band(essays, rubric=exam, **OPTIONS)
    assert {label: band.num for label, band in bands.items()} == {"一等": 2, "三等": 1, "四等": 2}
    assert list(bands) == ["一等", "三等", "四等"]
    assert bands["四等"].metrics["mean_shift/total"] == pytest.approx(12 - 6)
