"""Grades -> the lines of a .jsonl file, each written as its essay is graded; and back.

A second start goes on where the first stopped. What stands in the file and was made under the
same settings from the same essay is kept. Taken out, and so done again, are errors (the cause may
have been mended; essays that fail again get their line again) and essays that have changed since.
Their new lines stand at the end: the order of lines is that of grading, not that of the input. A
last line that a kill cut short goes. Two commands at once cannot write one file.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from aes.files import write_atomically
from aes.records import Grade

LINES_SUFFIX, WORKBOOK_SUFFIX = ".jsonl", ".xlsx"

# Valid within JSON, but line ends to some readers.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_REQUIRED = frozenset({"id", "scores", "total_score", "error", "model", "adapter", "settings"})


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


def journal_path(output: Path) -> Path:
    """The .jsonl file in which the lines of ``output`` are kept: itself, or beside an .xlsx.

    Raises:
        ValueError: If ``output`` is neither.
    """
    suffix = output.suffix.lower()
    if suffix not in (LINES_SUFFIX, WORKBOOK_SUFFIX):
        raise ValueError(f"output {output} must end in {LINES_SUFFIX} or {WORKBOOK_SUFFIX}.")
    return output if suffix == LINES_SUFFIX else output.with_suffix(LINES_SUFFIX)


def require_output(output: Path, *, input: Path) -> None:
    """Refuse an output that cannot be written, or that would become input.

    Args:
        output: A .jsonl or .xlsx file, perhaps of an earlier start; its folder is made.
        input: The file or folder of essays.

    Raises:
        ValueError: If it is a folder, cannot be written, or lies in the input.
    """
    for path in {output, journal_path(output)}:
        if path.is_dir():
            raise ValueError(f"output {path} is a folder: name a file.")
        if path.resolve() == input.resolve() or (
            input.is_dir() and path.resolve().is_relative_to(input.resolve())
        ):
            raise ValueError(
                f"output {path} lies in the input, and the next start would read it as essays: "
                "choose another place."
            )
        is_new = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
            if is_new:
                path.unlink()
        except OSError as error:
            raise ValueError(
                f"output {path} cannot be written ({error.strerror}): close it elsewhere, change "
                "its permissions, or choose another place."
            ) from error


class PredictionWriter:
    """Appends lines to a file.

    Args:
        path: The .jsonl file; made if it is not there.
        provenance: What makes the grades.
        digests: Digest of each essay by id; a line of the same id with another one is taken out.

    Attributes:
        done: Ids of the essays that need no grading any more.

    Raises:
        ValueError: If the file holds grades of another provenance, or something else.
    """

    def __init__(
        self, path: Path, *, provenance: Provenance, digests: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.provenance = provenance
        self.digests = dict(digests or {})
        lines = self._take_over() if path.exists() else []
        self.done = frozenset(str(line["id"]) for line in lines)
        self._num_bytes = path.stat().st_size if path.exists() else 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> PredictionWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
            is_ours = self._file.tell() == self._num_bytes
        except OSError:
            is_ours = False
        if not is_ours:
            self._file.close()
            raise ValueError(
                f"another command writes {self.path}: start again when it has ended, or choose "
                "another output."
            )
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
        self._append(grade, error=grade.parse_error, seconds=seconds, warnings=warnings)

    def write_error(self, id: str, error: str, *, warnings: Sequence[str] = ()) -> None:
        """Append an essay that could not be graded."""
        self._append(Grade(id=id), error=error, seconds=None, warnings=warnings)

    def _append(
        self, grade: Grade, *, error: str, seconds: float | None, warnings: Sequence[str]
    ) -> None:
        assert self._file is not None, "a writer is used within its with statement"
        line = _line_of(grade, error) | {
            "warnings": list(warnings),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": _number(seconds, 3),
            "model": self.provenance.model,
            "adapter": self.provenance.adapter,
            "settings": self.provenance.settings,
            "essay": self.digests.get(grade.id, ""),
        }
        try:
            self._file.write(_encode(line))
            self._file.flush()
        except OSError as reason:
            raise ValueError(
                f"{self.path} cannot be written any more ({reason.strerror}): make room and start "
                "again, it goes on from there."
            ) from reason

    def _take_over(self) -> list[dict[str, Any]]:
        """The lines that stay; what does not is taken out of the file."""
        content = self.path.read_bytes()
        lines = _parse(content, self.path)
        for number, line in enumerate(lines, start=1):
            for key in ("model", "adapter", "settings"):
                if line[key] != getattr(self.provenance, key):
                    raise ValueError(
                        f"{self.path}, line {number}, was graded with another model, adapter or "
                        f"settings (its {key} differs): remove the file or choose another output."
                    )
        kept = [line for line in lines if not line["error"] and not self._has_changed(line)]
        rest = b"".join(map(_encode, kept))
        if rest != content:
            write_atomically(self.path, rest)
        return kept

    def _has_changed(self, line: Mapping[str, Any]) -> bool:
        now = self.digests.get(str(line["id"]))
        return now is not None and now != line.get("essay")


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, as plain values.

    Raises:
        ValueError: If it holds anything else.
    """
    return _parse(path.read_bytes(), path)


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    """The whole lines; one that was cut short is left out."""
    *whole, torn = content.split(b"\n")
    # A file of one line without an end may be anybody's, and must not be taken for a torn one.
    is_ours = bool(whole) or not torn or (torn.startswith(b'{"id": ') and not _is_json(torn))
    lines = []
    for number, raw in enumerate(whole if is_ours else [torn], start=1):
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not line.keys() >= _REQUIRED:
            raise ValueError(
                f"{path}, line {number}, is no grade as this program writes it: remove the file or "
                "choose another output."
            )
        lines.append(line)
    return lines


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _line_of(grade: Grade, error: str) -> dict[str, Any]:
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


def _encode(line: Mapping[str, Any]) -> bytes:
    text = json.dumps(line, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
    # Half of a surrogate pair has no UTF-8, but its escape is valid JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"
