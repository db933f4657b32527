"""The schema of the config group ``suite``: what is graded beside the essays themselves.

Makes no essay and no Example; ``aes.prompt.suite`` does.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from aes.rubric import Rubric


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NoSuiteSpec:
    """No suite."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SuiteSpec:
    """The robustness suite.

    Attributes:
        num_essays: Source essays, evenly spread over those of the split; ``None``: all.
        gain_points: Change of the total from which an attack counts as a success; ``None``: a
            tenth of the total's range.
    """

    num_essays: Annotated[int, Field(ge=1)] | None
    gain_points: Annotated[float, Field(gt=0)] | None

    def gain_under(self, rubric: Rubric) -> float:
        """``gain_points``, or what stands for it under ``rubric``."""
        if self.gain_points is not None:
            return self.gain_points
        return (rubric.maximum_total - rubric.minimum_total) / 10
