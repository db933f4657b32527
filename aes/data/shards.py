"""A thousand samples -> one Arrow file of tokenised rows, with what is wrong beside it.

A shard is there once both its files are; what is half written is made again. It stays good while
the images that its samples name are as they were. Knows samples one by one: what they have in
common is found downstream.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from aes.corpus.instructions import Finding, Sample
from aes.data.processor import Encoded, Processor
from aes.files import write_atomically
from aes.page import PageRenderer
from aes.records import PageLayout

SAMPLES_PER_SHARD = 1000
"""About a second's work of a process, which is what an interruption costs."""

NO_LABEL = -1

_INT, _INTS, _PAIRS, _BYTES = "int32", "ints", "pairs", "binary"
_COLUMNS = {
    "id": "string",
    "example": _BYTES,
    "input_ids": _INTS,
    "num_prompt": _INT,
    "steps": _INTS,
    "turns": _PAIRS,
    "grids": _PAIRS,
    "num_tokens": _INT,
    "num_tokens_full_size": _INT,
    "num_image_tokens": _INT,
    "num_supervised": _INT,
    "num_pages": _INT,
    "glyph_px": _INT,
    "source": "string",
    "digest": _BYTES,
    "number": _INT,
    "label": _INT,
    "asked": _BYTES,
    "twin": _BYTES,
    "keys": "keys",
    "beginnings": "keys",
    "file": "string",
    "line": _INT,
}
"""As ``aes.data.prepare`` has them, and what tells copies and relatives and where they stand."""


@dataclass(frozen=True)
class ShardFacts:
    """What is known of a shard besides its rows.

    Attributes:
        num_read: Samples, those that gave no row included.
        num_rows: Those that did.
        findings: Id and problem, in the order of the data.
        images: Size and time of change of each image file that is named; ``None`` for a missing
            one.
    """

    num_read: int
    num_rows: int
    findings: tuple[tuple[str, Finding], ...]
    images: dict[str, tuple[int, int] | None]


class Shard:
    """Place of a shard on disk.

    Args:
        folder: Of all shards of one data set.
        number: Counts from 0.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.rows_file = folder / f"{number:06d}.arrow"
        self._facts_file = folder / f"{number:06d}.json"

    def is_whole(self) -> bool:
        """Whether it need not be made again."""
        try:
            facts = self.facts()
            is_read = len(self.rows()) == facts.num_rows
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return is_read and all(_status(Path(p)) == was for p, was in facts.images.items())

    def rows(self) -> Any:
        """A ``datasets.Dataset``, mapped into memory."""
        from datasets import Dataset

        return Dataset.from_file(str(self.rows_file))

    def facts(self) -> ShardFacts:
        """What is known besides.

        Raises:
            OSError: If the file is missing.
            ValueError: If it is no JSON.
        """
        plain = json.loads(self._facts_file.read_text(encoding="utf-8"))
        return ShardFacts(
            num_read=plain["num_read"],
            num_rows=plain["num_rows"],
            findings=tuple(
                (id_, Finding(code=code, message=message, file=file, line=line))
                for id_, (code, message, file, line) in plain["findings"]
            ),
            images={p: None if s is None else (s[0], s[1]) for p, s in plain["images"].items()},
        )

    def write(
        self, samples: Sequence[Sample], *, processor: Processor, renderer: PageRenderer
    ) -> None:
        """Tokenise samples; an image that cannot be opened is a problem of its sample."""
        rows: list[dict[str, Any]] = []
        findings: list[tuple[str, Finding]] = []
        for sample in samples:
            findings += [(sample.id, finding) for finding in sample.findings]
            if sample.example is None:
                continue
            try:
                sizes = [renderer.size(page) for page in sample.example.pages]
            except ValueError as error:
                findings.append((sample.id, _unreadable(sample, error, renderer)))
            else:
                rows.append(_row(sample, processor.encode(sample.example, sizes)))
        _write_rows(rows, self.rows_file)
        facts = {
            "num_read": len(samples),
            "num_rows": len(rows),
            "findings": [(id_, astuple(finding)) for id_, finding in findings],
            "images": _image_files(samples),
        }
        text = json.dumps(facts, ensure_ascii=False)
        # Names of images may hold half a character, which has no UTF-8; its escape is valid JSON.
        write_atomically(self._facts_file, text.encode("utf-8", "backslashreplace"))


def _unreadable(sample: Sample, error: ValueError, renderer: PageRenderer) -> Finding:
    return Finding(
        code="image_for_text_model" if renderer.spec.reads_text_alone else "unreadable_page",
        message=f"sample {sample.number}: {error}",
        file=sample.file,
        line=sample.line,
    )


def _row(sample: Sample, encoded: Encoded) -> dict[str, Any]:
    example = sample.example
    assert example is not None
    answer = "".join(text for text, _ in example.answer)
    choices = example.choices
    return {
        "id": sample.id,
        "example": pickle.dumps(example),
        "input_ids": encoded.input_ids,
        "num_prompt": encoded.num_prompt,
        "steps": encoded.steps,
        "turns": encoded.turns,
        "grids": encoded.grids,
        "num_tokens": len(encoded.input_ids),
        "num_tokens_full_size": len(encoded.input_ids),
        "num_image_tokens": encoded.num_image_tokens,
        "num_supervised": encoded.num_supervised,
        "num_pages": len(encoded.grids),
        "glyph_px": 0,
        "source": example.source or sample.id,
        "digest": _digest(sample, encoded),
        "number": sample.number,
        "label": choices.index(answer) if answer in choices else NO_LABEL,
        "asked": sample.asked,
        "twin": sample.twin,
        "keys": list(sample.keys),
        "beginnings": list(sample.beginnings),
        "file": sample.file,
        "line": sample.line,
    }


def _digest(sample: Sample, encoded: Encoded) -> bytes:
    """Of all that is learned from a sample; images count by their content, in ``twin``."""
    told = (sample.id, sample.twin, encoded.input_ids, encoded.grids, encoded.turns)
    return hashlib.blake2b(repr(told).encode(), digest_size=16).digest()


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """An Arrow stream, as ``datasets`` maps it."""
    import pyarrow as pa

    types = {"ints": pa.list_(pa.int32()), "pairs": pa.list_(pa.list_(pa.int32()))}
    types |= {"keys": pa.list_(pa.binary())}
    plain = {"int32": pa.int32(), "string": pa.string(), "binary": pa.binary()}
    schema = pa.schema([(name, (types | plain)[kind]) for name, kind in _COLUMNS.items()])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(pa.Table.from_pylist(list(rows), schema=schema))
    write_atomically(path, sink.getvalue().to_pybytes())


def _image_files(samples: Iterable[Sample]) -> dict[str, tuple[int, int] | None]:
    """Those of whole samples, and those for whose sake others are none."""
    found: dict[Path, None] = {}
    for sample in samples:
        pages = () if sample.example is None else _pictures(sample.example.pages)
        found |= dict.fromkeys(page if isinstance(page, Path) else page.path for page in pages)
        if sample.blamed is not None:
            found[sample.blamed] = None
    return {str(path): _status(path) for path in found}


def _pictures(pages: Iterable[Any]) -> Iterable[Any]:
    return (page for page in pages if not isinstance(page, PageLayout))


def _status(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    return status.st_size, status.st_mtime_ns
