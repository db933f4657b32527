"""The robustness suite -> its panel, as HTML: the ladder, the attacks, the drift.

Knows that an attack's name tells its wording and place, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from aes.metrics.results import AttackResult, Interval, Robustness
from aes.report.evaluation_html import Html, bilingual, element, join, table
from aes.report.evaluation_tables import UNDEFINED, stacked, titled
from aes.report.evaluation_words import say, say_or

_FEW = 10
"""Fewer honest essays than this: shares and intervals say little."""

_ATTACK_COLUMNS = ("attack", "goal", "num", "with_room", "success", "mean_change", "worst")


def robustness_panel(robustness: Robustness) -> Html:
    """The ladder, the attacks, and the drift on honest essays."""
    num = robustness.num_essays
    parts = [bilingual("h2", say("robustness.heading"), say("robustness.english"), id="robustness")]
    if num:
        parts.append(element("p", say("robustness.lead", num=num)))
    if 0 < num < _FEW:
        parts.append(element("p", say("robustness.few", num=num), class_="warning"))
    if robustness.ladder:
        parts += [titled("h3", "robustness.ladder"), _ladder(robustness)]
        parts.append(element("p", say("robustness.ladder_note"), class_="note"))
    if robustness.attacks:
        parts += [titled("h3", "robustness.attacks"), *_attacks(robustness)]
    if robustness.honest_drift:
        parts += [titled("h3", "robustness.drift"), _drift(robustness)]
        parts.append(element("p", say("robustness.drift_note"), class_="note"))
    for reason, times in robustness.skipped.items():
        told = say("robustness.skipped", reason=_reason(reason), num=times)
        parts.append(element("p", told, class_="note"))
    return join(*parts)


def robustness_in_short(robustness: Robustness) -> str:
    """The attack that succeeds most, in a sentence; empty if none was measured."""
    kinds = [attack for attack in _kinds(robustness.attacks) if isfinite(attack.success_rate)]
    if not kinds:
        return ""
    first, numbers = kinds[0], {"num": len(kinds), "essays": robustness.num_essays}
    if first.success_rate == 0:
        return say("robustness.none_succeeds", **numbers)
    rate = _percent(first.success_rate)
    return say("robustness.top", name=_name(first.name), rate=rate, **numbers)


def harm_name(name: str) -> Html:
    """What was done to an essay, and below it what the suite calls it."""
    return join(_name(name), element("small", name))


def _ladder(robustness: Robustness) -> Html:
    rows = [
        [
            harm_name(harm),
            str(result.num_pairs),
            _with_interval(
                _percent(result.share_in_order),
                [_percent(end) for end in _ends(result.interval)],
            ),
            _with_interval(
                _drop(result.mean_drop), [_drop(end) for end in _ends(result.drop_interval)]
            ),
        ]
        for harm, result in robustness.ladder.items()
    ]
    keys = ("harm", "pairs", "in_order", "mean_drop")
    label = say("robustness.ladder.label")
    return table([stacked(f"robustness.{key}") for key in keys], rows, label=label)


def _attacks(robustness: Robustness) -> list[Html]:
    """A line for each kind; wordings and places are folded away below."""
    kinds = _kinds(robustness.attacks)
    # In the order of the suite: wordings before places, the text before the page.
    details = [attack for attack in robustness.attacks if _is_detail(attack.name)]
    note = say("robustness.attacks_note", points=f"{robustness.gain_points:g}")
    parts = [_attack_table(kinds), element("p", note, class_="note")]
    if details:
        summary = element("summary", say("robustness.by_wording"))
        parts.append(element("details", summary, _attack_table(details)))
    return parts


def _kinds(attacks: Sequence[AttackResult]) -> list[AttackResult]:
    """One a kind, what succeeds most first, undefined ones last."""
    kinds = [attack for attack in attacks if not _is_detail(attack.name)]
    rates = {a.name: a.success_rate if isfinite(a.success_rate) else -1.0 for a in kinds}
    return sorted(kinds, key=lambda attack: -rates[attack.name])


def _attack_table(attacks: Sequence[AttackResult]) -> Html:
    rows = [
        [
            harm_name(attack.name),
            stacked(f"robustness.goals.{attack.goal}"),
            str(attack.num),
            str(attack.num_with_room),
            _with_interval(
                _percent(attack.success_rate),
                [_percent(end) for end in _ends(attack.success_interval)],
            ),
            _with_interval(
                _points(attack.mean_change), [_points(end) for end in _ends(attack.interval)]
            ),
            _points(attack.worst_change),
        ]
        for attack in attacks
    ]
    headings = [stacked(f"robustness.{key}") for key in _ATTACK_COLUMNS]
    return table(headings, rows, label=say("robustness.attacks.label"), text_columns=[1])


def _drift(robustness: Robustness) -> Html:
    rows = [
        [harm_name(change), _drop(points)] for change, points in robustness.honest_drift.items()
    ]
    headings = [stacked("robustness.change"), stacked("robustness.points")]
    return table(headings, rows, label=say("robustness.drift.label"))


def _is_detail(name: str) -> bool:
    """Whether a line is of one wording or one place, e.g. ``order/page/w3``."""
    return name.count("/") > 1


def _name(name: str) -> str:
    if not _is_detail(name):
        return say_or(f"robustness.names.{name}", name)
    head, detail = name.rsplit("/", 1)
    if detail[1:].isdigit():
        return say("robustness.wording", attack=_name(head), number=detail[1:])
    place = say_or(f"robustness.places.{detail}", detail)
    return say("robustness.place", attack=_name(head), place=place)


def _reason(reason: str) -> str:
    """A reason of the suite, which may begin with the name of what could not be tried."""
    tried, separator, why = reason.rpartition(": ")
    why = say_or(f"robustness.reasons.{why}", why)
    if not separator:
        return why
    # A rung has a level behind its kind, e.g. cut_50.
    kind, _, level = tried.rpartition("_")
    known = _name(kind) if level.isdigit() else _name(tried)
    return f"{say_or(f'robustness.tried.{tried}', known)}{separator}{why}"


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _with_interval(value: str, ends: list[str]) -> Html:
    if UNDEFINED in ends:
        return join(value)
    return join(value, element("small", f"[{', '.join(ends)}]"))


def _percent(share: float) -> str:
    return f"{share:.1%}" if isfinite(share) else UNDEFINED


def _drop(points: float) -> str:
    return f"{points:.2f}" if isfinite(points) else UNDEFINED


def _points(change: float) -> str:
    return f"{change:+.2f}" if isfinite(change) else UNDEFINED
