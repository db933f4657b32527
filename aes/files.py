"""Finished bytes -> a file that is either the old one or the new one, never half of it.

Also keeps folders of things that can be made again from growing without end.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a crash or a reader never meets half of it.

    Args:
        path: File to write; missing folders above it are made.
        content: All of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic only within one file system.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; until then they may be in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_bytes(path: Path) -> int:
    """Of a file, or of all files below a folder; 0 of what another process is taking away."""
    try:
        if not path.is_dir():
            return path.lstat().st_size
        return sum(size_bytes(Path(entry.path)) for entry in os.scandir(path))
    except FileNotFoundError:
        return 0


def touch(path: Path) -> None:
    """Say that a file or folder was used, for ``prune``; it may be gone already."""
    with suppress(FileNotFoundError):
        os.utime(path)


def prune(
    folder: Path,
    *,
    max_bytes: int,
    spared: Sequence[Path] = (),
    min_idle_s: float = 0.0,
    max_idle_s: float | None = None,
) -> None:
    """Remove what was not used for longest, until the rest is small enough.

    What is removed is a whole file or folder directly in ``folder``; ``touch`` says that it was
    used. Safe beside others that prune: what is gone is gone.

    Args:
        max_bytes: Bound of what remains, ``spared`` not counted.
        spared: Entries that stay.
        min_idle_s: Others used within so many seconds stay too, for a run may be reading them.
        max_idle_s: What was not used for so long goes whatever its size.
    """
    now_s = time.time()
    found = []
    for path in folder.iterdir():
        if path not in spared:
            try:
                found.append((now_s - path.stat().st_mtime, path))
            except FileNotFoundError:
                continue
    sizes = {path: size_bytes(path) for _, path in found}
    total = sum(sizes.values())
    for idle_s, path in sorted(found, reverse=True):
        is_old = max_idle_s is not None and idle_s > max_idle_s
        if not is_old and (total <= max_bytes or idle_s < min_idle_s):
            continue
        total -= sizes[path]
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # another user's, or gone
        path.unlink()
