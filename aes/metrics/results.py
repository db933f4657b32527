"""What an evaluation found, as plain data: made by the modules beside this one, shown by reports.

Frozen dataclasses and nothing else; NaN stands for what is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Literal

from aes.records import Marked

Metrics = Mapping[str, float]
"""By name, e.g. ``qwk/total`` or ``mae/content``; see ``aes.metrics.grades``."""


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval, 95 % unless said otherwise; NaN at both ends where undefined."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well one set of Grades agrees with the gold scores.

    Attributes:
        num: Essays.
        num_sources: Independent essays among them, copies of one counted once.
        metrics: See ``aes.metrics.grades`` for the names.
        intervals: Of those metrics that have one.
    """

    num: int
    num_sources: int
    metrics: Metrics
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DoubleMarking:
    """Two runs as two markers of the same essays.

    Attributes:
        names: The two runs.
        num: Essays that both graded.
        threshold: Most points of the total by which markers may differ without arbitration.
        agreement: Metrics of the second marker against the first.
        arbitration_rate: Share of essays on which they differ by more, or which one could not
            read.
        first: Agreement of the first marker with gold.
        second: Alike.
        mean: Agreement of the mean of both with gold.
        mean_accepted: The same over the essays that need no arbitration.
    """

    names: tuple[str, str]
    num: int
    threshold: float
    agreement: Metrics
    arbitration_rate: float
    first: Agreement
    second: Agreement
    mean: Agreement
    mean_accepted: Agreement


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """Another run on the same essays.

    Attributes:
        agreement: Of its grades with the gold scores.
        difference: Its metrics less the first run's, with the intervals of these differences.
    """

    agreement: Agreement
    difference: Agreement


@dataclass(frozen=True, kw_only=True)
class LadderResult:
    """Whether scores fall as an essay gets worse, over one kind of harm or over all.

    Attributes:
        num_pairs: Pairs of copies of one essay of which one is harmed more.
        share_in_order: Share of pairs in which the worse copy got less; equal counts half.
        mean_drop: Mean drop of the expected total from one step to the next worse one, in points.
        interval: Of ``share_in_order``, over source essays.
        drop_interval: Of ``mean_drop``, alike.
    """

    num_pairs: int
    share_in_order: float
    mean_drop: float
    interval: Interval
    drop_interval: Interval


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What one attack does to the expected total.

    Attributes:
        name: Of the attack, e.g. ``order/page``.
        goal: What success means: ``gain``: at least ``gain_points`` more than the honest essay
            got; ``unnoticed``: the essay is worthless now, yet lost less than ``gain_points``.
        num: Attacked essays.
        mean_change: Attacked less honest, in points; above 0: the attack pays.
        interval: Of ``mean_change``, over source essays.
        num_with_room: Those of them on which success can be told from failure, as the honest total
            leaves room: ``gain_points`` below the rubric's maximum for ``gain``, above its minimum
            for ``unnoticed``.
        success_rate: Share of essays with room on which it succeeded; NaN where there are none.
        success_interval: Of ``success_rate``, over source essays.
        worst_change: The largest gain.
    """

    name: str
    goal: Literal["gain", "unnoticed"]
    num: int
    mean_change: float
    interval: Interval
    num_with_room: int
    success_rate: float
    success_interval: Interval
    worst_change: float


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The robustness suite.

    Attributes:
        ladder: By kind of harm, and ``all``.
        attacks: One for each attack; those in several wordings or places have a line for each and
            one for all.
        honest_drift: Mean absolute change of the expected total of honest essays when only what
            should not matter changes (the page's noise, the type size), in points.
        gain_points: Gain of the expected total from which an attack counts as a success.
        num_essays: Honest essays of which the others were made.
        skipped: Reason why something could not be tried, and on how many essays.
    """

    ladder: Mapping[str, LadderResult]
    attacks: Sequence[AttackResult]
    honest_drift: Mapping[str, float]
    gain_points: float
    num_essays: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that one evaluation found.

    Attributes:
        facts: What was evaluated, by label, in the order to be shown: run, model, adapter digest,
            data, split, decoding and so on.
        marked: The graded essays, in the order of the data.
        agreement: As the model graded.
        by_length: The same by length quartile; empty where lengths are not known.
        by_band: By band of the gold total.
        by_group: By degradation; empty without any.
        calibrated: By method (``linear``, ``isotonic``): after calibration on other essays.
        calibrated_totals: By method too: the expected subtotal of each essay after calibration, in
            the order of ``marked``, points; NaN where the answer could not be read.
        calibration_source: What the maps were fitted on: ``val``: the run's own held-out part;
            ``folds``: the other folds; ``part``: other essays of the same part; empty without.
        calibration_note: The same in words, with what was left uncalibrated and why.
        baselines: By name (``mean``, ``length_ridge``, ``tfidf_ridge``, ``tfidf_ridge_rescaled``,
            ``no_adapter``).
        text: ``predict_bleu-4`` and so on; empty without gold answers.
        double: With a second run only.
        compared: Other runs on the same essays, by name.
        robustness: With the suite only.
        threshold: Most points of the total by which two markers may differ without arbitration;
            NaN where that is not known.
        is_sample: Whether the data is the embedded sample.
    """

    facts: Mapping[str, str]
    marked: Sequence[Marked]
    agreement: Agreement
    by_length: Mapping[str, Agreement] = field(default_factory=dict)
    by_band: Mapping[str, Agreement] = field(default_factory=dict)
    by_group: Mapping[str, Agreement] = field(default_factory=dict)
    calibrated: Mapping[str, Agreement] = field(default_factory=dict)
    calibrated_totals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    calibration_source: Literal["", "val", "folds", "part"] = ""
    calibration_note: str = ""
    baselines: Mapping[str, Agreement] = field(default_factory=dict)
    text: Metrics = field(default_factory=dict)
    double: DoubleMarking | None = None
    compared: Mapping[str, ComparedRun] = field(default_factory=dict)
    robustness: Robustness | None = None
    threshold: float = nan
    is_sample: bool = False
