"""What a record says of an image -> a picture that is there, with a digest of its content.

Only the header is looked at: whether the rest is whole and of a format that is taken shows when the
image is opened as a page. Files
outside the root are refused however they are named, since data from elsewhere must not choose what
is read. Nothing is fetched.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

from aes.corpus.instructions.rows import RowError
from aes.corpus.instructions.tables import TableCell
from aes.records import Picture

DIGEST_BYTES = 16
_LONGEST_NAME = 120


class PictureFinder:
    """Finds the images that records name.

    Args:
        root: Folder that paths are relative to, and must not leave.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._real_root = self.root.resolve()

    def find(self, value: Any) -> tuple[Picture, bytes]:
        """The picture, and a digest of its bytes.

        Args:
            value: A path, an object with ``path``, or a cell of a table.

        Raises:
            RowError: If there is no image, it lies elsewhere, or is none.
        """
        if isinstance(value, TableCell):
            _check_header(value.content, f"bytes in {value.image.column}")
            return value.image, _digest(value.content)
        path = self._locate(_named_path(value))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RowError(
                "unreadable_image", f"names {_short(path.name)}, which cannot be opened", path=path
            ) from error
        _check_header(content, f"bytes in {_short(path.name)}", path=path)
        return path, _digest(content)

    def _locate(self, name: str) -> Path:
        if "://" in name or name.startswith("data:"):
            raise RowError("missing_image", "names an image by an address, and nothing is fetched")
        path = self.root / name
        try:
            real = path.resolve()
            is_file = real.is_file()
        except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, a loop of links
            is_file, real = False, self._real_root
        if not real.is_relative_to(self._real_root):
            raise RowError(
                "image_outside_root",
                f"names {_short(name)}, which is outside {self.root}",
                path=path,
            )
        if not is_file:
            raise RowError(
                "missing_image", f"names {_short(name)}, which is not in {self.root}", path=path
            )
        return path


def _named_path(value: Any) -> str:
    name = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(name, str) or not name:
        raise RowError("missing_image", "names no file for an image")
    return name


def _check_header(content: bytes, name: str, *, path: Path | None = None) -> None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes that Pillow warns of are refused on opening
            Image.open(BytesIO(content)).close()
    except Exception as error:  # Pillow's formats fail each in their own way
        raise RowError("unreadable_image", f"has {name} that are no image", path=path) from error


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
