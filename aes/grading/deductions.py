"""What can be counted about an essay -> line items, and the totals of a Grade.

The model judges quality; this module takes off what needs no judgement. Line items come in this
order: missing title, wrong characters, short text, cap. A fact that nobody knows, as of a photo,
costs nothing. A total never falls below the rubric's least: the item that would push it there
costs less, and one for which nothing is left is dropped, so that the items always sum up.

A short text is charged by length and capped as well: the points lower the total, the cap is a
ceiling on what they leave. Rules that need a judgement, e.g. on a memorised essay, are not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from aes.records import Deduction, Example, Grade
from aes.rubric import Deductions, Rubric

CAP = "cap"

_MAX_LISTED_CHARACTERS = 10
_TO_THE_LEAST = "，扣到最低分为止"


def deduct(subtotal: float, example: Example, rubric: Rubric) -> tuple[Deduction, ...]:
    """Line items to be taken off, in the order applied.

    Args:
        subtotal: Sum of the traits, within the rubric's range.
        example: Whose title, length and wrong characters count, as far as they are known.
        rubric: Says what they cost.

    Returns:
        Items whose points sum to ``subtotal`` less the total.
    """
    rules = rubric.deductions
    if rules is None:
        return ()
    items = [
        *_missing_title(example.has_title, rules),
        *_wrong_characters(example.wrong_characters or (), rules),
        *_short(example.num_chars, rules),
    ]
    return fit_deductions(items, subtotal, num_chars=example.num_chars, rubric=rubric)


def fit_deductions(
    items: Iterable[Deduction], subtotal: float, *, num_chars: int, rubric: Rubric
) -> tuple[Deduction, ...]:
    """Counted items under a subtotal: none pushes below the least total, the cap is found anew.

    Args:
        items: In order; caps among them are of another subtotal and left out.
        subtotal: Sum of the traits.
        num_chars: Length of the essay; 0: not known.
    """
    fitted = []
    left = subtotal - rubric.minimum_total
    for item in items:
        if item.code == CAP or left <= 0:
            continue
        fitted.append(_at_most(item, left))
        left -= fitted[-1].points
    caps = rubric.deductions.caps if rubric.deductions else ()
    ceilings = [cap for cap in caps if 0 < num_chars < cap.below_chars]
    if ceilings:
        cap = min(ceilings, key=lambda cap: cap.total)
        excess = left + rubric.minimum_total - cap.total
        if excess > 0:
            reason = f"正文{num_chars}字，不足{cap.below_chars}字，总分最高{cap.total}分"
            fitted.append(Deduction(code=CAP, points=float(excess), reason=reason))
    return tuple(fitted)


def with_sums(grade: Grade, rubric: Rubric) -> Grade:
    """The Grade with the sums of its traits, and nothing taken off yet."""
    subtotal = rubric.total(grade.scores)
    spreads = [grade.spread.get(name, math.nan) for name in grade.scores]
    return replace(
        grade,
        subtotal=subtotal,
        expected_subtotal=rubric.total(grade.expected),
        uncertainty=math.sqrt(sum(value**2 for value in spreads)),
        deductions=(),
        total=subtotal,
    )


def with_deductions(grade: Grade, deductions: tuple[Deduction, ...]) -> Grade:
    """The Grade with these line items taken off its subtotal."""
    total = grade.subtotal - sum(item.points for item in deductions)
    return replace(grade, deductions=deductions, total=total)


def _at_most(item: Deduction, points: float) -> Deduction:
    if item.points <= points:
        return item
    reason = item.reason.removesuffix(_TO_THE_LEAST) + _TO_THE_LEAST
    return replace(item, points=float(points), reason=reason)


def _missing_title(has_title: bool | None, rules: Deductions) -> list[Deduction]:
    if has_title is not False:
        return []
    return _item("missing_title", rules.missing_title, f"缺标题，扣{rules.missing_title}分")


def _wrong_characters(wrong: tuple[str, ...], rules: Deductions) -> list[Deduction]:
    different = list(dict.fromkeys(wrong))
    full = max(0, len(different) - rules.wrong_characters_free) * rules.wrong_character
    points = min(full, rules.wrong_characters_maximum)
    listed = "、".join(different[:_MAX_LISTED_CHARACTERS])
    more = "等" if len(different) > _MAX_LISTED_CHARACTERS else ""
    reason = f"错别字{len(different)}个（{listed}{more}），每个扣{rules.wrong_character}分"
    if rules.wrong_characters_free:
        reason += f"，前{rules.wrong_characters_free}个不扣"
    if points < full:
        reason += f"，最多扣{points}分"
    return _item("wrong_characters", points, reason)


def _short(num_chars: int, rules: Deductions) -> list[Deduction]:
    missing = rules.expected_chars - num_chars
    if num_chars == 0 or missing <= 0:
        return []
    step = rules.short_step_chars
    reason = (
        f"正文{num_chars}字，比{rules.expected_chars}字少{missing}字，"
        f"每少{step}字扣{rules.short_points}分，不满{step}字按{step}字计"
    )
    return _item("short", math.ceil(missing / step) * rules.short_points, reason)


def _item(code: str, points: int, reason: str) -> list[Deduction]:
    return [Deduction(code=code, points=float(points), reason=reason)] if points else []
