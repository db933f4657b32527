"""What every corpus shares: the keys of the conf group ``data``, and the way from files to parts.

``read`` turns files into checked essays, ``split`` turns essays into training, validation and
test parts. A corpus's own module says where its files lie and what they look like. This one knows
no tokens: ``max_tokens`` and ``on_overlong`` are kept here for the plan, which measures samples.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from aes.corpus.check import Draft, FindUndrawable, OpenPage, check_drafts
from aes.corpus.problems import Ledger, OnProblem, Reading
from aes.corpus.split import Split, split_essays
from aes.records import Essay

SCHEMA = ConfigDict(extra="forbid", strict=False)


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class DataSpec(ABC):
    """What every kind of data is told.

    Attributes:
        on_problem: What becomes of an essay or sample with a problem; see ``aes.corpus.problems``.
        on_overlong: What becomes of a sample that is longer than ``max_tokens``.
        max_tokens: Most tokens of a sample, prompt, pages and answer together.
        max_samples: Most samples of the training part; a seeded choice where there are more.
        val_fraction: Share that validates, of what is not related.
        test_fraction: Share that tests, alike.
        split_seed: Chooses what is held out; the run's seed, unless two runs of different seeds
            shall hold out the same.
    """

    on_problem: OnProblem
    on_overlong: Literal["error", "drop", "shrink"]
    max_tokens: Annotated[int, Field(ge=64)]
    max_samples: Annotated[int, Field(ge=1)]
    val_fraction: Annotated[float, Field(ge=0, lt=1)]
    test_fraction: Annotated[float, Field(ge=0, lt=1)]
    split_seed: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class Corpus(DataSpec):
    """A collection of scored essays; held out are source essays.

    Attributes:
        min_chars: An essay with fewer characters, white space not counted, is a problem.
        max_chars: An essay with more characters is a problem.
        fold: Of ``num_folds`` cross-validation folds, counted from 0, the one that tests, and
            ``test_fraction`` is without effect; ``None``: no cross-validation.
        num_folds: ``None`` where ``fold`` is.
    """

    min_chars: Annotated[int, Field(ge=0)]
    max_chars: Annotated[int, Field(ge=1)]
    fold: Annotated[int, Field(ge=0)] | None
    num_folds: Annotated[int, Field(ge=2)] | None

    traits: ClassVar[tuple[str, ...]]
    """The traits whose scores the corpus gives; a rubric must have the same."""

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if (self.fold is None) != (self.num_folds is None):
            raise ValueError(
                "fold and num_folds belong together; set both, as in data.fold=0 data.num_folds=5"
            )
        if self.fold is not None and self.num_folds is not None and self.fold >= self.num_folds:
            raise ValueError(f"fold must be below num_folds={self.num_folds}, got {self.fold}")
        return self

    def read(
        self,
        *,
        find_undrawable: FindUndrawable,
        open_page: OpenPage,
        ranges: Mapping[str, tuple[int, int]],
    ) -> Reading:
        """Reads all essays and checks them; the files stay as they are.

        Args:
            find_undrawable: Returns the characters of a text that the font lacks.
            open_page: Opens an image file, or raises ValueError with the reason why it cannot.
            ranges: Lowest and highest score of each trait of the rubric.

        Raises:
            ValueError: If the rubric has other traits, or there is nothing to read.
        """
        if set(ranges) != set(self.traits):
            raise ValueError(
                f"data gives scores for {', '.join(self.traits)} but the rubric asks for "
                f"{', '.join(ranges)}: choose the rubric that belongs to the data."
            )
        ledger = Ledger(self.on_problem)
        drafts = self._load(ledger)
        essays = check_drafts(
            drafts,
            ledger,
            find_undrawable=find_undrawable,
            open_page=open_page,
            ranges=ranges,
            min_chars=self.min_chars,
            max_chars=self.max_chars,
        )
        return ledger.close(essays)

    def split(self, essays: Sequence[Essay], *, seed: int) -> Split:
        """Cuts essays into parts and makes each part's samples; counts what ``max_samples`` costs.

        Args:
            seed: Of the copies on a ladder and of the choice under ``max_samples``.

        Raises:
            ValueError: If there are too few essays to split.
        """
        parts = split_essays(
            essays,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
            fold=None if self.num_folds is None else (self.fold or 0, self.num_folds),
        )
        parts = self._expand(parts, seed)
        num_left_out = len(parts.train) - self.max_samples
        if num_left_out <= 0:
            return parts
        chosen = random.Random(seed).sample(range(len(parts.train)), self.max_samples)
        train = tuple(parts.train[i] for i in sorted(chosen))
        return replace(parts, train=train, num_left_out=num_left_out)

    def expand(self, essays: Sequence[Essay], *, seed: int) -> tuple[Essay, ...]:
        """All essays as samples, not split: to evaluate on data that nobody trained on."""
        return self._expand(Split((), (), tuple(essays)), seed).test

    @abstractmethod
    def _load(self, ledger: Ledger) -> list[Draft]:
        """Reads the files and reports what cannot be read."""

    def _expand(self, parts: Split, seed: int) -> Split:
        """Makes more samples of each part's essays; a corpus of plain essays makes none."""
        del seed
        return parts
