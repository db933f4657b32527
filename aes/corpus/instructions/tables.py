"""Turns tables (Parquet, Arrow as ``datasets`` writes it) into records, without opening an image.

Parquet cannot be mapped into memory, so its columns that are wanted are written once into an Arrow
file in the cache; from then on an image is a place in that file, and its bytes are read when they
are wanted. No more than a few dozen rows are in memory, and one group of rows of a Parquet file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aes.corpus.instructions.rows import Row, name_columns
from aes.files import prune, sync, touch
from aes.records import TableImage

TABLE_SUFFIXES = (".parquet", ".arrow")
_ROWS_AT_ONCE = 64
_LONGEST_STEM = 60
_CACHE_BYTES = 64 * 2**30
_IN_USE_S, _KEPT_S = 24 * 3600.0, 30 * 24 * 3600.0
"""Bounds of the cache: other runs may be reading what was used within a day, and nothing is kept
that was not used for a month."""


@dataclass(frozen=True)
class TableCell:
    """An image in a table, with its encoded bytes."""

    image: TableImage
    content: bytes


def read_tables(
    paths: Sequence[Path], *, columns: Collection[str], required: Collection[str], cache: Path
) -> Iterator[Row]:
    """The records of tables of one format, one table after the other.

    Args:
        columns: Those that are wanted where there are such.
        required: Those without which there is nothing to read.
        cache: Folder that Arrow files are written to.

    Raises:
        ValueError: If a table cannot be read, or has no such columns.
    """
    for path in paths:
        _check_columns(path, required)
    for path in paths:
        yield from _read_arrow(path, _map(path, columns, cache), columns)


def _check_columns(path: Path, required: Collection[str]) -> None:
    present = _column_names(path)
    missing = [column for column in required if column not in present]
    if missing:
        raise ValueError(
            f"{path} has no column {name_columns(missing)}, but {name_columns(present)}: name the "
            "right ones under data.columns."
        )


def _column_names(path: Path) -> list[str]:
    if path.suffix == ".arrow":
        return list(_open_arrow(path).column_names)
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet file, or is cut short: get it anew.") from error


def _map(path: Path, columns: Collection[str], cache: Path) -> Path:
    """The table as a file that can be mapped, written unless it is there."""
    if path.suffix == ".arrow":
        return path
    wanted = [name for name in _column_names(path) if name in columns]
    status = path.stat()
    told = repr((str(path.resolve()), status.st_size, status.st_mtime_ns, wanted))
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    # In a folder of its own, whose time tells when it was used; the file's time is its identity.
    folder = cache / "tables" / f"{path.stem[:_LONGEST_STEM]}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    touch(folder)
    prune(folder.parent, max_bytes=_CACHE_BYTES, min_idle_s=_IN_USE_S, max_idle_s=_KEPT_S)
    arrow = folder / "table.arrow"
    if not arrow.is_file():
        _require_room(path, folder)
        _convert(path, arrow, wanted)
    return arrow


def _require_room(path: Path, folder: Path) -> None:
    """Images are compressed already, so a table takes about as much room as its file."""
    wanted, free = path.stat().st_size, shutil.disk_usage(folder).free
    if free < wanted:
        raise ValueError(
            f"{path} takes about {wanted / 2**30:.1f} GiB in the cache, but only "
            f"{free / 2**30:.1f} GiB are free in {folder.parent}: make room, or move the cache "
            "with paths.cache=DIR."
        )


def _convert(path: Path, arrow: Path, columns: list[str]) -> None:
    """Write a Parquet file's columns as an Arrow stream, as ``datasets`` has it, or nothing.

    ``datasets`` would do so too, but holds most of a file with large cells in memory meanwhile.
    """
    from pyarrow import ipc, parquet

    draft = arrow.with_name(f".{arrow.name}.{os.getpid()}.tmp")
    try:
        with parquet.ParquetFile(path) as file:
            # Without what ``datasets`` noted there: it is about all columns.
            schema = file.schema_arrow.remove_metadata().empty_table().select(columns).schema
            with ipc.new_stream(str(draft), schema) as stream:
                for group in range(file.num_row_groups):
                    # Group by group: in one go, pyarrow keeps every group until the end.
                    for batch in file.iter_batches(
                        _ROWS_AT_ONCE, row_groups=[group], columns=columns
                    ):
                        stream.write_batch(batch)
        sync(draft)
        draft.replace(arrow)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # a full disk, not a broken file
            raise
        raise ValueError(f"{path} is broken within its rows: get it anew.") from error
    finally:
        draft.unlink(missing_ok=True)


def _open_arrow(path: Path) -> Any:
    from datasets import Dataset

    try:
        return Dataset.from_file(str(path)).data
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is no Arrow file as datasets writes them, or is cut short: get it anew."
        ) from error


def _read_arrow(path: Path, arrow: Path, columns: Collection[str]) -> Iterator[Row]:
    table = _open_arrow(arrow)
    names = [name for name in table.column_names if name in columns]
    start = 0
    for batch in table.table.select(names).to_batches(max_chunksize=_ROWS_AT_ONCE):
        read = [_read_column(batch.column(name), arrow, name, start) for name in names]
        for values in zip(*read, strict=True):
            yield Row(path, 0, dict(zip(names, values, strict=True)))
        start += batch.num_rows


def _read_column(array: Any, arrow: Path, name: str, start: int) -> Iterator[Any]:
    """Plain values, and images as cells; one after the other, since images are large."""
    if not _holds_images(array.type):
        yield from array.to_pylist()
        return
    for row, cell in enumerate(array, start=start):
        yield _read_images(cell, TableImage(arrow, row, name))


def _holds_images(kind: Any) -> bool:
    """Whether cells are bytes, structs with bytes, or lists of either."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _holds_images(kind.value_type)
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    forms = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(is_form(kind) for is_form in forms)


def _read_images(cell: Any, place: TableImage) -> Any:
    """What stands in a cell: an image, a path in its place, nothing, or a list of these."""
    from pyarrow import ListScalar

    if not cell.is_valid:
        return None
    if isinstance(cell, ListScalar):
        return [
            _read_images(one, TableImage(place.path, place.row, place.column, number))
            for number, one in enumerate(cell.values)
        ]
    value = cell.as_py()
    if isinstance(value, dict):
        value = value.get("path") if value["bytes"] is None else value["bytes"]
    return TableCell(place, value) if isinstance(value, bytes) else value
