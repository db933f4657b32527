"""Trials of a sweep, and what may be said of them.

Knows neither how they were run nor how they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

_INTERVAL_AT_ONE = 1.6
"""Half-width of a 95 % interval of QWK is about this over the root of the number of essays.

Source: bootstrap intervals of about .1 at 300 essays and .2 at 60; a rule of thumb, no test.
"""

_LONGEST_NUMBER = 8
"""Characters of a number that is shown as it was given."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial.

    Attributes:
        name: Its folder within the sweep's.
        varied: The values that tell it from the others, by key.
        state: ``finished``, ``failed``, ``interrupted`` or ``running``.
        objective: The metric that is compared, higher is better; ``None`` without validation.
        metrics: The run's last metrics by name.
        num_essays: Source essays that validated; ``None`` where that is not known.
        seconds: Of work.
        error: Why it failed, in a sentence.
    """

    name: str
    varied: Mapping[str, str]
    state: str
    objective: float | None
    metrics: Mapping[str, float]
    num_essays: int | None
    seconds: float
    error: str

    @property
    def label(self) -> str:
        """The varied values on one line."""
        return ", ".join(f"{key}={self.shown(key)}" for key in self.varied) or self.name

    def shown(self, key: str) -> str:
        """A varied value in a few digits, since a sampler gives seventeen; empty without one."""
        value = self.varied.get(key, "")
        try:
            return f"{float(value):.3g}" if len(value) > _LONGEST_NUMBER else value
        except ValueError:
            return value


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep, finished or not.

    Attributes:
        title: The command.
        folder: Where it is kept.
        varied: Keys that differ between trials.
        monitor: Name of the objective, e.g. ``val/qwk/total``.
        num_trials: How many trials it is to have.
        trials: Those that were started, in order.
    """

    title: str
    folder: Path
    varied: tuple[str, ...]
    monitor: str
    num_trials: int
    trials: tuple[Trial, ...]

    @property
    def measured(self) -> tuple[Trial, ...]:
        """Trials with an objective."""
        return tuple(one for one in self.trials if one.objective is not None)

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective, the first of equals; ``None`` without any."""
        sign = -1 if self.monitor.endswith("/loss") else 1
        return max(self.measured, key=lambda one: sign * (one.objective or 0.0), default=None)

    @property
    def num_essays(self) -> int | None:
        """Fewest essays that validated a trial; ``None`` where that is not known."""
        known = [one.num_essays for one in self.measured if one.num_essays is not None]
        return min(known, default=None)

    @property
    def noise(self) -> float | None:
        """About half a 95 % interval of one trial's QWK; ``None`` where it is not known."""
        if not self.num_essays or "/qwk/" not in self.monitor:
            return None
        return min(1.0, _INTERVAL_AT_ONE / sqrt(self.num_essays))

    @property
    def spread(self) -> float:
        """From the lowest objective to the highest; 0 without any."""
        values = [one.objective for one in self.measured if one.objective is not None]
        return max(values, default=0.0) - min(values, default=0.0)

    def metric_names(self) -> list[str]:
        """Validation metrics beside the objective, in the order in which runs give them."""
        names = dict.fromkeys(name for one in self.trials for name in one.metrics)
        return [n for n in names if n.startswith("val/") and n != self.monitor]
