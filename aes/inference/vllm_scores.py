"""Log-probabilities of digits, one place of a score at a time -> a distribution over its scores.

The same arithmetic as ``aes.inference.scores``, on numbers that came from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from aes.data.guide import ScoreGuide, Step

LogShares = Mapping[str, Mapping[str, float]]
"""After each beginning of a score, the log-probability of each next digit; ``""``: the end."""


def places(
    guide: ScoreGuide, name: str, distribution: Literal["constrained", "model"]
) -> tuple[str, ...]:
    """Beginnings of a trait's score behind which to look, the empty one first.

    Where nothing but the end is valid the decoder has no choice; the model may want something else.
    """
    if distribution == "constrained":
        return tuple(guide.nodes[name])
    low, high = guide.ranges[name]
    scores = [str(score) for score in range(low, high + 1)]
    return tuple(sorted({s[:k] for s in scores for k in range(len(s) + 1)}, key=len))


def ways(step: Step) -> dict[str, int]:
    """What may be written at a step, and its token."""
    return {**step.next_digit, **({} if step.end is None else {"": step.end})}


def among_valid(found: Mapping[str, float]) -> dict[str, float]:
    """Log-probabilities normalised among what may be written."""
    top = max(found.values())
    whole = top + math.log(sum(math.exp(share - top) for share in found.values()))
    return {way: share - whole for way, share in found.items()}


def distribution_of(after: LogShares, low: int, high: int) -> tuple[float, ...]:
    """Probability of every valid score: the product of its digits' and its end's, normalised."""
    found = {}
    for score in map(str, range(low, high + 1)):
        steps = [(score[:k], score[k : k + 1]) for k in range(len(score) + 1)]
        found[score] = sum(after[place][way] for place, way in steps if place in after)
    return tuple(math.exp(share) for share in among_valid(found).values())


def rounded_mean(low: int, shares: tuple[float, ...]) -> int:
    """The mean score, rounded half up."""
    return math.floor(sum((low + i) * share for i, share in enumerate(shares)) + 0.5)
