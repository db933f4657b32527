"""Turns an Essay under a Rubric into an Example: pages, chat messages, gold answer.

Lays pages out but draws nothing; knows no tokens and no model.
"""

from __future__ import annotations

import dataclasses
import zlib

from aes.page import PageRenderer, PageSpec
from aes.prompt.answer import AnswerSchema
from aes.prompt.spec import PromptSpec
from aes.records import Essay, Example, Message, Page
from aes.rubric import Rubric


class ExampleBuilder:
    """Builds Examples; picklable, so that loader and preparation processes can hold one.

    Args:
        rubric: Criteria and ranges.
        prompt: Wording.
        page: How typed essays are set.
        seed: Seeds the noise of scanned pages, together with the essay's id.
        feedback: Whether a comment is asked for; ``None``: where the essay has one.
    """

    def __init__(
        self,
        *,
        rubric: Rubric,
        prompt: PromptSpec,
        page: PageSpec,
        seed: int,
        feedback: bool | None = None,
    ) -> None:
        self.rubric = rubric
        self.prompt = prompt
        self.page = page
        self.seed = seed
        self.feedback = feedback
        self.renderer = PageRenderer(page)

    def schema(self, *, feedback: bool) -> AnswerSchema:
        """Shape of the answers to this builder's Examples."""
        return AnswerSchema(ranges=self.rubric.ranges, feedback=feedback)

    def shrunk(self, factor: float) -> ExampleBuilder:
        """A builder that sets pages smaller: type and page height times ``factor``."""
        return ExampleBuilder(
            rubric=self.rubric,
            prompt=self.prompt,
            page=shrink_page(self.page, factor),
            seed=self.seed,
            feedback=self.feedback,
        )

    def build(self, essay: Essay) -> Example:
        """The question about ``essay``, and the gold answer where it has scores.

        Raises:
            ValueError: If a gold score does not fit the rubric or a page cannot be set.
        """
        as_text = self.page.style == "none" and not essay.pages
        # Without a comment in the data neither prompt nor answer asks for feedback.
        feedback = bool(essay.comment) if self.feedback is None else self.feedback
        schema = self.schema(feedback=feedback)
        parts: list[str | Page] = [] if as_text else list(self._pages(essay))
        parts.append(self._question(essay, schema, as_text=as_text))
        system = (Message("system", (self.prompt.system,)),) if self.prompt.system else ()
        return Example(
            id=essay.id,
            messages=(*system, Message("user", tuple(parts))),
            answer=schema.segments(essay.scores, essay.comment) if essay.scores else (),
            asks_feedback=feedback,
            scores=dict(essay.scores),
            source=essay.source or essay.id,
            group=essay.operation,
            num_chars=len("".join(essay.text.split())),
            # A photo may well show a title: nobody has read it.
            has_title=None if essay.pages else bool(essay.title),
            wrong_characters=essay.wrong_characters,
        )

    def ask(self, essay: Essay, question: str) -> Example:
        """A free question about ``essay``, answered in free text.

        Raises:
            ValueError: If a page cannot be set.
        """
        as_text = self.page.style == "none" and not essay.pages
        shown = [f"{essay.title}\n{essay.text}".strip()] if as_text else list(self._pages(essay))
        parts: tuple[str | Page, ...] = (*shown, f"\n{question}" if as_text else question)
        return Example(id=essay.id, messages=(Message("user", parts),), kind="text")

    def _pages(self, essay: Essay) -> tuple[Page, ...]:
        if essay.pages:
            return essay.pages
        # crc32, not hash(): the noise must be the same in every process.
        seed = zlib.crc32(f"{self.seed}/{essay.id}".encode())
        return self.renderer.layout(essay.title, essay.text, seed=seed)

    def _question(self, essay: Essay, schema: AnswerSchema, *, as_text: bool) -> str:
        words = self.prompt
        lines = [words.task.format(source=words.source_text if as_text else words.source_pages)]
        if essay.topic:
            lines.append(words.topic.format(topic=essay.topic))
        lines.append(words.rubric.format(title=self.rubric.title))
        for name, trait in self.rubric.traits.items():
            facts = {"label": trait.label, "minimum": trait.minimum, "maximum": trait.maximum}
            lines.append(words.trait.format(name=name, description=trait.description, **facts))
            if words.with_levels:
                lines += [
                    words.level.format(
                        label=v.label, minimum=v.minimum, maximum=v.maximum, text=v.text
                    )
                    for v in trait.levels
                ]
        if as_text:
            lines.append(words.essay.format(title=essay.title, text=essay.text))
        form = words.answer_feedback if schema.feedback else words.answer_scores
        lines.append(form.format(shape=schema.shape(words.feedback_placeholder)))
        return "\n".join(lines)


def shrink_page(page: PageSpec, factor: float) -> PageSpec:
    """Smaller type and a smaller largest page, for a sample that would not fit the limit."""
    if page.reads_text_alone:
        return page
    width_px, max_height_px = page.sides_px
    # PageSpec asks for room for twice the least area.
    least_px = 2 * page.areas_px[0] / width_px
    height_px = max(max_height_px * factor, least_px)
    return dataclasses.replace(
        page,
        glyph_px=None if page.glyph_px is None else max(8, round(page.glyph_px * factor)),
        max_height_px=min(max_height_px, -(-int(height_px) // 32) * 32),
    )
