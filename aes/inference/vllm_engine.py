"""Examples to Answers by vLLM, in this process or on servers: the same as ``aes.inference.engine``.

Essays are under way side by side, in one event loop that runs while an answer is waited for: there
is no thread that an interrupt could leave behind. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import closing, contextmanager

from PIL import Image

from aes.data.processor import Processor
from aes.inference.batches import Numbered, in_order
from aes.inference.progress import progress_bar
from aes.inference.prompts import Prompt, read_prompt
from aes.inference.spec import DecodingSpec
from aes.inference.vllm_answers import AnswerWriter
from aes.inference.vllm_questions import Ask, Backend, NoAnswerError
from aes.page import PageRenderer
from aes.records import Answer, Example, PageLayout


class VllmEngine:
    """Answers Examples with vLLM.

    Args:
        backend: vLLM, wherever it runs.
        processor: Tokenizer and image processor of the model that it serves.
        renderer: Draws and opens pages.
        decoding: How answers are decoded; ``batch_size`` has no effect.
        max_in_flight: Most essays under way at once.

    Raises:
        ValueError: If the backend does not offer the model.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        processor: Processor,
        renderer: PageRenderer,
        decoding: DecodingSpec,
        max_in_flight: int,
    ) -> None:
        self.backend = backend
        self.processor = processor
        self.renderer = renderer
        self.decoding = decoding
        self.max_in_flight = max_in_flight
        self._writer = AnswerWriter(processor, decoding)
        with asyncio.Runner() as runner, self._opened(runner):
            pass  # what is wrong with it is said before the first essay

    def answer(
        self,
        examples: Iterable[Example],
        *,
        scores_only: bool = False,
        progress: str | None = None,
        total: int | None = None,
    ) -> Iterator[Answer]:
        """Answers in input order, as soon as they are there; see ``Engine.answer``.

        An essay that got none, whatever was tried, is an Answer with ``error``; the others go on.

        Raises:
            ValueError: If a page cannot be opened, or the model that answers is not what trained.
        """
        if total is None and isinstance(examples, Sized):
            total = len(examples)
        with (
            progress_bar(progress, total) as advance,
            closing(self._answers(examples, scores_only=scores_only)) as found,
        ):
            for answer in in_order([numbered] for numbered in found):
                advance()
                yield answer

    def stream(self, example: Example) -> Iterator[str]:
        """The answer to one free question in pieces of whole characters; see ``Engine.stream``.

        Raises:
            ValueError: If there is no answer, or it breaks off.
        """
        if self._writer.is_graded(example) or self._writer.choices(example):
            answer = next(self.answer([example]))
            if answer.error:
                raise ValueError(f"{example.id} got no answer: {answer.error}")
            yield answer.text
            return
        with asyncio.Runner() as runner, self._opened(runner):
            pieces = self._pieces(*self._read(example))
            try:
                while (piece := runner.run(_next(pieces))) is not None:
                    yield piece
            except NoAnswerError as reason:
                raise ValueError(f"{example.id} got no whole answer: {reason}") from None
            finally:
                runner.run(_close(pieces))

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Within this context the base answers, without what was trained.

        Raises:
            ValueError: If there is no base to be had.
        """
        self.backend.require_base()
        self.backend.with_adapter = False
        try:
            yield
        finally:
            self.backend.with_adapter = True

    def _answers(
        self, examples: Iterable[Example], *, scores_only: bool
    ) -> Generator[Numbered[Answer], None, None]:
        """Numbered answers as they come; examples are taken when there is room for them."""
        numbered = enumerate(examples)
        with asyncio.Runner() as runner, self._opened(runner):
            tasks: dict[asyncio.Task[Answer], int] = {}
            try:
                while True:
                    while len(tasks) < self.max_in_flight:
                        number, example = next(numbered, (-1, None))
                        if example is None:
                            break
                        work = self._write(example, *self._read(example), scores_only)
                        tasks[runner.get_loop().create_task(work)] = number
                        if self.backend.is_elsewhere:
                            # It may work while the next pages are drawn.
                            runner.run(_turn_once())
                    if not tasks:
                        return
                    for task in runner.run(_wait_for_one(tasks)):
                        yield tasks.pop(task), task.result()
            finally:
                runner.run(_cancel(tasks))

    async def _write(
        self, example: Example, prompt: Prompt, pages: Sequence[Image.Image], scores_only: bool
    ) -> Answer:
        ask: Ask = self.backend.asker(prompt, pages)
        try:
            return await self._writer.write(ask, example, scores_only=scores_only)
        except NoAnswerError as reason:
            return Answer(id=example.id, text="", error=str(reason))

    async def _pieces(
        self, prompt: Prompt, pages: Sequence[Image.Image]
    ) -> AsyncGenerator[str, None]:
        text, given = self._writer.free_text(), 0
        async for tokens in self.backend.stream(prompt, pages, self._writer.free_question()):
            for token in tokens:
                text.take(token)
            if len(text.text) > given:
                yield text.text[given:]
                given = len(text.text)

    def _read(self, example: Example) -> tuple[Prompt, list[Image.Image]]:
        """The prompt and its pages, drawn."""
        prompt = read_prompt(example, processor=self.processor, renderer=self.renderer)
        pages = [
            self.renderer.draw(page) if isinstance(page, PageLayout) else page
            for page in prompt.pages
        ]
        return prompt, pages

    @contextmanager
    def _opened(self, runner: asyncio.Runner) -> Iterator[None]:
        """The backend, open within the runner's loop."""
        try:
            runner.run(self.backend.open())
            yield
        finally:
            runner.run(self.backend.close())


async def _turn_once() -> None:
    await asyncio.sleep(0)


async def _wait_for_one(tasks: Iterable[asyncio.Task[Answer]]) -> set[asyncio.Task[Answer]]:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return done


async def _cancel(tasks: Iterable[asyncio.Task[Answer]]) -> None:
    left: list[Coroutine[object, object, object] | asyncio.Task[Answer]] = [*tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _next(pieces: AsyncGenerator[str, None]) -> str | None:
    return await anext(pieces, None)


async def _close(pieces: AsyncGenerator[str, None]) -> None:
    await pieces.aclose()
