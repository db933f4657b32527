"""Graded essays <-> lines of a file that grows while they are graded: a killed run goes on from it.

Samples that were answered in text are kept alike. Beside the lines stands a small file with the
settings under which they were made, so that those of unlike settings never end up in one report.
Of several ranks each writes a file of its own (``aes.grading.shares``), and the first one puts them
together. Knows no metric.
"""

from __future__ import annotations

import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from aes.files import write_atomically
from aes.grading.shares import find_parts, remove_parts
from aes.records import Answered, Deduction, Grade, Marked

T = TypeVar("T", Marked, Answered)
Kept = tuple[Marked, float]
"""A graded essay and its seconds."""
KeptAnswer = tuple[Answered, float]
"""An answered sample and its seconds."""


class _Journal(ABC, Generic[T]):
    """What was made in one evaluation; more comes through ``write_lines``.

    Args:
        path: The file of lines; its settings stand in ``<stem>.settings.json`` beside it.
        settings: What the lines depend on, as plain values.
        fresh: Forget what is there.

    Attributes:
        done: What was made by id.
        seconds: Wall time by id; see ``write_lines``.

    Raises:
        ValueError: If ``path`` holds lines made under other settings, or broken ones.
    """

    item: ClassVar[str]
    noun: ClassVar[str]
    verb: ClassVar[str]

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
        self.path = path
        self.done: dict[str, T] = {}
        self.seconds: dict[str, float] = {}
        beside = path.with_name(f"{path.stem}.settings.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        if path.is_file() and (path.stat().st_size or find_parts(path)):
            self._require_same(beside, settings)
            self._learn(self._read(path))
            self._take_parts()
        else:
            write_atomically(beside, json.dumps(settings, indent=1, ensure_ascii=False).encode())
            remove_parts(path)  # of a file that was removed

    @property
    def grading_s(self) -> float:
        """Wall time of making all of it in seconds, that of earlier starts included."""
        return sum(self.seconds.values())

    def settle(self, by_rank: Sequence[Sequence[tuple[T, float]]], order: Sequence[str]) -> None:
        """Put together what ranks have kept, and the lines in order.

        Args:
            by_rank: What each kept, this one included. As long as the slowest took is how long
                all took: the seconds of each become its share of that.
            order: All ids, as the data has them.
        """
        spent = [sum(seconds for _, seconds in kept) for kept in by_rank]
        share = max(spent) * len(spent) / sum(spent) if sum(spent) else 1.0
        for kept in by_rank:
            self._learn([(item, seconds * share) for item, seconds in kept])
        settled = {id: self.done[id] for id in order if id in self.done}
        if len(by_rank) == 1 and list(settled) == list(self.done):
            return  # the file is as it should be
        self.done = settled
        lines = (_encode(item, self.seconds[id]) for id, item in self.done.items())
        write_atomically(self.path, b"".join(lines))

    @staticmethod
    @abstractmethod
    def item_of(line: Mapping[str, Any]) -> T:
        """What a line says.

        Raises:
            KeyError: If a value is missing.
        """

    def _learn(self, kept: Iterable[tuple[T, float]]) -> None:
        for item, seconds in kept:
            self.done[item.id] = item
            self.seconds[item.id] = seconds

    def _take_parts(self) -> None:
        """Lines that a kill left in parts go into the file."""
        for part in find_parts(self.path):
            # A kill may have come between the lines' way into the file and the end of their part.
            new = [kept for kept in self._read(part) if kept[0].id not in self.done]
            with self.path.open("ab") as file:
                file.write(b"".join(_encode(*kept) for kept in new))
            self._learn(new)
        remove_parts(self.path)

    def _read(self, path: Path) -> list[tuple[T, float]]:
        """Whole lines; what a killed run left of a last line is cut off."""
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        found: list[tuple[T, float]] = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                found.append((self.item_of(entry), float(entry["seconds"])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: not {self.item} as this program writes it; "
                    f"remove the file, or set fresh=true, to {self.verb} again"
                ) from error
        return found

    def _require_same(self, beside: Path, settings: Mapping[str, Any]) -> None:
        cure = f"choose another folder with out=DIR, or set fresh=true to {self.verb} again"
        try:
            before = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.path} lies there without a readable {beside.name}, so nobody knows how its "
                f"{self.noun} were made; {cure}"
            ) from error
        now = json.loads(json.dumps(settings))
        changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if changed:
            told = ", ".join(f"{k} was {_shown(before.get(k))}" for k in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"{self.path} holds {self.noun} made under other settings ({told}{more}); {cure}"
            )


class Journal(_Journal[Marked]):
    """The graded essays of one evaluation."""

    item, noun, verb = "a graded essay", "grades", "grade"

    @property
    def marked(self) -> dict[str, Marked]:
        """Graded essays by id."""
        return self.done

    @staticmethod
    def item_of(line: Mapping[str, Any]) -> Marked:
        """See ``marked_of``."""
        return marked_of(line)


class AnswerJournal(_Journal[Answered]):
    """The answered samples of one evaluation."""

    item, noun, verb = "an answered sample", "answers", "answer"

    @staticmethod
    def item_of(line: Mapping[str, Any]) -> Answered:
        """The answered sample of a line."""
        return Answered(**{name: line[name] for name in Answered.__dataclass_fields__})


def write_lines(path: Path, made: Iterable[T], *, num_ranks: int = 1) -> list[tuple[T, float]]:
    """Append each graded essay or answered sample as soon as it comes.

    Args:
        num_ranks: That work at the same time: an item's seconds are its share of the wall time,
            which is the time since the one before on this rank, over the number of ranks.
    """
    kept: list[tuple[T, float]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    before = time.perf_counter()
    with path.open("ab") as file:
        for item in made:
            seconds = (time.perf_counter() - before) / num_ranks
            file.write(_encode(item, seconds))
            file.flush()
            kept.append((item, seconds))
            before = time.perf_counter()
    return kept


def _encode(item: Marked | Answered, seconds: float) -> bytes:
    values = line_of(item) if isinstance(item, Marked) else asdict(item)
    entry = values | {"seconds": round(seconds, 4)}
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair has no UTF-8, but its escape is valid JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


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


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."
