"""Graded essays -> agreement within groups of them: by length, by band, by what was done to them.

Small groups make noisy numbers, so that each comes with its size and, where asked for, intervals.
Kappa and correlations shrink wherever the gold scores of a group differ little, as within a band
they must: compare ``mae`` and ``mean_shift`` there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aes.metrics.marks import band_indices, gold_marks
from aes.metrics.measure import measure
from aes.metrics.results import Agreement
from aes.records import Marked
from aes.rubric import Rubric

ORIGINAL = "original"


def by_length(
    marked: Sequence[Marked],
    *,
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Agreement]:
    """Agreement by quartile of the length, from short to long.

    Args:
        marked: Graded essays.
        rubric: As for ``aes.metrics.measure.measure``, like the others.

    Returns:
        By label, e.g. ``"402-655 chars"``, with the lengths that occur. Essays of one length stand
        together, so that quartiles may be uneven or missing. Empty where any length is unknown.
    """
    lengths = np.array([each.num_chars for each in marked])
    if not len(lengths) or not lengths.all():
        return {}
    cuts = np.quantile(lengths, [0.25, 0.5, 0.75])
    quartiles = np.searchsorted(cuts, lengths)
    labels = {}
    for quartile in np.unique(quartiles):
        inside = lengths[quartiles == quartile]
        labels[quartile] = f"{inside.min()}-{inside.max()} chars"
    return _by_label(
        marked,
        [labels[quartile] for quartile in quartiles],
        list(labels.values()),
        rubric=rubric,
        threshold=threshold,
        num_resamples=num_resamples,
        seed=seed,
    )


def by_band(
    marked: Sequence[Marked],
    *,
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Agreement]:
    """Agreement by band of the gold total, from best to worst; bands without essays are left out.

    Args:
        marked: Graded essays.
        rubric: Its bands' labels name the groups; else as for ``aes.metrics.measure.measure``.
    """
    bands = [band.label for band in rubric.bands]
    totals = gold_marks(marked, rubric).awarded[:, 0]
    return _by_label(
        marked,
        # Indices count from the least band, the rubric lists the best one first.
        [bands[-1 - int(index)] for index in band_indices(totals, rubric)],
        bands,
        rubric=rubric,
        threshold=threshold,
        num_resamples=num_resamples,
        seed=seed,
    )


def by_group(
    marked: Sequence[Marked],
    *,
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Agreement]:
    """Agreement by what was done to the essays, in the order in which it first appears.

    Args:
        marked: Graded essays; their group is a kind with a level, as in ``"cut_50"``, or nothing.
        rubric: As for ``aes.metrics.measure.measure``, like the others.

    Returns:
        By kind, e.g. ``"cut"``; ``"original"`` for essays without a group. Empty where there are
        originals alone.
    """
    if not any(each.group for each in marked):
        return {}
    kinds = [each.group.rsplit("_", 1)[0] or ORIGINAL for each in marked]
    return _by_label(
        marked,
        kinds,
        list(dict.fromkeys(kinds)),
        rubric=rubric,
        threshold=threshold,
        num_resamples=num_resamples,
        seed=seed,
    )


def _by_label(
    marked: Sequence[Marked],
    labels: Sequence[str],
    order: Sequence[str],
    *,
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Agreement]:
    members: dict[str, list[Marked]] = {label: [] for label in order}
    for each, label in zip(marked, labels, strict=True):
        members[label].append(each)
    return {
        label: measure(
            inside, rubric=rubric, threshold=threshold, num_resamples=num_resamples, seed=seed
        )
        for label, inside in members.items()
        if inside
    }
