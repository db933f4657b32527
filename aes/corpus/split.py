"""Essays -> training, validation and test parts without leaks.

What stands on one side together: essays of one source, and essays that share much of their wording
or a page image (``aes.corpus.duplicates``), directly or through others. The parts are stratified
by the total score. This module knows neither files nor what the parts are used for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from aes.corpus.duplicates import find_overlaps, find_shared_pages, group_pairs
from aes.records import Essay


@dataclass(frozen=True)
class Split:
    """The parts of a corpus, each in its order; no text has a near copy in another part.

    Attributes:
        num_left_out: Training samples that stand in no part, since there were too many.
    """

    train: tuple[Essay, ...]
    val: tuple[Essay, ...]
    test: tuple[Essay, ...]
    num_left_out: int = 0


def split_essays(
    essays: Sequence[Essay],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    fold: tuple[int, int] | None = None,
) -> Split:
    """Splits by groups of essays that belong together, stratified by total score.

    Each held-out part is drawn evenly along the groups' mean total scores. A part whose fraction
    is above 0 gets at least one group; a fraction of 0 leaves it empty.

    Args:
        essays: In any order; the same order and seed give the same split.
        val_fraction: Share of the groups that validate, in ``[0, 1)``.
        test_fraction: Share of the groups that test, in ``[0, 1)``.
        seed: Chooses among groups of like score.
        fold: Number and count of cross-validation folds: that fold is the test part, whatever
            ``test_fraction`` says. The folds of one seed share nothing and hold every essay.

    Raises:
        ValueError: If no group would be left to train on.
    """
    rng = random.Random(seed)
    groups = group_related(essays)
    rng.shuffle(groups)
    groups.sort(key=lambda group: _mean_total(essays, group))
    if fold is not None:
        return _hold_out_fold(essays, groups, *fold, val_fraction=val_fraction, rng=rng)
    num_val = _count(len(groups), val_fraction)
    num_test = _count(len(groups), test_fraction)
    if num_val + num_test >= len(groups):
        raise ValueError(
            f"{len(groups)} unrelated essays cannot be split into {num_val} for validation, "
            f"{num_test} for test and the rest for training: add essays, or set "
            "data.val_fraction=0 or data.test_fraction=0."
        )
    test, groups = _draw(groups, num_test, rng)
    val, train = _draw(groups, num_val, rng)
    return Split(_take(essays, train), _take(essays, val), _take(essays, test))


def _hold_out_fold(
    essays: Sequence[Essay],
    groups: list[list[int]],
    number: int,
    num_folds: int,
    *,
    val_fraction: float,
    rng: random.Random,
) -> Split:
    """The split of one fold; ``groups`` are sorted by score, so neighbours go to unlike folds."""
    if len(groups) < num_folds:
        raise ValueError(
            f"{len(groups)} unrelated essays cannot be cut into {num_folds} folds: add essays, or "
            "lower data.num_folds."
        )
    folds: list[list[list[int]]] = [[] for _ in range(num_folds)]
    for start in range(0, len(groups), num_folds):
        order = rng.sample(range(num_folds), num_folds)
        for place, group in zip(order, groups[start : start + num_folds], strict=False):
            folds[place].append(group)
    held_out = {group[0] for group in folds[number]}
    rest = [group for group in groups if group[0] not in held_out]
    num_val = _count(len(rest), val_fraction)
    if num_val >= len(rest):
        raise ValueError(
            f"{len(rest)} unrelated essays outside the fold leave none to train on: add essays, or "
            "set data.val_fraction=0."
        )
    val, train = _draw(rest, num_val, rng)
    return Split(_take(essays, train), _take(essays, val), _take(essays, folds[number]))


def group_related(essays: Sequence[Essay]) -> list[list[int]]:
    """Indices of the essays that must not be parted: same source, much of a text, or a page."""
    first_of: dict[str, int] = {}
    overlaps = find_overlaps([essay.text for essay in essays])
    overlaps += find_shared_pages([essay.page_files for essay in essays])
    related = [(overlap.first, overlap.second) for overlap in overlaps]
    for i, essay in enumerate(essays):
        related.append((first_of.setdefault(essay.source or essay.id, i), i))
    return group_pairs(len(essays), related)


def _count(num_groups: int, fraction: float) -> int:
    return max(1, round(num_groups * fraction)) if fraction > 0 else 0


def _mean_total(essays: Sequence[Essay], group: Sequence[int]) -> float:
    return sum(sum(essays[i].scores.values()) for i in group) / len(group)


def _draw(
    groups: list[list[int]], num_drawn: int, rng: random.Random
) -> tuple[list[list[int]], list[list[int]]]:
    """Draws one group from each of ``num_drawn`` equal stretches; returns drawn and left groups."""
    bounds = [len(groups) * k // num_drawn for k in range(num_drawn + 1)] if num_drawn else []
    chosen = {rng.randrange(a, b) for a, b in pairwise(bounds)}
    drawn = [groups[i] for i in sorted(chosen)]
    return drawn, [group for i, group in enumerate(groups) if i not in chosen]


def _take(essays: Sequence[Essay], groups: Sequence[Sequence[int]]) -> tuple[Essay, ...]:
    return tuple(essays[i] for i in sorted(i for group in groups for i in group))
