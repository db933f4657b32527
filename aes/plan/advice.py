"""Settings and the size of the data -> hints where they depart from what usually works.

The rules are data (``advice.yaml``), each with its reason. Advice never stops a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Rule:
    """One hint.

    Attributes:
        setting: Name of the value that is judged.
        samples: Training samples for which it holds, from and below.
        range: Values that need no hint, both ends included.
        say: Hint, formatted with ``value`` and everything that is known.
        because: Where the range comes from.
        random_too: Whether it holds for a model with random weights.
    """

    setting: str
    samples: tuple[float, float]
    range: tuple[float, float]
    say: str
    because: str
    random_too: bool = False


@cache
def load_rules() -> tuple[Rule, ...]:
    """The shipped rules, in the order in which they speak."""
    text = resources.files("aes.plan").joinpath("advice.yaml").read_text(encoding="utf-8")
    return tuple(Rule(**rule) for rule in yaml.safe_load(text))


def advise(settings: Mapping[str, float], *, strategy: str, is_random: bool) -> tuple[str, ...]:
    """Hints on these settings.

    Args:
        settings: Value by name; ``samples`` is the size of the training split. A rule about a name
            that is not here is silent.
        strategy: Its name, to be spoken of.
        is_random: Whether the base has random weights, about which experience says little.
    """
    samples = settings["samples"]
    return tuple(
        rule.say.format(value=settings[rule.setting], strategy=strategy, **settings)
        for rule in load_rules()
        if rule.setting in settings
        and rule.samples[0] <= samples < rule.samples[1]
        and not rule.range[0] <= settings[rule.setting] <= rule.range[1]
        and (rule.random_too or not is_random)
    )
