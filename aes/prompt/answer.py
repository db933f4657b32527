"""The answer as JSON: its shape, how gold answers are written and how any answer is read.

Trait scores come first, feedback after them, totals never. The segments tell where the scores
stand, so that training and decoding cut the answer at the same places. Knows ranges, not wording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aes.records import FIXED, FREE

_PRINTABLE = r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$"
"""Text without control characters; paragraphs may be parted."""


@dataclass(frozen=True)
class ParsedAnswer:
    """What was read from an answer; ``error`` is empty if it could be read."""

    scores: Mapping[str, int]
    feedback: str
    error: str = ""


@dataclass(frozen=True)
class AnswerSchema:
    """Shape of an answer.

    Attributes:
        ranges: Lowest and highest score by trait, in the order in which they are written.
        feedback: Whether a comment follows the scores.
    """

    ranges: Mapping[str, tuple[int, int]]
    feedback: bool

    def segments(
        self, scores: Mapping[str, int], feedback: str = ""
    ) -> tuple[tuple[str, str], ...]:
        """Gold answer as (text, slot) segments; see ``Example.answer``.

        Raises:
            ValueError: If a score is missing or outside its trait's range.
        """
        parts: list[tuple[str, str]] = []
        for name, lead in self.leads():
            low, high = self.ranges[name]
            if name not in scores or not low <= scores[name] <= high:
                raise ValueError(
                    f"score of {name} is {scores.get(name)}, but must be a whole number from {low} "
                    f"to {high}; mend the data or choose the rubric that it was marked with"
                )
            parts += [(lead, FIXED), (str(scores[name]), name)]
        parts.append((self.opening_of_feedback(), FIXED))
        if self.feedback:
            parts.append((_quote(feedback)[1:] + "}", FREE))
        return tuple(parts)

    def leads(self) -> list[tuple[str, str]]:
        """Fixed text that stands before each score, as (trait, text), in order."""
        return [
            (name, ("," if i else '{"scores":{') + _quote(name) + ":")
            for i, name in enumerate(self.ranges)
        ]

    def opening_of_feedback(self) -> str:
        """Fixed text after the last score: up to the comment's first character, or to the end."""
        return '},"feedback":"' if self.feedback else "}}"

    def shape(self, placeholder: str) -> str:
        """Example of the form for the prompt: ranges instead of scores."""
        scores = ",".join(f"{_quote(n)}:{low}-{high}" for n, (low, high) in self.ranges.items())
        return f'{{"scores":{{{scores}}}' + (
            f',"feedback":"{placeholder}"}}' if self.feedback else "}"
        )

    def json_schema(self, max_feedback_chars: int) -> dict[str, Any]:
        """The shape as a JSON schema; keys are to be written in its order.

        Args:
            max_feedback_chars: Longest comment.
        """
        scores: dict[str, Any] = {
            name: {"type": "integer", "minimum": low, "maximum": high}
            for name, (low, high) in self.ranges.items()
        }
        comment = {"type": "string", "maxLength": max_feedback_chars, "pattern": _PRINTABLE}
        return _closed_object(
            {"scores": _closed_object(scores), **({"feedback": comment} if self.feedback else {})}
        )

    def parse(self, text: str) -> ParsedAnswer:
        """Read an answer; whatever is wrong with it goes into ``error``, never an exception."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as exc:  # a huge integer is a plain ValueError
            return ParsedAnswer({}, "", f"not JSON: {exc}")
        scores = data.get("scores") if isinstance(data, dict) else None
        if not isinstance(scores, dict):
            return ParsedAnswer({}, "", "no object named scores")
        for name, (low, high) in self.ranges.items():
            value = scores.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                return ParsedAnswer({}, "", f"scores.{name} is not a whole number in {low}-{high}")
        feedback = data.get("feedback", "")
        if not isinstance(feedback, str):
            return ParsedAnswer({}, "", "feedback is not a text")
        return ParsedAnswer({name: scores[name] for name in self.ranges}, feedback)


def _closed_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _quote(text: str) -> str:
    """JSON string with Chinese as it is."""
    return json.dumps(text, ensure_ascii=False)
