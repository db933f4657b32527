"""The wording around an essay, as plain settings; conf/prompt holds the words."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PromptSpec:
    """Templates; names in braces are filled in by ``ExampleBuilder``.

    Attributes:
        system: System turn; ``None``: none, as the Instruct models are trained.
        task: What to do; ``{source}``.
        source_pages: ``{source}`` where the essay is given as page images.
        source_text: ``{source}`` where it is given as text.
        topic: The writing task, where the data has it; ``{topic}``.
        rubric: Head of the criteria; ``{title}``.
        trait: A criterion; ``{name} {label} {minimum} {maximum} {description}``.
        level: A level of a criterion; ``{label} {minimum} {maximum} {text}``.
        with_levels: Whether the levels are listed.
        essay: The essay as text; ``{title} {text}``.
        answer_scores: Form of an answer without feedback; ``{shape}``.
        answer_feedback: Form of an answer with feedback; ``{shape}``.
        feedback_placeholder: Stands for the comment in ``{shape}``.
    """

    system: str | None
    task: str
    source_pages: str
    source_text: str
    topic: str
    rubric: str
    trait: str
    level: str
    with_levels: bool
    essay: str
    answer_scores: str
    answer_feedback: str
    feedback_placeholder: str
