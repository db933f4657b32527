"""Ranks make sure that they are about to do the same, before they do it.

Wiring only: what is compared is told as plain values.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aes.cli.settings import Settings
from aes.cli.source import dotted_values
from aes.ranks import Ranks
from aes.training.checkpoint.manifest import library_versions

T = TypeVar("T")
_MAY_DIFFER = ("paths", "run_dir", "check_only")
"""Keys that each node may have its own values for."""


def require_same_settings(ranks: Ranks, settings: Settings) -> None:
    """Compares a digest of the settings and of the libraries' versions over all ranks.

    Raises:
        ValueError: On every rank, if one differs, with the keys that do.
    """
    values = {key: value for key, value in settings.resolved.items() if key not in _MAY_DIFFER}
    versions = {f"version of {name}": number for name, number in library_versions().items()}
    require_same(ranks, {**dotted_values(values), **versions}, "settings")


def require_same(ranks: Ranks, values: Mapping[str, Any], what: str) -> None:
    """Compares plain values over all ranks, by their digest first.

    Raises:
        ValueError: On every rank, if one differs.
    """
    text = json.dumps(values, sort_keys=True, default=str)
    digests = ranks.gather(hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    told = ranks.gather(values)
    other = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
    first, second = told[0], told[other]
    keys = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    shown = ", ".join(f"{key} ({first.get(key)} and {second.get(key)})" for key in keys[:3])
    raise ValueError(
        f"ranks 0 and {other} differ in their {what}: {shown}"
        f"{' and more' if len(keys) > 3 else ''}; start every node with the same command, data "
        "and installation"
    )


def first_on_each_node(ranks: Ranks, make: Callable[[], T]) -> T:
    """What ``make`` returns on every rank; one rank of a node fills the cache for the others."""
    if ranks.local_rank == 0:
        made = make()
        ranks.barrier()
        return made
    ranks.barrier()
    return make()


def require_visible(ranks: Ranks, folder: Path, *, file: str) -> None:
    """Checks that all ranks see what the first one has written into a run directory.

    Raises:
        ValueError: On every rank, if one does not.
    """
    seen = ranks.gather((socket.gethostname(), (folder / file).is_file()))
    blind = sorted({host for host, sees in seen if not sees})
    if blind:
        raise ValueError(
            f"{', '.join(blind)} cannot see the run directory {folder}, which the first rank made; "
            "put it on a file system that all nodes share, with run_dir=DIR"
        )
