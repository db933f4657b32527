"""The vocabulary every stage shares: Essay, Page, Example, Answer, Grade, Marked, Problem ...

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


@dataclass(frozen=True)
class PdfPage:
    """One page of a PDF file; ``number`` counts from 1."""

    path: Path
    number: int


@dataclass(frozen=True)
class TableImage:
    """An encoded image in a row of a table on disk, as ``datasets`` keeps images.

    Attributes:
        path: Arrow file of the table.
        row: Counts from 0.
        column: Holds the image, or a list of images.
        number: Place in that list; 0 for a column of single images.
    """

    path: Path
    row: int
    column: str
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Essay:
    """One pupil's essay, as text or as page images, with its gold grades where known.

    Attributes:
        id: Unique within a corpus.
        title: Without surrounding white space; empty where the essay has none.
        text: The body without the title; paragraphs are separated by line feeds and keep the white
            space that they begin with.
        pages: Image files or PDF pages in reading order, for essays that came as photos or scans.
        scores: Gold score of each trait by its name in the rubric; empty where unknown.
        comment: The marker's comment; empty where there is none.
        topic: The writing task that the pupil was given; empty where unknown.
        source: Id of the essay that this one was made from; its own id for an original.
            A split keeps everything of one source on one side.
        operation: What was done to the source, e.g. ``"cut_50"``; empty for an original.
        wrong_characters: The different characters known to be miswritten; ``None``: nobody knows.
        file: Where it was read, for messages.
        line: 1-based line within ``file``; 0 where lines mean nothing.
    """

    id: str
    title: str = ""
    text: str = ""
    pages: tuple[Path | PdfPage, ...] = ()
    scores: Mapping[str, int] = field(default_factory=dict)
    comment: str = ""
    topic: str = ""
    source: str = ""
    operation: str = ""
    wrong_characters: tuple[str, ...] | None = None
    file: str = ""
    line: int = 0

    @property
    def page_files(self) -> tuple[Path, ...]:
        """The file of each page; several pages of a PDF name it as often."""
        return tuple(p.path if isinstance(p, PdfPage) else p for p in self.pages)


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
        ink: Darkness from 0 (the paper's white, invisible) to 255 (black).
    """

    text: str
    xs_px: tuple[int, ...]
    y_px: int
    size_px: int
    ink: int = 255


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

NO_ANSWER = "no answer: "
"""What a Grade's ``parse_error`` begins with where no answer came."""

Picture = Path | PdfPage | TableImage
"""What holds pixels already: an image file, a page of a PDF, an image in a table."""

Page = PageLayout | Picture
"""A page to draw, or a picture to open."""


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
        kind: ``grade``: the answer gives the rubric's scores; ``text``: it is free text.
        asks_feedback: Whether prompt and answer hold a comment.
        choices: Texts of which the answer is one, as in classification; empty: any text.
        learns_all_turns: Whether earlier turns of the assistant are learned like the answer.
        scores: Gold scores by trait; empty where unknown.
        source: Essay that this one was made from; its own id for an original.
        group: Essay group the example belongs to, e.g. the degradation that made it.
        num_chars: Characters of the essay's body, white space not counted; 0: not known, as of
            images.
        has_title: Whether the essay has a title; ``None``: not known, as of images.
        wrong_characters: The different characters known to be miswritten; ``None``: not known.
    """

    id: str
    messages: tuple[Message, ...]
    answer: tuple[tuple[str, str], ...] = ()
    kind: Literal["grade", "text"] = "grade"
    asks_feedback: bool = False
    choices: tuple[str, ...] = ()
    learns_all_turns: bool = False
    scores: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    group: str = ""
    num_chars: int = 0
    has_title: bool | None = None
    wrong_characters: tuple[str, ...] | None = None

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
        probabilities: Of each of the Example's ``choices``, by its text, among all of them; sums to
            1. Empty where there was nothing to choose from.
        error: Why there is no answer, as from a server that could not be reached; empty if there
            is one.
    """

    id: str
    text: str
    distributions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    probabilities: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Deduction:
    """One line item that is taken off a Grade's subtotal.

    Attributes:
        code: ``missing_title``, ``wrong_characters``, ``short`` or ``cap``.
        points: Points taken off, above 0.
        reason: What was counted, for the teacher to read.
    """

    code: str
    points: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Grade:
    """An Answer read under a Rubric. Totals are computed here, never by the model.

    Attributes:
        id: The essay's id.
        scores: Awarded score by trait, whole numbers within the trait's range.
        expected: Mean of the model's distribution by trait; equals ``scores`` where there is none.
        spread: Standard deviation of that distribution by trait; holds no trait without one.
        subtotal: Sum of ``scores``: the model's judgement of quality.
        expected_subtotal: Sum of ``expected``.
        uncertainty: Standard deviation of the subtotal, NaN where a trait has no distribution: the
            root of the summed squares of ``spread``. This takes the traits as independent given
            what was written before; their covariances, which are usually positive, are left out,
            so it is too small rather than too large.
        deductions: What is taken off for facts that can be counted, in the order applied.
        total: ``subtotal`` less the deductions: what the pupil gets.
        feedback: The model's comment; empty where none was asked for.
        parse_error: Why the answer could not be read, and there are no scores; empty if it could.
        raw: The answer's text as it came.
    """

    id: str
    scores: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    subtotal: float = float("nan")
    expected_subtotal: float = float("nan")
    uncertainty: float = float("nan")
    deductions: tuple[Deduction, ...] = ()
    total: float = float("nan")
    feedback: str = ""
    parse_error: str = ""
    raw: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether no answer came at all, so that the model has said nothing about the essay."""
        return self.parse_error.startswith(NO_ANSWER)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An Answer in text beside the one that was wanted: what metrics and reports are made from.

    Attributes:
        id: The sample's id.
        source: Samples of one source are not independent; its own id where it stands alone.
        gold: The answer that the model should have given.
        text: What it gave.
        probabilities: See ``Answer``.
    """

    id: str
    source: str
    gold: str
    text: str
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A Grade beside what is known about its essay: what metrics and reports are made from.

    Attributes:
        id: The essay's id.
        source: Essay that this one was made from; its own id for an original. Intervals resample
            sources, since copies of one essay are not independent.
        group: E.g. the degradation that made it; empty for an original.
        num_chars: Characters of the body; 0: not known.
        gold: Gold score by trait.
        gold_text: The answer that the model should have given.
        grade: What it gave.
        fold: Number of the cross-validation fold that held the essay out; ``None`` without one.
    """

    id: str
    source: str
    group: str
    num_chars: int
    gold: Mapping[str, int]
    gold_text: str
    grade: Grade
    fold: int | None = None
