"""Graded essays <-> lines of a file that grows while they are graded: a killed run goes on from it.

Beside the lines stands a small file with the settings under which they were made, so that grades
of unlike settings never end up in one report. Of several ranks each writes a file of its own
(``aes.grading.shares``), and the first one puts them together. Knows no metric.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aes.files import write_atomically
from aes.grading.shares import find_parts, remove_parts
from aes.records import Deduction, Grade, Marked

Kept = tuple[Marked, float]
"""A graded essay and its seconds."""


class Journal:
    """The graded essays of one evaluation; new ones come through ``write_lines``.

    Args:
        path: The file of lines; its settings stand in ``<stem>.settings.json`` beside it.
        settings: What the grades depend on, as plain values.
        fresh: Forget what is there.

    Attributes:
        marked: Graded essays by id.
        seconds: Wall time by id; see ``write_lines``.

    Raises:
        ValueError: If ``path`` holds grades made under other settings, or broken lines.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
        self.path = path
        self.marked: dict[str, Marked] = {}
        self.seconds: dict[str, float] = {}
        beside = path.with_name(f"{path.stem}.settings.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        if path.is_file() and (path.stat().st_size or find_parts(path)):
            _require_same(path, beside, settings)
            self._learn(_read(path))
            self._take_parts()
        else:
            write_atomically(beside, json.dumps(settings, indent=1, ensure_ascii=False).encode())
            remove_parts(path)  # of a file that was removed

    @property
    def grading_s(self) -> float:
        """Wall time of grading in seconds, that of earlier starts included."""
        return sum(self.seconds.values())

    def settle(self, by_rank: Sequence[Sequence[Kept]], order: Sequence[str]) -> None:
        """Put together what ranks have kept, and the lines in order.

        Args:
            by_rank: What each kept, this one included. As long as the slowest took is how long
                all took: each essay's seconds become its share of that.
            order: Ids of all essays, as the data has them.
        """
        spent = [sum(seconds for _, seconds in kept) for kept in by_rank]
        share = max(spent) * len(spent) / sum(spent) if sum(spent) else 1.0
        for kept in by_rank:
            self._learn([(marked, seconds * share) for marked, seconds in kept])
        settled = {id: self.marked[id] for id in order if id in self.marked}
        if len(by_rank) == 1 and list(settled) == list(self.marked):
            return  # the file is as it should be
        self.marked = settled
        lines = (_encode(marked, self.seconds[id]) for id, marked in self.marked.items())
        write_atomically(self.path, b"".join(lines))

    def _learn(self, kept: Iterable[Kept]) -> None:
        for marked, seconds in kept:
            self.marked[marked.id] = marked
            self.seconds[marked.id] = seconds

    def _take_parts(self) -> None:
        """Lines that a kill left in parts go into the file."""
        for part in find_parts(self.path):
            # A kill may have come between the lines' way into the file and the end of their part.
            new = [kept for kept in _read(part) if kept[0].id not in self.marked]
            with self.path.open("ab") as file:
                file.write(b"".join(_encode(*kept) for kept in new))
            self._learn(new)
        remove_parts(self.path)


def write_lines(path: Path, graded: Iterable[Marked], *, num_ranks: int = 1) -> list[Kept]:
    """Append each graded essay as soon as it comes.

    Args:
        num_ranks: That grade at the same time: an essay's seconds are its share of the wall time,
            which is the time since the one before on this rank, over the number of ranks.
    """
    kept: list[Kept] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    before = time.perf_counter()
    with path.open("ab") as file:
        for marked in graded:
            seconds = (time.perf_counter() - before) / num_ranks
            file.write(_encode(marked, seconds))
            file.flush()
            kept.append((marked, seconds))
            before = time.perf_counter()
    return kept


def _encode(marked: Marked, seconds: float) -> bytes:
    entry = line_of(marked) | {"seconds": round(seconds, 4)}
    return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read(path: Path) -> list[Kept]:
    """Whole lines; what a killed run left of a last line is cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    found: list[Kept] = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            found.append((marked_of(entry), float(entry["seconds"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a graded essay as this program writes it; "
                "remove the file, or set fresh=true, to grade again"
            ) from error
    return found


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
