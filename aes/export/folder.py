"""Many files -> a folder that is there with all of them, or not there.

Knows nothing of what they hold.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_free(out: Path) -> None:
    """Refuse a place that is taken; an empty folder is not.

    Raises:
        ValueError: If something stands there.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty; name a folder that does not exist yet")


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` when the block ends well.

    Until then it is a hidden folder beside it; an exception or Ctrl-C takes it away again. A kill
    leaves it under its hidden name, and the next to write ``out`` takes it away.

    Raises:
        ValueError: If ``out`` is taken, or another process is writing it.
    """
    require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(out)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    lock = None
    try:
        draft.mkdir()
        lock = _lock(draft)
        yield draft
        os.sync()  # a name that the disk knows must not stand for files that it does not
        require_free(out)  # it may have been taken in the meantime
        draft.replace(out)
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(draft, ignore_errors=True)


def _clear_leftovers(out: Path) -> None:
    """Take away what killed processes left of the same folder.

    Raises:
        ValueError: If one of them is still at work.
    """
    for draft in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        lock = _lock(draft)
        if lock is None:
            raise ValueError(
                f"another process is writing {out}; wait for it, or name another --out"
            )
        os.close(lock)
        shutil.rmtree(draft, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    """Hold a folder until the descriptor is closed or the process ends; ``None``: another does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def require_room(out: Path, num_bytes: int) -> None:
    """Refuse what would not fit the disk.

    Raises:
        ValueError: If fewer than ``num_bytes`` are free where ``out`` is to be.
    """
    place = next(p for p in (out, *out.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise ValueError(
            f"--out {out} needs {num_bytes / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are "
            "free there; make room, or name a folder on another disk"
        )
