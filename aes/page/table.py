"""Turns an image's place on disk into its encoded bytes: a file, or a row of an Arrow table.

Tables are mapped into memory, once a process, and never read whole. Decodes nothing.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from aes.page.pdf import name_page
from aes.records import Picture, TableImage

_MOST_OPEN = 64
"""Tables that stay mapped; they are large, so data has few of them."""


def image_bytes(source: Path | TableImage) -> bytes:
    """The image as it is encoded, in whatever format.

    Raises:
        ValueError: If the table is missing or has no such image.
        OSError: If the file cannot be read.
    """
    return source.read_bytes() if isinstance(source, Path) else _cell_bytes(source)


def name_picture(source: Picture) -> str:
    """How a message names a picture; rows count from 1."""
    if not isinstance(source, TableImage):
        return name_page(source)
    number = f"image {source.number + 1} in " if source.number else "the image in "
    return f"{number}row {source.row + 1}, column {source.column} of {source.path}"


def _cell_bytes(source: TableImage) -> bytes:
    status = _status(source.path)
    if status is None:
        raise ValueError(f"{source.path} does not exist: prepare the data again.")
    table = _open_table(source.path, *status)
    if source.column not in table.column_names or not 0 <= source.row < table.num_rows:
        raise ValueError(f"{name_picture(source)} is not there: prepare the data again.")
    content = cell_image(table.column(source.column)[source.row], source.number)
    if content is None:
        raise ValueError(f"{name_picture(source)} is empty: delete the row or add the image.")
    return content


def cell_image(cell: Any, number: int) -> bytes | None:
    """Of a cell of pyarrow: bytes, a struct with ``bytes``, or a list of either.

    Args:
        number: Place in the list; 0 for a single image.

    Returns:
        ``None`` where there is no such image, or no bytes of it.
    """
    from pyarrow import ListScalar

    if not cell.is_valid:
        return None
    if isinstance(cell, ListScalar):
        if number >= len(cell.values):
            return None
        return cell_image(cell.values[number], 0)
    value = cell.as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else None


def _status(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=_MOST_OPEN)
def _open_table(path: Path, num_bytes: int, changed_ns: int) -> Any:
    """A file as it is now, mapped; a file written anew is mapped anew."""
    del num_bytes, changed_ns
    from datasets import Dataset

    try:
        return Dataset.from_file(str(path)).data
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an Arrow table: prepare it again.") from error
