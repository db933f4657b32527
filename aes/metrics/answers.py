"""Answers in text beside the ones that were wanted -> text metrics, labels, speed, with intervals.

What a model says to free questions is measured by BLEU-4 and ROUGE, what it chooses from labels by
``aes.metrics.classification``. Plain data at the top, for reports; knows no run and no file.

Names are those of ``aes.metrics.text`` in percent, and those of ``aes.metrics.classification``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import torch
from torch import Tensor

from aes.metrics.bootstrap import bootstrap
from aes.metrics.classification import Classification, measure_labels
from aes.metrics.results import Interval, Metrics
from aes.metrics.text import NAMES, text_scores
from aes.prompt.choices import read_choice
from aes.records import Answered


@dataclass(frozen=True, kw_only=True)
class AnswersResult:
    """What one model's answers are worth.

    Attributes:
        answered: The samples, in the order of the data.
        text: Means of BLEU-4 and ROUGE over the samples, in percent; NaN without samples.
        text_intervals: Of those.
        of_samples: The same of each sample.
        labels: Of answers that should be labels; ``None``: they are free.
        preds: The label that each answer is; ``None`` where it is none. Empty for free answers.
        answering_s: Wall time of answering all of them, in seconds.
        preparation_s: Of loading the model; NaN where it was not measured.
    """

    answered: Sequence[Answered]
    text: Metrics
    text_intervals: Mapping[str, Interval] = field(default_factory=dict)
    of_samples: Sequence[Metrics] = ()
    labels: Classification | None = None
    preds: Sequence[str | None] = ()
    answering_s: float = nan
    preparation_s: float = nan

    @property
    def samples_per_s(self) -> float:
        """Samples answered a second; NaN where no time is known."""
        return len(self.answered) / self.answering_s if self.answering_s > 0 else nan


@dataclass(frozen=True, kw_only=True)
class AnswersEvaluation:
    """Everything that one evaluation of answers in text found.

    Attributes:
        facts: What was evaluated, by label, in the order to be shown.
        models: By name, ``trained`` first, then ``base`` where it was asked for, then other runs by
            theirs; all of the same samples in the same order.
        choices: The labels; empty where answers are free.
    """

    facts: Mapping[str, str]
    models: Mapping[str, AnswersResult]
    choices: tuple[str, ...] = ()

    @property
    def trained(self) -> AnswersResult:
        """What was trained."""
        return self.models["trained"]


def measure_answers(
    answered: Sequence[Answered],
    *,
    choices: Sequence[str],
    num_resamples: int,
    seed: int,
    answering_s: float = nan,
    preparation_s: float = nan,
) -> AnswersResult:
    """Measures one model's answers.

    Args:
        answered: Answers beside the wanted ones.
        choices: Texts of which each wanted answer is one; empty: answers are free.
        num_resamples: Of the bootstrap over sources; 0: no intervals.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: If a wanted answer is none of the choices.
    """
    sources = [one.source for one in answered]
    of_samples = [text_scores(one.text, one.gold) for one in answered]
    scores = torch.tensor([[s[name] for name in NAMES] for s in of_samples], dtype=torch.float64)

    def means(counts: Tensor) -> dict[str, Tensor]:
        sums = counts @ scores.view(-1, len(NAMES)) / counts.sum(dim=-1, keepdim=True)
        return dict(zip(NAMES, sums.unbind(dim=-1), strict=True))

    labels, preds = None, list[str | None]()
    if choices:
        preds = [read_choice(one.text, choices) for one in answered]
        labels = measure_labels(
            preds,
            [one.gold for one in answered],
            labels=choices,
            sources=sources,
            num_resamples=num_resamples,
            seed=seed,
        )
    whole = means(torch.ones(len(answered), dtype=torch.float64))
    return AnswersResult(
        answered=answered,
        text={name: float(value) for name, value in whole.items()},
        text_intervals=bootstrap(means, sources, num_resamples=num_resamples, seed=seed),
        of_samples=of_samples,
        labels=labels,
        preds=preds,
        answering_s=answering_s,
        preparation_s=preparation_s,
    )
