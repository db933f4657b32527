"""What every variant of the robustness suite got -> ladder, attacks and drift.

Compares expected totals of variants with that of the honest essay they were made from. Knows no
gold score: a grader that is wrong throughout may still be robust, and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from aes.corpus.attacks import PLACES, Goal
from aes.metrics.results import AttackResult, Interval, LadderResult, Robustness
from aes.prompt.suite import Variant

SAME_POINTS = 1e-4
"""Totals that differ by less are equal: batches of other lengths round otherwise."""

ALL = "all"


def measure_robustness(
    variants: Sequence[Variant],
    points: Sequence[float],
    *,
    gain_points: float,
    minimum: float,
    maximum: float,
    seed: int,
    num_resamples: int = 1000,
    skipped: Mapping[str, int] | None = None,
) -> Robustness:
    """Measures a graded suite.

    Args:
        variants: Of ``build_suite``, each essay's honest one among them.
        points: Expected subtotal of each, in the same order; an answer that could not be read
            counts as the rubric's least total.
        gain_points: Change from which an attack counts as a success, in points.
        minimum: Least total of the rubric.
        maximum: Highest total of the rubric.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
        skipped: Passed on.

    Raises:
        ValueError: If the numbers differ, or one of the points is no number.
    """
    if len(variants) != len(points):
        raise ValueError(f"{len(points)} totals for {len(variants)} variants; pass one for each")
    if not all(map(math.isfinite, points)):
        raise ValueError("a variant has no total; count it as the rubric's least total")
    graded = list(zip(variants, map(float, points), strict=True))
    honest = {v.base_id: p for v, p in graded if v.kind == "honest"}
    bootstrap = _Bootstrap(seed, num_resamples)
    return Robustness(
        ladder=_measure_ladder(graded, honest, bootstrap),
        attacks=_measure_attacks(
            graded, honest, bootstrap, gain_points=gain_points, ends=(minimum, maximum)
        ),
        honest_drift=_measure_drift(graded, honest),
        gain_points=gain_points,
        num_essays=len(honest),
        skipped=dict(skipped or {}),
    )


Graded = Iterable[tuple[Variant, float]]
Sourced = tuple[str, float]
"""A value, and the source essay that it comes from."""


class _Bootstrap:
    """Intervals of means, over sources: the variants of one are not independent.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3 (percentile
        interval), with sources as the units that are drawn.
    """

    def __init__(self, seed: int, num_resamples: int) -> None:
        self.seed = seed
        self.num_resamples = num_resamples

    def interval(self, values: Sequence[Sourced]) -> Interval:
        """Of the mean of all values; NaN with fewer than two sources."""
        sums: dict[str, tuple[float, float]] = {}
        for source, value in values:
            total, count = sums.get(source, (0.0, 0.0))
            sums[source] = (total + value, count + 1)
        if len(sums) < 2:
            return Interval(math.nan, math.nan)
        table: NDArray[np.float64] = np.array(list(sums.values()), dtype=np.float64)
        num = len(table)
        rng = np.random.default_rng(self.seed)
        drawn = rng.multinomial(num, [1 / num] * num, size=self.num_resamples) @ table
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
        return Interval(float(low), float(high))


def _measure_ladder(
    graded: Graded, honest: Mapping[str, float], bootstrap: _Bootstrap
) -> dict[str, LadderResult]:
    """By kind of harm in the order met, and all together first."""
    ladders: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for variant, got in graded:
        if variant.kind == "ladder":
            harm = variant.name.rsplit("_", 1)[0]
            key = (harm, variant.source, variant.base_id)
            ladders.setdefault(key, [(0, honest[variant.base_id])]).append((variant.step, got))
    by_harm: dict[str, list[tuple[str, list[float]]]] = {ALL: []} if ladders else {}
    for (harm, source, _), rungs in ladders.items():
        descent = source, [got for _, got in sorted(rungs)]
        by_harm[ALL].append(descent)
        by_harm.setdefault(harm, []).append(descent)
    return {harm: _ladder_result(descents, bootstrap) for harm, descents in by_harm.items()}


def _ladder_result(
    descents: Sequence[tuple[str, list[float]]], bootstrap: _Bootstrap
) -> LadderResult:
    """Of ladders, each the totals from the original down to the worst copy."""
    orders = [
        (source, _order(better, worse))
        for source, totals in descents
        for better, worse in combinations(totals, 2)
    ]
    drops = [
        (source, better - worse)
        for source, totals in descents
        for better, worse in pairwise(totals)
    ]
    return LadderResult(
        num_pairs=len(orders),
        share_in_order=_mean(orders),
        mean_drop=_mean(drops),
        interval=bootstrap.interval(orders),
        drop_interval=bootstrap.interval(drops),
    )


def _order(better: float, worse: float) -> float:
    """1 if the better copy got more, 0.5 if both got the same."""
    if abs(better - worse) < SAME_POINTS:
        return 0.5
    return float(better > worse)


@dataclass(frozen=True)
class _Attacked:
    """One attacked essay."""

    source: str
    goal: Goal
    change: float
    has_room: bool


def _measure_attacks(
    graded: Graded,
    honest: Mapping[str, float],
    bootstrap: _Bootstrap,
    *,
    gain_points: float,
    ends: tuple[float, float],
) -> tuple[AttackResult, ...]:
    """One for each line of each attack; wordings before places, both under the whole."""
    lines: dict[str, list[_Attacked]] = {}
    for variant, got in graded:
        if variant.kind == "attack":
            assert variant.goal is not None
            before = honest[variant.base_id]
            room = ends[1] - before if variant.goal == "gain" else before - ends[0]
            attacked = _Attacked(variant.source, variant.goal, got - before, room >= gain_points)
            for line in attack_lines(variant.name):
                lines.setdefault(line, []).append(attacked)
    # Met in the order whole, w1, begin, middle, end, w2 ...: the wordings are moved up.
    met = {name: i for i, name in enumerate(lines)}
    heads = {name: "/".join(name.split("/")[:2]) for name in lines}
    ordered = sorted(
        lines, key=lambda name: (met[heads[name]], name.rsplit("/", 1)[-1] in PLACES, met[name])
    )
    return tuple(_attack_result(name, lines[name], bootstrap, gain_points) for name in ordered)


def attack_lines(name: str) -> tuple[str, ...]:
    """The lines of a table that an attack counts in.

    ``order/page/w3/begin`` counts as ``order/page``, ``order/page/w3`` and ``order/page/begin``:
    over all, over the places, and over the wordings. Any shorter name is a line of its own.
    """
    head, details = "/".join(name.split("/")[:2]), name.split("/")[2:]
    return (head, *(f"{head}/{detail}" for detail in details))


def _attack_result(
    name: str,
    attacked: Sequence[_Attacked],
    bootstrap: _Bootstrap,
    gain_points: float,
) -> AttackResult:
    goal = attacked[0].goal
    changes = [(each.source, each.change) for each in attacked]
    # Where an essay has no such gain or loss left, a failed attack says nothing.
    successes = [
        (each.source, float(_succeeds(each, gain_points))) for each in attacked if each.has_room
    ]
    return AttackResult(
        name=name,
        goal=goal,
        num=len(changes),
        mean_change=_mean(changes),
        interval=bootstrap.interval(changes),
        num_with_room=len(successes),
        success_rate=_mean(successes),
        success_interval=bootstrap.interval(successes),
        worst_change=max(each.change for each in attacked),
    )


def _succeeds(attacked: _Attacked, gain_points: float) -> bool:
    """A gain of just ``gain_points`` succeeds, a loss of just as much was noticed."""
    if attacked.goal == "gain":
        return attacked.change >= gain_points
    return attacked.change > -gain_points


def _mean(values: Sequence[Sourced]) -> float:
    return float(np.mean([value for _, value in values])) if values else math.nan


def _measure_drift(graded: Graded, honest: Mapping[str, float]) -> dict[str, float]:
    """Mean absolute change of each harmless change, in points."""
    changes: dict[str, list[float]] = {}
    for variant, got in graded:
        if variant.kind == "drift":
            changes.setdefault(variant.name, []).append(abs(got - honest[variant.base_id]))
    return {name: float(np.mean(values)) for name, values in changes.items()}
