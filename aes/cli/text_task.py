"""Examples -> answers beside the wanted ones, each rank its share with its own copy of the model.

Wiring only; ``aes.cli.grading_task`` does the same for essays. What a rank has answered it writes
down at once; which samples are to be answered is decided in ``aes.cli.evaluate_text``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aes.cli.engines import needs_weights, open_engine
from aes.cli.requests import TrainedRun
from aes.cli.samples import make_processor
from aes.cli.team import Team
from aes.corpus.instructions import InstructionData
from aes.grading.journal import KeptAnswer, write_lines
from aes.grading.shares import own_path, share_of
from aes.page import PageRenderer
from aes.ranks import Ranks
from aes.records import Answered, Example

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.inference.engine import Engine


class LazyEngine:
    """A run's Engine, loaded when the first sample is to be answered."""

    def __init__(
        self,
        run: TrainedRun,
        processor: Processor | None = None,
        renderer: PageRenderer | None = None,
    ) -> None:
        settings = run.settings
        self.run = run
        self.processor = processor or make_processor(settings, weights=needs_weights(settings))
        self.renderer = renderer or PageRenderer(settings.page)
        self.preparation_s = 0.0

    @cached_property
    def engine(self) -> Engine:
        """The Engine; the first use takes the time of loading."""
        from aes.inference.grammar import grammar_tokenizer

        started = time.perf_counter()
        engine = open_engine(self.run, processor=self.processor, renderer=self.renderer)
        if not (self.run.settings.decoding.constrained and _labels(self.run)):
            grammar_tokenizer(self.processor)  # or the first model to write would seem the slower
        self.preparation_s = time.perf_counter() - started
        return engine

    def release(self) -> None:
        """Give the model's memory back, for the next one; a later use loads it again."""
        self.__dict__.pop("engine", None)
        gc.collect()
        if self.run.settings.hardware.accelerator == "cuda":
            import torch

            torch.cuda.empty_cache()


@dataclass(frozen=True, kw_only=True)
class AnsweringTask:
    """Examples that all ranks answer together.

    Attributes:
        run: Directory of the run that answers.
        examples: Those of all ranks.
        path: Journal of the first rank.
    """

    run: Path
    examples: tuple[Example, ...]
    path: Path
    with_adapter: bool


AnsweringTeam = Team[AnsweringTask, list[KeptAnswer]]


def answer_share(task: AnsweringTask, lazy: LazyEngine, ranks: Ranks) -> list[KeptAnswer]:
    """This rank's share of a task, each sample written down as soon as it is answered."""
    own = share_of(task.examples, ranks, size=_work)
    if not own:
        return []
    engine = lazy.engine
    with nullcontext() if task.with_adapter else engine.without_adapter():
        answered = answer_beside(engine, own, progress=_label(ranks))
        return write_lines(own_path(task.path, ranks), answered, num_ranks=ranks.num_ranks)


class AnsweringFollower:
    """Answers shares of tasks on a rank that is not the first, one run's model at a time."""

    def __init__(self, runs: Sequence[TrainedRun], ranks: Ranks) -> None:
        self.runs = {run.path: run for run in runs}
        self.ranks = ranks
        self._lazy: LazyEngine | None = None

    def answer(self, task: AnsweringTask) -> list[KeptAnswer]:
        """See ``answer_share``."""
        if self._lazy is None or self._lazy.run.path != task.run:
            if self._lazy is not None:
                self._lazy.release()
            self._lazy = LazyEngine(self.runs[task.run])
        return answer_share(task, self._lazy, self.ranks)

    def tidy(self, task: AnsweringTask) -> None:
        """Remove this rank's part, which the first one has put into its file."""
        own_path(task.path, self.ranks).unlink(missing_ok=True)


def answer_beside(
    engine: Engine, examples: Sequence[Example], *, progress: str | None
) -> Iterator[Answered]:
    """Answers beside the wanted ones, in order.

    Raises:
        ValueError: After all others, if some samples got no answer: they are not counted as wrong.
    """
    missing: list[str] = []
    answers = engine.answer(examples, progress=progress)
    for example, answer in zip(examples, answers, strict=True):
        if answer.error:
            missing.append(f"{answer.id}: {answer.error}")
            continue
        yield Answered(
            id=example.id,
            source=example.source or example.id,
            gold="".join(text for text, _ in example.answer),
            text=answer.text,
            probabilities=answer.probabilities,
        )
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(examples)} samples got no answer, the first being "
            f"{missing[0]}; the others are kept, so mend that and start the same command again"
        )


def _labels(run: TrainedRun) -> tuple[str, ...]:
    data = run.settings.data
    return data.labels if isinstance(data, InstructionData) else ()


def _label(ranks: Ranks) -> str | None:
    """What stands beside the bar of the first rank, which shows its own share; others have none."""
    if not ranks.is_first:
        return None
    return "answering" if ranks.num_ranks == 1 else f"answering, one of {ranks.num_ranks} shares"


def _work(example: Example) -> tuple[int, int]:
    """Puts examples in the order of the work that they make: images, then text."""
    turns = (part for message in example.messages for part in message.parts)
    return len(example.pages), sum(len(part) for part in turns if isinstance(part, str))
