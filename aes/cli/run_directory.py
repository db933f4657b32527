"""Turns settings into an empty run directory with its ``config.yaml``.

Knows file systems; knows nothing about what a run keeps there.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aes.files import write_atomically

if TYPE_CHECKING:
    from aes.cli.settings import Settings

CONFIG_FILE = "config.yaml"
_BYTES_PER_MIB = 2**20


def create_run_directory(settings: Settings, *, reuse: bool = False) -> Path:
    """Creates the run directory and writes ``config.yaml`` into it.

    Args:
        reuse: It is there already, and is gone on with.

    Returns:
        The directory: ``settings.run_dir``, or, if its name was only the time and another run took
        it in the same second, the same with ``-2``, ``-3`` ... behind.

    Raises:
        ValueError: If a chosen directory holds something already, or cannot be made.
    """
    try:
        run_dir = settings.run_dir
        if not reuse:
            run_dir = _claim(run_dir, is_fixed=settings.run_dir_is_fixed)
        config = {"choices": settings.choices, "config": settings.resolved}
        write_yaml(run_dir / CONFIG_FILE, config)
    except OSError as error:
        raise ValueError(
            f"cannot create the run directory {settings.run_dir} ({error.strerror}); choose "
            "another place with run_dir=DIR"
        ) from error
    return run_dir


def _claim(path: Path, *, is_fixed: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_fixed:
        return _claim_next(path)
    require_unused(path)
    path.mkdir(exist_ok=True)
    return path


def require_unused(path: Path) -> None:
    """Checks that a chosen run directory is not there yet, or empty.

    Raises:
        ValueError: If it holds something, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"run_dir {path} is a file; choose another run_dir=")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(
            f"the run directory {path} is in use already; choose another run_dir=, or go on with "
            "what is there by resume=auto"
        )


def require_cache(folder: Path) -> None:
    """Makes the cache folder, or says why that cannot be.

    Raises:
        ValueError: If it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"paths.cache={folder} cannot be written ({error.strerror}); choose another folder "
            "with paths.cache=DIR or the environment variable AES_CACHE"
        ) from error


def _claim_next(path: Path) -> Path:
    """Makes ``path``, or ``path-2`` and so on: mkdir tells apart runs that start together."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("counting never ends")


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Writes plain values so that the file is there whole or not at all."""
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=100)
    write_atomically(path, text.encode())


def require_free_space(path: Path, needed_bytes: int) -> None:
    """Checks that the disk that holds ``path``, or will hold it, has room.

    Raises:
        ValueError: If fewer than ``needed_bytes`` are free.
    """
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise ValueError(
            f"{path} needs {needed_bytes / _BYTES_PER_MIB:,.0f} MiB, but only "
            f"{free_bytes / _BYTES_PER_MIB:,.0f} MiB are free; make room, or choose another place "
            "with run_dir=DIR"
        )
