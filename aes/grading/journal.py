"""Graded essays <-> lines of a file that grows while they are graded: a killed run goes on from it.

Beside the lines stands a small file with the settings under which they were made, so that grades
of unlike settings never end up in one report. Knows no metric.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aes.files import write_atomically
from aes.records import Deduction, Grade, Marked


class Journal:
    """The graded essays of one evaluation.

    Args:
        path: The file of lines; its settings stand in ``<stem>.settings.json`` beside it.
        settings: What the grades depend on, as plain values.
        fresh: Forget what is there.

    Raises:
        ValueError: If ``path`` holds grades made under other settings, or broken lines.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
        self.path = path
        self.marked: dict[str, Marked] = {}
        self.grading_s = 0.0
        beside = path.with_name(f"{path.stem}.settings.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        if path.is_file():
            _require_same(path, beside, settings)
            self._read()
        else:
            write_atomically(beside, json.dumps(settings, indent=1, ensure_ascii=False).encode())

    def _read(self) -> None:
        """Read whole lines; what a killed run left of a last line is cut off."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                marked = marked_of(entry)
                self.grading_s += float(entry["seconds"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: not a graded essay as this program writes it; "
                    "remove the file, or set fresh=true, to grade again"
                ) from error
            self.marked[marked.id] = marked

    def keep(self, graded: Iterable[Marked]) -> None:
        """Write each graded essay as soon as it comes."""
        before = time.perf_counter()
        with self.path.open("ab") as file:
            for marked in graded:
                seconds = time.perf_counter() - before
                entry = line_of(marked) | {"seconds": round(seconds, 4)}
                line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
                file.write(line.encode() + b"\n")
                file.flush()
                self.marked[marked.id] = marked
                self.grading_s += seconds
                before = time.perf_counter()


def line_of(marked: Marked) -> dict[str, Any]:
    """A graded essay as plain values, totals included; NaN becomes null.

    Numbers by trait are never NaN: what is not known of a trait is not there.
    """
    grade = asdict(marked.grade)
    del grade["id"]
    values = asdict(marked) | {"gold_total": sum(marked.gold.values())}
    del values["grade"]
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in (values | grade).items()
    }


def marked_of(line: Mapping[str, Any]) -> Marked:
    """The graded essay of a line.

    Raises:
        KeyError: If a value is missing.
    """
    grade: dict[str, Any] = {}
    for name in Grade.__dataclass_fields__.keys() - {"id"}:
        grade[name] = math.nan if line[name] is None else line[name]
    grade["deductions"] = tuple(Deduction(**item) for item in grade["deductions"])
    rest: dict[str, Any] = {n: line[n] for n in Marked.__dataclass_fields__ if n != "grade"}
    return Marked(**rest, grade=Grade(id=line["id"], **grade))


def _require_same(path: Path, beside: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} lies there without a readable {beside.name}, so nobody knows how its grades "
            "were made; choose another folder with out=DIR, or set fresh=true to grade again"
        ) from error
    now = json.loads(json.dumps(settings))
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if changed:
        told = ", ".join(f"{k} was {_shown(before.get(k))}" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"{path} holds grades made under other settings ({told}{more}); choose another folder "
            "with out=DIR, or set fresh=true to grade again"
        )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."
