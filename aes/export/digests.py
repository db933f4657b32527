"""A folder's files -> ``SHA256SUMS``, and whether they are still what was written.

The file is in the form of the ``sha256sum`` tool, so that nobody needs this project to check it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
"""Whoever publishes an export fills it in, so it has no digest."""


def write_digests(folder: Path) -> None:
    """Write down the digest of every file but the card, read back from the disk."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def check_digests(folder: Path) -> int:
    """Compare every file with what was written.

    Returns:
        Number of files, the card not counted.

    Raises:
        ValueError: If one is missing, was changed, or is not of this export.
    """
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no {SUMS_FILE}, so it is no exported model, or not a whole one; "
            "export it with python -m aes.export RUN_DIR --out DIR"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / SUMS_FILE} cannot be read; export it again") from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = set(_names(folder))
    for name, digest in expected.items():
        # Names that lead out of the folder are not among those present.
        if name not in present:
            raise ValueError(f"{folder} lacks {name}, which {SUMS_FILE} lists; export it again")
        if _digest(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is not what was written: its SHA-256 is another than in "
                f"{SUMS_FILE}; export it again"
            )
    extra = sorted(present - expected.keys())
    if extra:
        raise ValueError(
            f"{folder / extra[0]} is not in {SUMS_FILE}, so it is not of this export; take it away"
        )
    return len(expected)


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return sorted(name for name in names if name not in (SUMS_FILE, CARD_FILE))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
