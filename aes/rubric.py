"""A marking scheme as data: traits, their ranges and level texts, bands, deductions.

Turns trait scores into totals and totals into bands; ``aes.grading.deductions`` applies the
deductions. It does not know where scores come from: gold or model, it is all the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_SCHEMA = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Level:
    """What a trait looks like when it is worth ``minimum`` to ``maximum`` points."""

    label: str
    minimum: Annotated[int, Field(ge=0)]
    maximum: Annotated[int, Field(ge=0)]
    text: str


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Trait:
    """One thing that is judged, with whole-number scores from ``minimum`` to ``maximum``.

    Attributes:
        label: Its name as markers say it.
        levels: From best to worst; together they cover the range without gap or overlap.
    """

    label: str
    description: str
    minimum: Annotated[int, Field(ge=0)]
    maximum: Annotated[int, Field(ge=1, le=999)]
    levels: tuple[Level, ...]

    @model_validator(mode="after")
    def _levels_cover_the_range(self) -> Trait:
        if self.minimum >= self.maximum:
            raise ValueError(
                f"trait {self.label}: minimum {self.minimum} must be below maximum {self.maximum}"
            )
        covered = [s for lv in self.levels for s in range(lv.minimum, lv.maximum + 1)]
        if self.levels and sorted(covered) != list(range(self.minimum, self.maximum + 1)):
            raise ValueError(
                f"trait {self.label}: its levels must cover {self.minimum} to {self.maximum} "
                "without gap or overlap"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Band:
    """A class of totals, e.g. 一等; it begins at ``minimum`` points and ends below the next."""

    label: str
    minimum: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Cap:
    """An essay of fewer than ``below_chars`` characters gets at most ``total`` points."""

    below_chars: Annotated[int, Field(ge=1)]
    total: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Deductions:
    """What is to be taken off the total for facts that can be counted. All points are positive.

    Attributes:
        missing_title: Points for an essay without a title.
        wrong_character: Points for each different wrong character.
        wrong_characters_free: How many different wrong characters cost nothing.
        wrong_characters_maximum: Most points that wrong characters can cost.
        expected_chars: Length below which an essay counts as short; 0: no such rule.
        short_points: Points for each begun ``short_step_chars`` that are missing.
        short_step_chars: Size of such a step in characters.
        caps: Ceilings of the total for very short essays, from the longest to the shortest; they
            cut what the other deductions leave.
    """

    missing_title: Annotated[int, Field(ge=0)]
    wrong_character: Annotated[int, Field(ge=0)]
    wrong_characters_free: Annotated[int, Field(ge=0)]
    wrong_characters_maximum: Annotated[int, Field(ge=0)]
    expected_chars: Annotated[int, Field(ge=0)]
    short_points: Annotated[int, Field(ge=0)]
    short_step_chars: Annotated[int, Field(ge=1)]
    caps: tuple[Cap, ...]

    @model_validator(mode="after")
    def _every_rule_does_something(self) -> Deductions:
        points, most = self.wrong_character, self.wrong_characters_maximum
        if points > most or (most and not points):
            raise ValueError(
                f"wrong_characters_maximum is {most} and wrong_character {points}: make the "
                "maximum at least as large, or set both to 0"
            )
        if bool(self.expected_chars) != bool(self.short_points):
            raise ValueError(
                f"expected_chars is {self.expected_chars} and short_points {self.short_points}: "
                "set both to 0, or neither"
            )
        return self

    @model_validator(mode="after")
    def _caps_tighten(self) -> Deductions:
        for longer, shorter in pairwise(self.caps):
            if longer.below_chars <= shorter.below_chars or longer.total <= shorter.total:
                raise ValueError(
                    "caps must run from the longest essay to the shortest with falling totals, but "
                    f"below {longer.below_chars} characters gives {longer.total} and then below "
                    f"{shorter.below_chars} gives {shorter.total}"
                )
        return self


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Rubric:
    """A marking scheme.

    Attributes:
        title: Its name as markers say it.
        traits: By their key in data and answers, in the order in which they are asked for.
        bands: Classes of totals from best to worst; the last begins at the least total.
        deductions: ``None`` where the scheme takes nothing off.
    """

    title: str
    traits: Annotated[dict[str, Trait], Field(min_length=1)]
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]
    deductions: Deductions | None

    @model_validator(mode="after")
    def _bands_descend(self) -> Rubric:
        starts = [band.minimum for band in self.bands]
        if starts != sorted(set(starts), reverse=True) or starts[-1] > self.minimum_total:
            raise ValueError(
                f"rubric {self.title}: bands must run from best to worst and the last begin at "
                f"{self.minimum_total}, got {starts}"
            )
        return self

    @model_validator(mode="after")
    def _caps_are_totals(self) -> Rubric:
        for cap in self.deductions.caps if self.deductions else ():
            if not self.minimum_total <= cap.total < self.maximum_total:
                raise ValueError(
                    f"rubric {self.title}: the cap below {cap.below_chars} characters must be from "
                    f"{self.minimum_total} to {self.maximum_total - 1} points, got {cap.total}"
                )
        return self

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """Lowest and highest score of each trait."""
        return {name: (t.minimum, t.maximum) for name, t in self.traits.items()}

    @property
    def minimum_total(self) -> int:
        """The least that the traits can sum to."""
        return sum(t.minimum for t in self.traits.values())

    @property
    def maximum_total(self) -> int:
        """The most that the traits can sum to."""
        return sum(t.maximum for t in self.traits.values())

    def total(self, scores: Mapping[str, float]) -> float:
        """Sum of the traits, before deductions.

        Raises:
            ValueError: If a trait is missing or is not one of this rubric's.
        """
        if scores.keys() != self.traits.keys():
            raise ValueError(
                f"scores for {sorted(scores)} do not fit the rubric {self.title}, whose traits are "
                f"{sorted(self.traits)}; choose the rubric that the data was marked with"
            )
        return sum(scores[name] for name in self.traits)

    def band_index(self, total: float) -> int:
        """Place of a total among ``bands``, 0 for the best.

        Args:
            total: As it is; a total of 47.6 is below a band that begins at 48.

        Raises:
            ValueError: If the total lies below the last band or is NaN.
        """
        for index, band in enumerate(self.bands):
            if total >= band.minimum:
                return index
        raise ValueError(
            f"a total of {total:g} is below the last band of the rubric {self.title}, which begins "
            f"at {self.bands[-1].minimum}; grade under the rubric that the total belongs to"
        )

    def band_of(self, total: float) -> Band:
        """The band of a total; see ``band_index``."""
        return self.bands[self.band_index(total)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class NoRubric:
    """Stands for a rubric where answers are not scored."""

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """No trait."""
        return {}
