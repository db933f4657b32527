"""How a part that is held out is judged while a model is trained: by grades, or by texts.

Every rank makes the same passes, whatever its samples are. Knows no trainer and no optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch

from aes.data.collate import IGNORED
from aes.data.dealing import Dealt, TextBatch
from aes.grading import Grader
from aes.inference.engine import Engine
from aes.kernels.forward import autocast
from aes.metrics.classification import UNPARSED, confusion_matrix, metrics_of_confusion
from aes.metrics.grades import AgreementMetrics, validation_names
from aes.metrics.groups import by_group
from aes.metrics.results import Agreement
from aes.ranks import ALONE, Ranks
from aes.records import Example, Grade, Marked
from aes.report.samples import SampleRow
from aes.training.loss import summed_loss
from aes.training.sample_table import gold_text, graded_rows, text_rows
from aes.training.spec import LossSpec


class Validation(Protocol):
    """Judges batches, and then says what they come to over all ranks."""

    engine: Engine

    def begin(self) -> None:
        """Forget the last validation."""
        ...

    def step(self, batch: Any) -> None:
        """Judge a batch of the validation loader."""
        ...

    def end(self) -> dict[str, float]:
        """Metrics by name, without ``val/``; all ranks call this together."""
        ...

    def groups(self) -> Mapping[str, Agreement]:
        """Agreement in the last validation by what was done to the essay; empty without essays."""
        ...

    def show(
        self, examples: Sequence[Example], *, num_examples: int, scores_only: bool
    ) -> list[SampleRow]:
        """A few examples answered in full; all ranks call this together.

        Args:
            scores_only: Ranks must stay in step: nothing is written whose length is the model's.
        """
        ...


class GradingValidation:
    """Grades essays; scores only, so that every rank makes the same passes.

    Args:
        grader: Holds the model that is trained.

    Attributes:
        graded: Examples of the last validation with their grades.
    """

    def __init__(self, grader: Grader, *, ranks: Ranks = ALONE) -> None:
        self.engine, self.grader, self._ranks = grader.engine, grader, ranks
        self.graded: list[tuple[Example, Grade]] = []
        self._agreement = AgreementMetrics(grader.rubric)

    def begin(self) -> None:
        """See ``Validation``."""
        self._agreement.reset()
        self.graded = []

    def step(self, batch: Sequence[Dealt]) -> None:
        """See ``Validation``."""
        grades = self.grader.grade([one.example for one in batch], scores_only=True)
        found = [
            (one.example, grade) for one, grade in zip(batch, grades, strict=True) if one.counts
        ]
        self._agreement.update(
            [grade for _, grade in found], [example.scores for example, _ in found]
        )
        self.graded += found

    def end(self) -> dict[str, float]:
        """See ``Validation``."""
        self.graded = [pair for part in self._ranks.gather(self.graded) for pair in part]
        found = self._agreement.compute()
        return {name: float(found[name]) for name in validation_names(found)}

    def groups(self) -> Mapping[str, Agreement]:
        """See ``Validation``."""
        marked = [
            Marked(
                id=example.id,
                source=example.source,
                group=example.group,
                num_chars=example.num_chars,
                gold=example.scores,
                gold_text="",
                grade=grade,
            )
            for example, grade in self.graded
        ]
        return by_group(marked, rubric=self.grader.rubric, threshold=None, num_resamples=0, seed=0)

    def show(
        self, examples: Sequence[Example], *, num_examples: int, scores_only: bool
    ) -> list[SampleRow]:
        """See ``Validation``."""
        return graded_rows(
            self.grader, examples, num_examples=num_examples, scores_only=scores_only
        )


class TextValidation:
    """Takes the loss of gold answers and, where there are labels, has the model choose.

    The loss is the mean over all supervised tokens of the part, so it depends neither on batches
    nor on ranks.

    Args:
        engine: Holds the model that is trained.
        labels: Of which every answer is one; empty: answers are free.
        precision: As the model was loaded.
        logit_rows: Rows of logits that are there at once; ``None``: all.
    """

    _spec = LossSpec(name="ce", feedback_weight=1.0)

    def __init__(
        self,
        engine: Engine,
        *,
        labels: Sequence[str],
        precision: Literal["fp32", "bf16"],
        logit_rows: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.engine, self._labels, self._ranks = engine, tuple(labels), ranks
        self._precision, self._logit_rows = precision, logit_rows
        self.begin()

    def begin(self) -> None:
        """See ``Validation``."""
        num = len(self._labels)
        self._loss, self._num_tokens = 0.0, 0
        self._confusion = torch.zeros(num, num + 1, dtype=torch.int64)

    def step(self, batch: TextBatch) -> None:
        """See ``Validation``."""
        for tensors in batch.micro_batches:
            with autocast(self._precision, tensors["labels"].device):
                loss = summed_loss(
                    self.engine.model,
                    tensors,
                    spec=self._spec,
                    score_steps=self.engine.processor.guide.table,
                    logit_rows=self._logit_rows,
                )
            self._loss += float(loss)
            self._num_tokens += int((tensors["labels"] != IGNORED).sum())
        if self._labels:
            self._choose(batch.dealt)

    def _choose(self, dealt: Sequence[Dealt]) -> None:
        answers = list(self.engine.answer([one.example for one in dealt]))
        places = {label: place for place, label in enumerate(self._labels)}
        counted = [
            (places.get(answer.text, UNPARSED), places[gold_text(one.example)])
            for one, answer in zip(dealt, answers, strict=True)
            if one.counts
        ]
        pred, gold = torch.tensor(counted, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
        self._confusion += confusion_matrix(pred, gold, num_classes=len(self._labels))

    def end(self) -> dict[str, float]:
        """See ``Validation``."""
        parts = self._ranks.gather((self._loss, self._num_tokens, self._confusion))
        losses, tokens, tables = zip(*parts, strict=True)
        found = {"loss": sum(losses) / max(1, sum(tokens))}
        if self._labels:
            of_labels = metrics_of_confusion(sum(tables), labels=self._labels)
            found |= {name: float(of_labels[name]) for name in ("accuracy", "f1")}
        return found

    def groups(self) -> Mapping[str, Agreement]:
        """See ``Validation``."""
        return {}

    def show(
        self, examples: Sequence[Example], *, num_examples: int, scores_only: bool
    ) -> list[SampleRow]:
        """See ``Validation``."""
        if scores_only and not self._labels:
            return []
        return text_rows(self.engine, examples, num_examples=num_examples)
