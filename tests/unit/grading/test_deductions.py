"""Line items: each rule by hand, all of them against arithmetic written down once more."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aes.grading.deductions import deduct, fit_deductions, with_deductions, with_sums
from aes.records import Example, Grade
from aes.rubric import Cap, Deductions, Rubric, Trait

GAOKAO = yaml.safe_load(
    (Path(__file__).parents[3] / "conf/rubric/gaokao60.yaml").read_text(encoding="utf-8")
)
RUBRIC = Rubric(**{key: value for key, value in GAOKAO.items() if key != "_target_"})
assert RUBRIC.deductions is not None
RULES = RUBRIC.deductions


def example(**facts: Any) -> Example:
    return Example(id="x", messages=(), **facts)


def items_of(subtotal: float, rubric: Rubric = RUBRIC, **facts: Any) -> list[tuple[str, float]]:
    return [(d.code, d.points) for d in deduct(subtotal, example(**facts), rubric)]


def with_rules(**changes: Any) -> Rubric:
    return replace(RUBRIC, deductions=replace(RULES, **changes))


def test_what_nobody_knows_costs_nothing() -> None:
    assert items_of(60) == []
    assert items_of(60, has_title=True, num_chars=800, wrong_characters=()) == []


def test_a_rubric_without_deductions_takes_nothing_off() -> None:
    free = replace(RUBRIC, deductions=None)
    assert items_of(60, free, has_title=False, num_chars=1, wrong_characters=("再",)) == []


def test_a_missing_title_costs_two_points() -> None:
    assert items_of(50, has_title=False) == [("missing_title", 2)]
    assert items_of(50, with_rules(missing_title=0), has_title=False) == []


@pytest.mark.parametrize(
    ("num_chars", "points"), [(799, 1), (750, 1), (749, 2), (732, 2), (601, 4), (600, 4)]
)
def test_each_begun_fifty_characters_cost_a_point(num_chars: int, points: int) -> None:
    assert items_of(30, num_chars=num_chars) == [("short", points)]


@pytest.mark.parametrize(
    ("free", "most", "num_wrong", "points"),
    [(0, 5, 3, 3), (0, 5, 9, 5), (2, 5, 2, 0), (2, 5, 3, 1), (2, 5, 20, 5), (0, 60, 20, 20)],
)
def test_wrong_characters(free: int, most: int, num_wrong: int, points: int) -> None:
    rubric = with_rules(wrong_characters_free=free, wrong_characters_maximum=most)
    wrong = tuple(chr(0x4E00 + i) for i in range(num_wrong))
    expected = [("wrong_characters", points)] if points else []
    assert items_of(50, rubric, wrong_characters=wrong) == expected
    assert items_of(50, rubric, wrong_characters=wrong * 3) == expected  # repeats are free


@pytest.mark.parametrize(
    ("subtotal", "num_chars", "items"),
    [
        (45, 599, [("short", 5), ("cap", 4)]),
        (41, 599, [("short", 5)]),
        (40, 599, [("short", 5)]),
        (45, 399, [("short", 9), ("cap", 16)]),
        (25, 399, [("short", 9)]),
        (60, 1, [("short", 16), ("cap", 24)]),
    ],
)
def test_a_cap_cuts_what_the_others_leave(
    subtotal: int, num_chars: int, items: list[tuple[str, int]]
) -> None:
    assert items_of(subtotal, num_chars=num_chars) == items


def test_the_total_stops_at_the_least() -> None:
    facts: dict[str, Any] = {"has_title": False, "num_chars": 700, "wrong_characters": ("再", "在")}
    assert items_of(3, **facts) == [("missing_title", 2), ("wrong_characters", 1)]
    assert items_of(0, **facts) == []
    cut = deduct(3, example(**facts), RUBRIC)[1].reason
    assert cut == "错别字2个（再、在），每个扣1分，扣到最低分为止"


def test_reasons_are_for_a_teacher() -> None:
    rubric = with_rules(wrong_characters_free=1)
    wrong = tuple("再在的地得做作")
    found = deduct(
        60, example(has_title=False, num_chars=332, wrong_characters=wrong + wrong), rubric
    )
    assert [item.reason for item in found] == [
        "缺标题，扣2分",
        "错别字7个（再、在、的、地、得、做、作），每个扣1分，前1个不扣，最多扣5分",
        "正文332字，比800字少468字，每少50字扣1分，不满50字按50字计",
        "正文332字，不足400字，总分最高20分",
    ]
    many = tuple(chr(0x4E00 + i) for i in range(11))
    assert "、上等）" not in deduct(60, example(wrong_characters=many[:10]), rubric)[0].reason
    assert deduct(60, example(wrong_characters=many), rubric)[0].reason.startswith("错别字11个（")
    assert "等）" in deduct(60, example(wrong_characters=many), rubric)[0].reason


@st.composite
def _rubrics(draw: Callable[..., Any]) -> Rubric:
    low = draw(st.integers(0, 10))
    high = draw(st.integers(low + 8, 70))
    trait = Trait(label="t", description="", minimum=low, maximum=high, levels=())
    points = draw(st.integers(0, 3))
    expected = draw(st.sampled_from([0, 100, 800]))
    lengths = sorted(draw(st.sets(st.integers(1, 900), max_size=3)), reverse=True)
    totals = sorted(
        draw(st.sets(st.integers(low, high - 1), min_size=len(lengths), max_size=len(lengths))),
        reverse=True,
    )
    rules = Deductions(
        missing_title=draw(st.integers(0, 4)),
        wrong_character=points,
        wrong_characters_free=draw(st.integers(0, 3)),
        wrong_characters_maximum=draw(st.integers(points, 9)) if points else 0,
        expected_chars=expected,
        short_points=draw(st.integers(1, 3)) if expected else 0,
        short_step_chars=draw(st.integers(1, 60)),
        caps=tuple(Cap(below_chars=n, total=t) for n, t in zip(lengths, totals, strict=True)),
    )
    bands = ({"label": "", "minimum": low},)
    return Rubric(title="t", traits={"t": trait}, bands=bands, deductions=rules)  # type: ignore[arg-type]


_FACTS = st.fixed_dictionaries(
    {
        "has_title": st.sampled_from([None, True, False]),
        "num_chars": st.integers(0, 1000),
        "wrong_characters": st.none() | st.lists(st.sampled_from("再在的地得做作")).map(tuple),
    }
)


def _grade(score: int) -> Grade:
    return Grade(id="x", scores={"t": score}, expected={"t": float(score)}, spread={"t": 1.0})


def _brute_total(subtotal: int, facts: dict[str, Any], rubric: Rubric) -> float:
    rules = rubric.deductions
    assert rules is not None
    total = float(subtotal)
    if facts["has_title"] is False:
        total -= rules.missing_title
    if facts["wrong_characters"]:
        charged = len(set(facts["wrong_characters"])) - rules.wrong_characters_free
        total -= min(max(charged, 0) * rules.wrong_character, rules.wrong_characters_maximum)
    if facts["num_chars"]:
        total -= sum(
            rules.short_points
            for _ in range(facts["num_chars"], rules.expected_chars, rules.short_step_chars)
        )
    total = max(total, rubric.minimum_total)
    for cap in rules.caps:
        if 0 < facts["num_chars"] < cap.below_chars:
            total = min(total, cap.total)
    return total


@given(_rubrics(), _FACTS, st.data())
def test_items_sum_to_what_the_rules_say(
    rubric: Rubric, facts: dict[str, Any], data: st.DataObject
) -> None:
    score = data.draw(st.integers(*rubric.ranges["t"]))
    found = deduct(score, example(**facts), rubric)
    grade = with_deductions(with_sums(_grade(score), rubric), found)
    assert grade.total == _brute_total(score, facts, rubric)
    assert grade.subtotal - math.fsum(d.points for d in found) == grade.total
    assert rubric.minimum_total <= grade.total <= score
    assert all(d.points > 0 and d.reason for d in found)
    codes = ["missing_title", "wrong_characters", "short", "cap"]
    assert [d.code for d in found] == sorted({d.code for d in found}, key=codes.index)


@given(_rubrics(), _FACTS, st.data())
def test_items_fit_another_subtotal(
    rubric: Rubric, facts: dict[str, Any], data: st.DataObject
) -> None:
    low, high = rubric.ranges["t"]
    old, new = data.draw(st.integers(low, high)), data.draw(st.integers(low, high))
    at_old = deduct(old, example(**facts), rubric)
    moved = fit_deductions(at_old, new, num_chars=facts["num_chars"], rubric=rubric)
    total = new - sum(d.points for d in moved)
    assert low <= total <= new
    if not any("最低分" in d.reason for d in at_old) and old > low:
        kept = [d for d in at_old if d.code != "cap"]
        if sum(d.points for d in kept) < old - low:  # nothing was dropped at the least total
            assert moved == deduct(new, example(**facts), rubric)
