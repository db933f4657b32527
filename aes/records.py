"""The vocabulary every stage shares: Essay, Page, Example, Answer, Grade, Problem.

Frozen dataclasses and nothing else. This module knows no file format, no
rubric and no model; everything downstream imports it, it imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Role = Literal["system", "user", "assistant"]
Action = Literal["error", "dropped", "kept"]


@dataclass(frozen=True, kw_only=True)
class Essay:
    """One pupil's essay, as text or as page images, with its gold grades where known.

    Attributes:
        id: Unique within a corpus.
        title: Without surrounding white space; empty where the essay has none.
        text: The body without the title; paragraphs are separated by line feeds and keep the white
            space that they begin with.
        pages: Image files in reading order, for essays that came as photos or scans.
        scores: Gold score of each trait by its name in the rubric; empty where unknown.
        comment: The marker's comment; empty where there is none.
        topic: The writing task that the pupil was given; empty where unknown.
        source: Id of the essay that this one was made from; its own id for an original.
            A split keeps everything of one source on one side.
        operation: What was done to the source, e.g. ``"cut_50"``; empty for an original.
        file: Where it was read, for messages.
        line: 1-based line within ``file``; 0 where lines mean nothing.
    """

    id: str
    title: str = ""
    text: str = ""
    pages: tuple[Path, ...] = ()
    scores: Mapping[str, int] = field(default_factory=dict)
    comment: str = ""
    topic: str = ""
    source: str = ""
    operation: str = ""
    file: str = ""
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with the data, where it is, and how to mend it.

    Attributes:
        code: Stable name of the kind of problem, e.g. ``"title_not_in_file"``.
        id: The essay concerned; empty if the problem is not about one essay.
        file: File to open, relative to the data root.
        line: 1-based; 0 where the whole file is meant.
        message: What is wrong. Never holds essay text beyond a title or single characters.
        cure: What to do about it.
        action: What happened to the essay: the run stops, it was dropped, or kept.
    """

    code: str
    id: str
    file: str
    line: int
    message: str
    cure: str
    action: Action


@dataclass(frozen=True)
class TextLine:
    """A run of characters at its place on a page.

    Attributes:
        text: The characters, in order.
        xs_px: Left edge of each character's advance box; same length as ``text``.
        y_px: Top of the line's box.
        size_px: Font size in px.
    """

    text: str
    xs_px: tuple[int, ...]
    y_px: int
    size_px: int


@dataclass(frozen=True)
class PageLayout:
    """A page as planned, before any pixel is drawn; small and picklable.

    Attributes:
        width_px: A multiple of 32.
        height_px: A multiple of 32.
        lines: What stands on the page.
        cells: Squares of squared paper as (x, y, side) in px; empty on plain paper.
        seed: Seeds the noise of scanned styles.
    """

    width_px: int
    height_px: int
    lines: tuple[TextLine, ...]
    cells: tuple[tuple[int, int, int], ...] = ()
    seed: int = 0


FIXED = ""
"""Slot of a text that the answer's form prescribes to the letter."""

FREE = "*"
"""Slot of a text that is the writer's own."""

Page = PageLayout | Path
"""A page to draw, or an image file to open."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat: text and pages in the order in which the model reads them."""

    role: Role
    parts: tuple[str | Page, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question to the model and, for training, the answer it should learn.

    Attributes:
        id: The essay's or sample's id.
        messages: The turns before the answer.
        answer: Gold answer as (text, slot) segments that concatenate to the full text. ``slot`` is
            the trait whose score the segment holds, ``FIXED`` for text that the answer's form
            prescribes, or ``FREE`` for text of the writer's own. Empty where unknown.
        asks_feedback: Whether prompt and answer hold a comment.
        scores: Gold scores by trait; empty where unknown.
        group: Essay group the example belongs to, e.g. the degradation that made it.
        num_chars: Characters of the essay's body (0 for images), for baselines and reports.
    """

    id: str
    messages: tuple[Message, ...]
    answer: tuple[tuple[str, str], ...] = ()
    asks_feedback: bool = False
    scores: Mapping[str, int] = field(default_factory=dict)
    group: str = ""
    num_chars: int = 0

    @property
    def pages(self) -> tuple[Page, ...]:
        """All pages of all turns, in order."""
        return tuple(p for m in self.messages for p in m.parts if not isinstance(p, str))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said to one Example.

    Attributes:
        id: The Example's id.
        text: The whole answer as text.
        distributions: Probability of each valid score (index 0 = the trait's minimum) by trait,
            as the model gives it after the scores that were written before. Empty for free text.
    """

    id: str
    text: str
    distributions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Grade:
    """An Answer read under a Rubric. The total is computed here, never by the model.

    Attributes:
        id: The essay's id.
        scores: Awarded score by trait, whole numbers within the trait's range.
        expected: Mean of the model's distribution by trait; equals ``scores`` where there is none.
        spread: Standard deviation of that distribution by trait; 0 where there is none.
        total: Sum of ``scores``.
        expected_total: Sum of ``expected``.
        feedback: The model's comment; empty where none was asked for.
        parse_error: Why the answer could not be read, and there are no scores; empty if it could.
        raw: The answer's text as it came.
    """

    id: str
    scores: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    total: float = float("nan")
    expected_total: float = float("nan")
    feedback: str = ""
    parse_error: str = ""
    raw: str = ""
