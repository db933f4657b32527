"""An Agreement -> whether it meets what ETS asks of a scoring engine, each with a sentence.

The limits were set for human scores on scales of about six points, so that exact and adjacent
agreement are taken of the rubric's bands and not of single points. ETS also asks that an engine
agree with people nearly as well as people agree with each other; that needs essays marked twice by
people and is left out.

Source: Williamson, Xi and Breyer (2012), Educational Measurement: Issues and Practice 31(1), 2-13,
    for kappa, correlation and standardised mean difference; exact agreement below 50 % and adjacent
    agreement below 95 % are flagged beside them, and are met more easily on four bands than on six
    points.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

from aes.metrics.results import Agreement, Interval


class Criterion(NamedTuple):
    """How an Agreement stands to one limit.

    Attributes:
        criterion: Name of the metric, e.g. ``qwk/total``.
        value: Of that metric; the absolute one for ``smd/total``.
        limit: Least value that meets the criterion, or highest one for ``smd/total``.
        passed: Whether it is met; ``None`` where this is not proven, since the interval also holds
            values that miss it, or where the value is undefined.
        sentence: The same in words.
    """

    criterion: str
    value: float
    limit: float
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class _Limit:
    metric: str
    label: str
    limit: float
    is_most: bool = False
    is_share: bool = False

    def is_met_by(self, value: float) -> bool:
        return value <= self.limit if self.is_most else value >= self.limit

    def show(self, value: float) -> str:
        """Rounded, but never onto the limit: what misses it must not read as if it met it."""
        if isnan(value):
            return "-"
        least = 0 if self.is_share else 2
        for num_digits in range(least, least + 5):
            form = f".{num_digits}{'%' if self.is_share else 'f'}"
            if value == self.limit or format(value, form) != format(self.limit, form):
                break
        return format(value, form)


_LIMITS = (
    _Limit("qwk/total", "Quadratic weighted kappa", 0.70),
    _Limit("pearson/total", "Pearson correlation", 0.70),
    _Limit("band_exact/total", "Same band", 0.50, is_share=True),
    _Limit("band_adjacent/total", "Same or neighbouring band", 0.95, is_share=True),
    _Limit("smd/total", "Absolute standardised mean difference", 0.15, is_most=True),
)


def verdict(agreement: Agreement) -> list[Criterion]:
    """Hold an Agreement against the limits of ETS.

    Args:
        agreement: Best of pooled out-of-fold predictions, with intervals; without intervals a
            value alone decides.
    """
    return [
        _judge(limit, agreement.metrics[limit.metric], agreement.intervals.get(limit.metric))
        for limit in _LIMITS
    ]


def _judge(limit: _Limit, value: float, interval: Interval | None) -> Criterion:
    if limit.is_most:
        value, interval = abs(value), interval and _absolute(interval)
    shown = limit.show(value)
    # Ends of the interval from worse to better; without one the value has to do.
    ends = [value, value]
    if interval is not None and not isnan(interval.low):
        shown += f" (95 % interval {limit.show(interval.low)} to {limit.show(interval.high)})"
        ends = sorted((interval.low, interval.high), reverse=limit.is_most)
    passed, word = _decide(limit, value, ends)
    side = "at most" if limit.is_most else "at least"
    sentence = f"{limit.label}: {shown}; {side} {limit.show(limit.limit)} is asked for: {word}."
    return Criterion(limit.metric, value, limit.limit, passed, sentence)


def _decide(limit: _Limit, value: float, ends: list[float]) -> tuple[bool | None, str]:
    if isnan(value):
        return None, "undefined on these essays"
    worse, better = (limit.is_met_by(end) for end in ends)
    if not limit.is_met_by(value):
        return False, "missed, perhaps by chance" if better else "missed"
    if not worse:
        return None, "not proven, the interval also holds values that miss"
    return True, "met"


def _absolute(interval: Interval) -> Interval:
    """The absolute values that an interval holds."""
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return Interval(0.0 if interval.low < 0 < interval.high else low, high)
