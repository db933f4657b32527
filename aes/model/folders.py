"""Builds a folder aside and then names it, so that a folder under its name is whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def build_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``fill`` on first use; safe with several processes at once."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        fill(aside)
        aside.chmod(0o755)
        try:
            aside.rename(folder)
        except OSError:  # another process was first; its folder is the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder
