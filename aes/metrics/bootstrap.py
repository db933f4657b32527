"""A statistic of essays -> the interval within which it would move on other essays alike.

Draws whole source essays with replacement, since copies of one essay rise and fall together. It
does not know what is measured: the statistic takes how often each essay counts.

The interval is the plain percentile one. BCa, which shifts the percentiles for bias and skewness,
has no value where all resamples lie on one side of the estimate (a parse rate of 1, no essay
exact), and there is little to shift: on simulated normal scores (correlations .35 and .7, 400
samples each) percentile intervals of kappa, Pearson, RMSE, SMD and SD ratio held the truth in 93
to 95 % of the samples of 300 essays, and in 91 to 95 % of those of 60.

Source: Efron (1979), Annals of Statistics 7(1), 1-26 (bootstrap); Efron and Tibshirani (1993), An
    Introduction to the Bootstrap, chapter 13 (percentiles); Field and Welsh (2007), Journal of
    the Royal Statistical Society B 69(3), 369-390 (whole clusters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from aes.metrics.results import Interval

CONFIDENCE = 0.95
# Resamples are worked off in stretches of so many counts, 32 MiB in float64.
_MOST_COUNTS = 2**22


def bootstrap(
    statistics: Callable[[Tensor], Mapping[str, Tensor]],
    sources: Sequence[str],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """95 % percentile intervals of statistics over source essays.

    Args:
        statistics: Takes counts, float64, shape ``[R, N]``: how often each essay stands in each
            resample. Returns values by name, shape ``[R]``; NaN where undefined.
        sources: Source of each essay, length N.
        num_resamples: At least 0; 0 gives no intervals.
        seed: The same seed gives the same intervals.

    Returns:
        By name. Resamples in which a statistic is undefined are left out of its interval; both
        ends are NaN where none is left, or where there are fewer than two sources, which leaves
        nothing to vary.
    """
    parts = [
        statistics(counts)
        for counts in draw_counts(sources, num_resamples=num_resamples, seed=seed)
    ]
    if not parts:
        return {}
    if len(set(sources)) < 2:
        return dict.fromkeys(parts[0], Interval(float("nan"), float("nan")))
    ends = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    values = {name: torch.cat([part[name] for part in parts]).double() for name in parts[0]}
    return {
        name: Interval(*torch.nanquantile(value, ends).tolist()) for name, value in values.items()
    }


def draw_counts(sources: Sequence[str], *, num_resamples: int, seed: int) -> Iterator[Tensor]:
    """Draw as many sources as there are, with replacement, many times over.

    Args:
        sources: Source of each essay, length N.
        num_resamples: At least 0.
        seed: The same seed gives the same counts.

    Yields:
        How often each essay counts, float64, shape ``[r, N]``, in stretches that together have
        ``num_resamples`` rows; nothing without essays. Essays of one source count alike.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(sources))}
    if not names:
        return
    columns = np.array([names[source] for source in sources])
    rng = np.random.default_rng(seed)
    shares = np.full(len(names), 1 / len(names))
    most_rows = max(1, _MOST_COUNTS // len(sources))
    for start in range(0, num_resamples, most_rows):
        num_rows = min(most_rows, num_resamples - start)
        drawn = rng.multinomial(len(names), shares, size=num_rows)
        yield torch.from_numpy(drawn[:, columns]).double()
