"""Essays -> the share of each rank, and the files in which ranks keep what they graded.

The first rank writes the file that was asked for. Each other rank writes a part beside it, so that
a kill loses nothing of its share either; parts go into the file and are removed at the end, or
when the next command opens the file, whatever number of ranks that one has. Knows no format.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aes.ranks import Ranks

T = TypeVar("T")


def share_of(items: Sequence[T], ranks: Ranks, *, size: Callable[[T], Any]) -> list[T]:
    """This rank's items in their order; each item is one rank's, and ranks have alike much to do.

    Args:
        items: The same on every rank.
        size: Sorts items by the work that they make. Every n-th in their own order would not do:
            where each essay comes with as many copies as there are ranks, one rank would get all
            of the longest.
    """
    by_size = sorted(range(len(items)), key=lambda index: size(items[index]))
    return [items[index] for index in sorted(by_size[ranks.rank :: ranks.num_ranks])]


def own_path(path: Path, ranks: Ranks) -> Path:
    """Where this rank writes what belongs into ``path``."""
    return path if ranks.is_first else path.with_name(f".{path.name}.rank{ranks.rank}")


def find_parts(path: Path) -> list[Path]:
    """What other ranks wrote beside ``path``, by name; none after all of it went into the file."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.rank*"))


def remove_parts(path: Path) -> None:
    """Remove them."""
    for part in find_parts(path):
        part.unlink(missing_ok=True)
