"""Grades, or answers in text, <-> lines of JSON, and a file that such lines are appended to.

Knows one line at a time; which lines stay in a file, and who may write it, is decided in
``aes.report.predictions``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from aes.records import Answer, Grade

# Valid within JSON, but line ends to some readers.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_REQUIRED = frozenset({"id", "error", "model", "adapter", "settings"})
_ONE_OF = frozenset({"scores", "answer"})

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a grade.

    Attributes:
        model: The base model, by name.
        adapter: Digest of the adapter; empty without one.
        settings: Digest of all else that a grade depends on: rubric, prompt, page, decoding.
    """

    model: str
    adapter: str
    settings: str


class LineWriter:
    """Appends lines to a file, each as soon as it is known.

    Args:
        path: The file; made if it is not there.
        provenance: What makes the grades.
        digests: Digest of each essay by id, kept in its line.
    """

    def __init__(
        self, path: Path, *, provenance: Provenance, digests: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.provenance = provenance
        self.digests = dict(digests or {})
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None

    def write_grade(
        self, grade: Grade, *, seconds: float | None = None, warnings: Sequence[str] = ()
    ) -> None:
        """Append a grade; one whose answer could not be read is an error with its ``raw`` text.

        Args:
            seconds: Since the line before, so that the first essay of a batch carries all of the
                batch's time; ``None``: not known.
            warnings: What was mended in the essay.
        """
        line = _line_of(grade, grade.parse_error)
        self._append(line, seconds=seconds, warnings=warnings)

    def write_error(self, id: str, error: str, *, warnings: Sequence[str] = ()) -> None:
        """Append an essay that could not be graded."""
        self._append(_line_of(Grade(id=id), error), seconds=None, warnings=warnings)

    def write_answer(
        self, answer: Answer, *, seconds: float | None = None, warnings: Sequence[str] = ()
    ) -> None:
        """Append an answer in text, or why there is none; see ``write_grade``."""
        line: Line = {"id": answer.id, "answer": None if answer.error else answer.text}
        if answer.probabilities:
            line["probabilities"] = {k: _number(p, 6) for k, p in answer.probabilities.items()}
        line["error"] = answer.error or None
        self._append(line, seconds=seconds, warnings=warnings)

    def _append(self, line: Line, *, seconds: float | None, warnings: Sequence[str]) -> None:
        assert self._file is not None, "a writer is used within its with statement"
        line = line | {
            "warnings": list(warnings),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": _number(seconds, 3),
            "model": self.provenance.model,
            "adapter": self.provenance.adapter,
            "settings": self.provenance.settings,
            "essay": self.digests.get(line["id"], ""),
        }
        try:
            self._file.write(encode(line))
            self._file.flush()
        except OSError as reason:
            raise ValueError(
                f"{self.path} cannot be written any more ({reason.strerror}): make room and start "
                "again, it goes on from there."
            ) from reason


def read_lines(path: Path) -> list[Line]:
    """The whole lines of a file; one that was cut short is left out.

    Raises:
        ValueError: If it holds anything else.
    """
    return parse(path.read_bytes(), path)


def parse(content: bytes, path: Path) -> list[Line]:
    """The same for what a file held."""
    *whole, torn = content.split(b"\n")
    # A file of one line without an end may be anybody's, and must not be taken for a torn one.
    is_ours = bool(whole) or not torn or (torn.startswith(b'{"id": ') and not _is_json(torn))
    lines = []
    for number, raw in enumerate(whole if is_ours else [torn], start=1):
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not _is_ours(line):
            raise ValueError(
                f"{path}, line {number}, is no grade as this program writes it: remove the file or "
                "choose another output."
            )
        lines.append(line)
    return lines


def _is_ours(line: Line) -> bool:
    return line.keys() >= _REQUIRED and not _ONE_OF.isdisjoint(line)


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _line_of(grade: Grade, error: str) -> Line:
    """What is known of the grade; null for what is not."""
    line = {
        "id": grade.id,
        "scores": dict(grade.scores),
        "total_score": _number(grade.total, 2),
        "subtotal": _number(grade.subtotal, 2),
        "expected_subtotal": _number(grade.expected_subtotal, 4),
        "uncertainty": _number(grade.uncertainty, 4),
        "deductions": [
            {"code": item.code, "points": _number(item.points, 2), "reason": item.reason}
            for item in grade.deductions
        ],
        "feedback": grade.feedback,
        "error": error or None,
    }
    return line | ({"raw": grade.raw} if grade.parse_error else {})


def _number(value: float | None, digits: int) -> float | None:
    """Rounded, whole where it is, null where it is not known."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, digits)


def encode(line: Mapping[str, Any]) -> bytes:
    """A line with its end; reading it gives the same values."""
    text = json.dumps(line, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
    # Half of a surrogate pair has no UTF-8, but its escape is valid JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"
