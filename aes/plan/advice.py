"""Settings and the size of the data -> hints where they depart from what usually works.

The rules are data (``advice.yaml``), each with its reason. Advice never stops a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Self

import yaml
from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Rule:
    """One hint.

    Attributes:
        setting: Name of the value that is judged.
        samples: Training samples for which it holds, from and below.
        range: Numbers that need no hint, both ends included.
        among: Names that need no hint, for a setting that is one of some names.
        say: Hint, formatted with ``value`` and everything that is known.
        because: Where the range comes from.
        random_too: Whether it holds for a model with random weights.
    """

    setting: str
    samples: tuple[float, float]
    say: str
    because: str
    range: tuple[float, float] | None = None
    among: tuple[str, ...] = ()
    random_too: bool = False

    @model_validator(mode="after")
    def _judges_numbers_or_names(self) -> Self:
        assert (self.range is None) == bool(self.among), f"{self.setting}: range or among"
        return self

    def is_content_with(self, value: float | str) -> bool:
        """Whether a value needs no hint."""
        if self.range is None:
            return value in self.among
        return self.range[0] <= float(value) <= self.range[1]


@cache
def load_rules() -> tuple[Rule, ...]:
    """The shipped rules, in the order in which they speak."""
    text = resources.files("aes.plan").joinpath("advice.yaml").read_text(encoding="utf-8")
    return tuple(Rule(**rule) for rule in yaml.safe_load(text))


def advise(
    settings: Mapping[str, float | str], *, strategy: str, is_random: bool
) -> tuple[str, ...]:
    """Hints on these settings.

    Args:
        settings: Value by name; ``samples`` is the size of the training split. A rule about a name
            that is not here is silent.
        strategy: Its name, to be spoken of.
        is_random: Whether the base has random weights, about which experience says little.
    """
    samples = float(settings["samples"])
    return tuple(
        rule.say.format(value=settings[rule.setting], strategy=strategy, **settings)
        for rule in load_rules()
        if rule.setting in settings
        and rule.samples[0] <= samples < rule.samples[1]
        and not rule.is_content_with(settings[rule.setting])
        and (rule.random_too or not is_random)
    )
