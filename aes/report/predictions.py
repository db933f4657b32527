"""The file of grades that a command writes: its lines, what stays of them, and their order.

A second start goes on where the first stopped. What stands in the file and was made under the
same settings from the same essay is kept. Taken out, and so done again, are errors (the cause may
have been mended; essays that fail again get their line again) and essays that have changed since.
A last line that a kill cut short goes. Lines come in the order of grading and are put in that of
the input at the end. Two commands at once cannot write one file.

Of several ranks the first writes the file, and each other one a part beside it
(``aes.grading.shares``). The lines of parts go into the file at the end, or, if a kill left any,
when the next command takes the file over.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from aes.files import write_atomically
from aes.grading.shares import find_parts, remove_parts
from aes.report.prediction_lines import Line, LineWriter, Provenance, encode, parse, read_lines

LINES_SUFFIX, WORKBOOK_SUFFIX = ".jsonl", ".xlsx"

__all__ = [
    "LINES_SUFFIX",
    "WORKBOOK_SUFFIX",
    "PredictionWriter",
    "Provenance",
    "journal_path",
    "read_predictions",
    "require_output",
]


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


class PredictionWriter(LineWriter):
    """Appends lines to the file of a command; no other one may write it meanwhile.

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
        super().__init__(path, provenance=provenance, digests=digests)
        lines: list[Line] = []
        if path.exists():
            with self._lock():
                lines = self._take_over()
        remove_parts(path)  # what is left belongs to a file that was removed
        self.done = frozenset(str(line["id"]) for line in lines)
        self._num_bytes = path.stat().st_size if path.exists() else 0
        self._is_new = False

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._is_new = not self.path.exists()
        self._file = self._lock()
        if self._file.tell() != self._num_bytes:
            self._file.close()
            raise self._is_taken()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._is_new and not self.path.stat().st_size:
            self.path.unlink()  # nothing came of it
        super().__exit__(kind, error, trace)

    def settle(self, order: Sequence[str], others: Iterable[Line] = ()) -> None:
        """Put the file in order; the last thing to be done with it.

        Args:
            order: Ids as the input has them; lines of other essays come after them.
            others: Lines that other ranks wrote in their parts.
        """
        assert self._file is not None, "a writer is used within its with statement"
        content = self.path.read_bytes()
        places = {id: place for place, id in enumerate(order)}
        lines = [*parse(content, self.path), *others]
        lines.sort(key=lambda line: places.get(str(line["id"]), len(places)))
        settled = b"".join(map(encode, lines))
        if settled != content:
            write_atomically(self.path, settled)

    def _lock(self) -> BinaryIO:
        """The file, open at its end and ours until it is closed."""
        file = self.path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise self._is_taken() from error
        return file

    def _is_taken(self) -> ValueError:
        return ValueError(
            f"another command writes {self.path}: start again when it has ended, or choose "
            "another output."
        )

    def _take_over(self) -> list[Line]:
        """The lines that stay, those of parts included; what does not is taken out of the file."""
        content = self.path.read_bytes()
        found = self._ours(parse(content, self.path), self.path)
        parts = find_parts(self.path)
        for part in parts:
            found += self._ours(read_lines(part), part)
        # A kill may have come between the lines' way into the file and the end of their part.
        stay = {str(line["id"]): line for line in reversed(found) if self._stays(line)}
        kept = list(reversed(stay.values()))
        rest = b"".join(map(encode, kept))
        if rest != content:
            write_atomically(self.path, rest)
        remove_parts(self.path)
        return kept

    def _ours(self, lines: list[Line], path: Path) -> list[Line]:
        for number, line in enumerate(lines, start=1):
            for key in ("model", "adapter", "settings"):
                if line[key] != getattr(self.provenance, key):
                    raise ValueError(
                        f"{path}, line {number}, was made with another model, adapter or "
                        f"settings (its {key} differs): remove the file or choose another output."
                    )
        return lines

    def _stays(self, line: Mapping[str, Any]) -> bool:
        now = self.digests.get(str(line["id"]))
        return not line["error"] and (now is None or now == line.get("essay"))


def read_predictions(path: Path) -> list[Line]:
    """The lines of a file, as plain values.

    Raises:
        ValueError: If it holds anything else.
    """
    return read_lines(path)
