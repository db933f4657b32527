"""Digests of samples -> which are copies, which stand together, and the parts of a split.

Numbers only: no text, no tokens, no file. A hundred thousand samples take a few dozen megabytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aes.corpus.duplicates import group_pairs


@dataclass(frozen=True)
class Census:
    """What is known of every sample, an entry each.

    Attributes:
        ids: Their ids.
        numbers: Their places among all records, from 1.
        lengths: Their tokens.
        labels: Place of the answer among the labels; below 0 for a free one.
        asked: Equal for samples that ask the same.
        twins: Equal for copies.
        keys: What a sample shares with those that must stand on its side.
        beginnings: Keys of samples, if there are such, that it begins with.
    """

    ids: list[str]
    numbers: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    asked: list[int]
    twins: list[int]
    keys: list[tuple[int, ...]]
    beginnings: list[tuple[int, ...]]

    def copies(self) -> Iterator[tuple[int, int]]:
        """Samples that repeat an earlier one, each with the first."""
        first: dict[int, int] = {}
        for place, twin in enumerate(self.twins):
            if first.setdefault(twin, place) != place:
                yield first[twin], place

    def disagreeing(self) -> Iterator[list[int]]:
        """Samples of one prompt with unlike answers, copies left out."""
        first: dict[int, int] = {}
        answered: dict[int, list[int]] = {}
        seen: set[int] = set()
        for place, (twin, asked) in enumerate(zip(self.twins, self.asked, strict=True)):
            if twin in seen:
                continue
            seen.add(twin)
            earlier = first.setdefault(asked, place)
            if earlier != place:
                answered.setdefault(asked, [earlier]).append(place)
        yield from answered.values()

    def groups(self, places: Sequence[int]) -> list[list[int]]:
        """Of these samples those that share a key, directly or through others.

        One that another begins with, as a whole, shares a key with it. Two that merely begin alike,
        with a greeting, do not: else one greeting would bind most chats together.
        """
        first: dict[int, int] = {}
        pairs = [
            (first.setdefault(key, at), at)
            for at, place in enumerate(places)
            for key in self.keys[place]
        ]
        pairs += [
            (first[key], at)
            for at, place in enumerate(places)
            for key in self.beginnings[place]
            if key in first
        ]
        return [[places[at] for at in group] for group in group_pairs(len(places), pairs)]


def deal_groups(
    groups: Sequence[Sequence[int]],
    labels: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, list[int]]:
    """Splits by groups; each held-out part gets its share of the samples of every label.

    A part is owed its fraction of each group as it comes, and takes the group by which its debt
    is paid most nearly. So no group is cut, and one that is larger than a part is trained on.

    Args:
        labels: Of each sample; alike where there are none.
        val_fraction: Share of the samples that validate.
        test_fraction: Share of the samples that test.

    Returns:
        The samples of ``train``, ``val`` and ``test``, ascending.

    Raises:
        ValueError: If there are too few groups.
    """
    order = list(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: labels[group[0]])  # stable: shuffled among those of one label
    fractions = {"test": test_fraction, "val": val_fraction}
    parts: dict[str, list[Sequence[int]]] = {"train": [], "val": [], "test": []}
    owed = dict.fromkeys(fractions, 0.0)
    for group in order:
        for name, fraction in fractions.items():
            owed[name] += fraction * len(group)
        name = max(owed, key=lambda part: owed[part])
        if owed[name] < len(group) / 2 or not fractions[name]:
            name = "train"
        else:
            owed[name] -= len(group)
        parts[name].append(group)
    _fill_empty(parts, [name for name, fraction in fractions.items() if fraction])
    return {name: sorted(i for group in part for i in group) for name, part in parts.items()}


def _fill_empty(parts: dict[str, list[Sequence[int]]], wanted: Sequence[str]) -> None:
    """A part that was asked for gets at least the smallest group, and training keeps one."""
    for name in wanted:
        train = parts["train"]
        if not parts[name] and train:
            parts[name].append(train.pop(min(range(len(train)), key=lambda k: len(train[k]))))
    if not parts["train"]:
        num = sum(map(len, parts.values()))
        raise ValueError(
            f"{num} groups of samples without a prompt or an image in common are too few to split "
            "them: add samples, or set data.val_fraction=0 or data.test_fraction=0."
        )
