"""Examples to Answers. The only way to an answer: validation, evaluation and prediction share it.

The form of a graded answer is written by us and only its scores and its comment by the model, so
every answer can be read; where there are choices the likeliest is the answer; free text is the
model's own. Knows no rubric beyond the ranges; Grades are made downstream.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from aes.data.processor import Processor
from aes.inference.batches import Numbered, batches_of_like, in_order
from aes.inference.choices import ChoiceTree, score_choices
from aes.inference.decoder import CachedRows
from aes.inference.grammar import Grammar
from aes.inference.memory import Memory, take_memory
from aes.inference.progress import progress_bar
from aes.inference.prompts import Prompt, draw_prompts, read_prompt
from aes.inference.scores import write_scores
from aes.inference.spec import DecodingSpec, HfEngineSpec
from aes.inference.writing import FreeText, write, write_feedback
from aes.kernels.forward import autocast
from aes.kernels.words import WordSearch
from aes.model.adapters import without_adapter
from aes.page import PageRenderer
from aes.prompt import AnswerSchema
from aes.records import Answer, Example

NUM_BATCHES_AHEAD = 4
"""So many batches are read ahead, to find examples of like lengths."""

ROOM_FOR_SCORES = 96
"""About as many tokens as scores and the fixed text take; where they take more, memory grows."""

MAX_PIXELS_AHEAD = 128_000_000
"""Pages that came as files are open while they wait: from this many pixels on, 384 MB, no more is
read ahead than a batch."""


class Engine:
    """Answers Examples with one model.

    Args:
        model: Transformers or PEFT model.
        processor: Its tokenizer and image processor.
        renderer: Draws and opens pages.
        decoding: How answers are decoded.
        precision: As the model was loaded.
        spec: How the passes are made.
    """

    def __init__(
        self,
        *,
        model: Any,
        processor: Processor,
        renderer: PageRenderer,
        decoding: DecodingSpec,
        precision: Literal["fp32", "bf16"],
        spec: HfEngineSpec,
    ) -> None:
        self.model = model
        self.processor = processor
        self.renderer = renderer
        self.decoding = decoding
        self.precision = precision
        self.spec = spec
        self._search = WordSearch(model, spec.word_search)
        self._grammars: dict[bool, Grammar] = {}
        self._trees: dict[tuple[str, ...], ChoiceTree] = {}
        self._kept: Memory | None = None

    def answer(
        self,
        examples: Iterable[Example],
        *,
        scores_only: bool = False,
        progress: str | None = None,
        total: int | None = None,
    ) -> Iterator[Answer]:
        """Answers in input order, as soon as they are there.

        Examples are read ahead by a few batches; those of like lengths are decoded together.

        Args:
            scores_only: Leave feedback empty; saves most of the time. The number of forward passes
                then depends on the number of examples alone.
            progress: Label of a progress bar on the terminal; none without.
            total: Where the bar ends, for examples that cannot be counted.

        Raises:
            ValueError: If a page cannot be opened.
        """
        if total is None and isinstance(examples, Sized):
            total = len(examples)
        with (
            self._lent_memory() as memory,
            progress_bar(progress, total) as advance,
            closing(self._batches(examples)) as batches,
        ):
            for answer in in_order(self._decode(*batch, scores_only, memory) for batch in batches):
                advance()
                yield answer

    def stream(self, example: Example) -> Iterator[str]:
        """The answer to one free question in pieces of whole characters, as it is written.

        A graded answer comes in one piece, and so does one of several choices.
        """
        if self._is_graded(example) or self._choices(example):
            yield next(self.answer([example])).text
            return
        prompt, text, given = self._read(example), FreeText(self.processor), 0
        room = self.decoding.max_answer_tokens
        with self._evaluating(), self._lent_memory() as memory:
            with self._deciding():
                rows = self._prefill([prompt], self._draw([prompt]), memory, room)
            steps = self._write(rows, [text])
            is_going_on = True
            while is_going_on:
                # Not across a yield: whoever takes the pieces has settings of his own.
                with self._deciding():
                    is_going_on = next(steps, False)
                if len(text.text) > given:
                    yield text.text[given:]
                    given = len(text.text)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Within this context the base model answers, without what was trained beside it.

        Answers come when they are taken: take them within.

        Raises:
            ValueError: If the model has no adapter.
        """
        self._kept = None  # steps were recorded with the adapter
        try:
            with without_adapter(self.model):
                yield
        finally:
            self._kept = None

    def _is_graded(self, example: Example) -> bool:
        return self.decoding.constrained and example.kind == "grade"

    def _choices(self, example: Example) -> tuple[str, ...]:
        """Of which the answer is to be one; none where it is free."""
        return example.choices if self.decoding.constrained else ()

    def _batches(
        self, examples: Iterable[Example]
    ) -> Generator[tuple[list[Numbered[Prompt]], Tensor], None, None]:
        """Numbered prompts with their patches; each batch is drawn while the last is decoded."""
        size = self.decoding.batch_size
        found = batches_of_like(
            map(self._read, examples),
            batch_size=size,
            num_ahead=NUM_BATCHES_AHEAD * size,
            kind=lambda prompt: (
                self._is_graded(prompt.example),
                self._choices(prompt.example),
            ),
            length=lambda prompt: prompt.num_tokens,
            weight=lambda prompt: prompt.num_open_pixels,
            max_weight=MAX_PIXELS_AHEAD,
        )
        with ThreadPoolExecutor(max_workers=1) as drawer:
            drawn: tuple[list[Numbered[Prompt]], Future[Tensor]] | None = None
            for batch in found:
                drawing = drawer.submit(self._draw, [prompt for _, prompt in batch])
                if drawn is not None:
                    yield drawn[0], drawn[1].result()
                drawn = batch, drawing
            if drawn is not None:
                yield drawn[0], drawn[1].result()

    def _read(self, example: Example) -> Prompt:
        return read_prompt(example, processor=self.processor, renderer=self.renderer)

    def _draw(self, prompts: Sequence[Prompt]) -> Tensor:
        return draw_prompts(prompts, processor=self.processor, renderer=self.renderer)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, and then as it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Without gradients, in the model's precision."""
        with torch.no_grad(), autocast(self.precision, next(self.model.parameters()).device):
            yield

    def _decode(
        self,
        batch: Sequence[Numbered[Prompt]],
        patches: Tensor,
        scores_only: bool,
        memory: Memory,
    ) -> list[Numbered[Answer]]:
        """Answers to prompts of one kind, decoded side by side."""
        prompts = [prompt for _, prompt in batch]
        with self._evaluating(), self._deciding():
            rows = self._prefill(prompts, patches, memory, self._room(prompts, scores_only))
            if self._is_graded(prompts[0].example):
                answers = self._grade(rows, prompts, scores_only=scores_only)
            elif choices := self._choices(prompts[0].example):
                answers = self._choose(rows, prompts, choices)
            else:
                answers = self._write_freely(rows, prompts)
        return [(number, answer) for (number, _), answer in zip(batch, answers, strict=True)]

    @contextmanager
    def _lent_memory(self) -> Iterator[Memory]:
        """Memory that no other call uses meanwhile, and the next one takes over.

        But not of a model that is trained: training wants the room itself.
        """
        self._search.begin()
        memory, self._kept = self._kept or self._take_memory(), None
        yield memory
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            self._kept = memory

    def _take_memory(self) -> Memory:
        return take_memory(self.model, self.spec, self._search, self.precision)

    def _prefill(
        self, prompts: Sequence[Prompt], patches: Tensor, memory: Memory, room: int
    ) -> CachedRows:
        encoded = [prompt.encoded for prompt in prompts]
        return CachedRows(self.model, self.processor, encoded, patches, memory=memory, room=room)

    def _room(self, prompts: Sequence[Prompt], scores_only: bool) -> int:
        """About so many tokens follow."""
        if choices := self._choices(prompts[0].example):
            return len(self._tree(choices).branches)
        if not self._is_graded(prompts[0].example):
            return self.decoding.max_answer_tokens
        return ROOM_FOR_SCORES + (0 if scores_only else self.decoding.max_feedback_tokens)

    def _grade(
        self, rows: CachedRows, prompts: Sequence[Prompt], *, scores_only: bool
    ) -> list[Answer]:
        """Scores, then the comments of those that ask for one."""
        asks = [prompt.example.asks_feedback for prompt in prompts]
        scored = write_scores(
            rows,
            self.processor.guide,
            asks=asks,
            encode=self._encode,
            choice=self.decoding.score,
            distribution=self.decoding.distribution,
        )
        for answer, ask in zip(scored, asks, strict=True):
            opening = self._schema(ask).opening_of_feedback()
            answer.write(opening, self._encode(opening))
        if scores_only:
            texts = [a.text + ('"}' if ask else "") for a, ask in zip(scored, asks, strict=True)]
        else:
            written = [self._grammar(ask).start() for ask in asks]
            write_feedback(rows, scored, written, max_tokens=self.decoding.max_feedback_tokens)
            texts = [answer.text() for answer in written]
        return [
            Answer(id=prompt.example.id, text=text, distributions=answer.distributions)
            for prompt, text, answer in zip(prompts, texts, scored, strict=True)
        ]

    def _choose(
        self, rows: CachedRows, prompts: Sequence[Prompt], choices: tuple[str, ...]
    ) -> list[Answer]:
        found = score_choices(rows, self._tree(choices)).double().softmax(dim=1).tolist()
        return [
            Answer(
                id=prompt.example.id,
                text=choices[shares.index(max(shares))],
                probabilities=dict(zip(choices, shares, strict=True)),
            )
            for prompt, shares in zip(prompts, found, strict=True)
        ]

    def _tree(self, choices: tuple[str, ...]) -> ChoiceTree:
        if choices not in self._trees:
            end = self.processor.end_token
            self._trees[choices] = ChoiceTree([[*self._encode(text), end] for text in choices])
        return self._trees[choices]

    def _write_freely(self, rows: CachedRows, prompts: Sequence[Prompt]) -> list[Answer]:
        texts = [FreeText(self.processor) for _ in prompts]
        for _ in self._write(rows, texts):
            pass
        return [
            Answer(id=prompt.example.id, text=text.text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def _write(self, rows: CachedRows, texts: Sequence[FreeText]) -> Iterator[bool]:
        return write(rows, texts, max_tokens=self.decoding.max_answer_tokens)

    def _schema(self, feedback: bool) -> AnswerSchema:
        return AnswerSchema(ranges=self.processor.guide.ranges, feedback=feedback)

    def _grammar(self, feedback: bool) -> Grammar:
        if feedback not in self._grammars:
            schema = self._schema(feedback).json_schema(self.decoding.max_feedback_chars)
            self._grammars[feedback] = Grammar(self.processor, schema)
        return self._grammars[feedback]

    def _encode(self, text: str) -> list[int]:
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False))
