"""Totals and the rules that a marking scheme must keep."""

from collections.abc import Callable
from typing import Any

import pytest

from aes.rubric import Deductions, Level, Rubric, Trait


def _trait(**changes: Any) -> Trait:
    plain: dict[str, Any] = {
        "label": "内容", "description": "", "minimum": 0, "maximum": 20, "levels": ()
    }  # fmt: skip
    return Trait(**plain | changes)


def _rubric(starts: list[int], **traits: Trait) -> Rubric:
    bands = tuple({"label": str(start), "minimum": start} for start in starts)
    traits = traits or {"content": _trait(), "language": _trait(minimum=5)}
    return Rubric(title="t", traits=traits, bands=bands, deductions=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gaokao60", "five_by_twenty", "holistic100"])
def test_shipped_rubrics_are_valid(read_conf: Callable[..., dict[str, Any]], name: str) -> None:
    rubric = Rubric(**read_conf(f"rubric/{name}"))
    assert rubric.maximum_total == {"gaokao60": 60}.get(name, 100)
    assert rubric.minimum_total == 0
    assert rubric.bands[-1].minimum == rubric.minimum_total


def test_ranges_and_totals() -> None:
    rubric = _rubric([30, 5])
    assert rubric.ranges == {"content": (0, 20), "language": (5, 20)}
    assert (rubric.minimum_total, rubric.maximum_total) == (5, 40)
    assert rubric.total({"language": 6, "content": 3.5}) == 9.5


@pytest.mark.parametrize("scores", [{"content": 3}, {"content": 3, "language": 5, "format": 1}, {}])
def test_scores_of_another_scheme_are_refused(scores: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"do not fit the rubric t, .* choose the rubric"):
        _rubric([5]).total(scores)


@pytest.mark.parametrize("starts", [[20, 30, 5], [30, 30, 5], [30, 20], []])
def test_bands_out_of_order_or_short_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="bands"):
        _rubric(starts)


@pytest.mark.parametrize(
    "spans", [[(10, 20), (0, 8)], [(10, 20), (0, 10)], [(10, 21), (0, 9)], [(10, 20), (1, 9)]]
)
def test_levels_with_gap_overlap_or_excess_are_refused(spans: list[tuple[int, int]]) -> None:
    levels = [Level(label="", minimum=a, maximum=b, text="") for a, b in spans]
    with pytest.raises(ValueError, match="without gap or overlap"):
        _trait(levels=tuple(levels))


def test_levels_that_cover_the_range_pass() -> None:
    levels = [Level(label="", minimum=a, maximum=b, text="") for a, b in [(10, 20), (0, 9)]]
    assert len(_trait(levels=tuple(levels)).levels) == 2


@pytest.mark.parametrize(("low", "high"), [(20, 20), (21, 20), (-1, 5), (0, 1000), (0, 0)])
def test_impossible_ranges_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError):
        _trait(minimum=low, maximum=high)


def test_unknown_keys_and_no_traits_are_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        _trait(weight=1)
    with pytest.raises(ValueError):
        Rubric(title="t", traits={}, bands=({"label": "", "minimum": 0},), deductions=None)  # type: ignore[arg-type]


_RULES: dict[str, Any] = {
    "missing_title": 2,
    "wrong_character": 1,
    "wrong_characters_free": 2,
    "wrong_characters_maximum": 5,
    "expected_chars": 800,
    "short_points": 1,
    "short_step_chars": 50,
    "caps": ({"below_chars": 600, "total": 18}, {"below_chars": 400, "total": 9}),
}


def _with_deductions(**changes: Any) -> Rubric:
    bands = ({"label": "", "minimum": 5},)
    traits = {"content": _trait(minimum=5)}
    rules = Deductions(**_RULES | changes)
    return Rubric(title="t", traits=traits, bands=bands, deductions=rules)  # type: ignore[arg-type]


def test_deductions_that_can_be_switched_off_whole() -> None:
    assert _with_deductions().deductions == Deductions(**_RULES)
    _with_deductions(wrong_character=0, wrong_characters_maximum=0)
    _with_deductions(expected_chars=0, short_points=0, caps=())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"wrong_character": 0}, "set both to 0"),
        ({"wrong_characters_maximum": 0}, "set both to 0"),
        ({"expected_chars": 0}, "set both to 0, or neither"),
        ({"short_points": 0}, "set both to 0, or neither"),
        ({"caps": _RULES["caps"][::-1]}, "longest essay to the shortest"),
        ({"caps": ({"below_chars": 600, "total": 9}, {"below_chars": 400, "total": 9})}, "falling"),
        ({"caps": ({"below_chars": 600, "total": 20},)}, "from 5 to 19 points, got 20"),
        ({"caps": ({"below_chars": 600, "total": 4},)}, "from 5 to 19 points, got 4"),
    ],
)
def test_deductions_that_contradict_or_do_nothing_are_refused(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        _with_deductions(**changes)


def test_a_total_finds_its_band() -> None:
    rubric = _rubric([30, 20, 5])
    totals = [40, 30, 29.9, 20, 19, 5]
    assert [rubric.band_index(total) for total in totals] == [0, 0, 1, 1, 2, 2]
    assert rubric.band_of(29.9).label == "20"


@pytest.mark.parametrize("total", [4.9, float("nan")])
def test_a_total_below_every_band_is_refused(total: float) -> None:
    with pytest.raises(ValueError, match="below the last band of the rubric t, which begins at 5"):
        _rubric([30, 5]).band_index(total)
