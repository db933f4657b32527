"""A run directory's files -> counts of its data and versions of its libraries, for the card.

Reads what is there; what is missing or of an older form is left out. Knows no essay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aes.training.checkpoint.manifest import MANIFEST_FILE, library_versions
from aes.training.checkpoint.resumable import CHECKPOINTS_FOLDER

_PARTS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much data a run had.

    Attributes:
        read: Essays or samples read, and how many of them were kept.
        dropped: Why others were left out, and how many.
        samples: Of each part, with copies that were made of essays.
        sources: Independent essays of each part; empty where that is not known.
    """

    read: Mapping[str, int]
    dropped: Mapping[str, int]
    samples: Mapping[str, int]
    sources: Mapping[str, int]

    def rows(self) -> list[tuple[str, str]]:
        """For a table."""
        rows = []
        if self.read:
            rows.append(("read", ", ".join(f"{num:,} {what}" for what, num in self.read.items())))
        if self.samples:
            told = (f"{num:,} {part}" for part, num in self.samples.items())
            rows.append(("samples", ", ".join(told)))
        if self.sources:
            told = (f"{num:,} {part}" for part, num in self.sources.items())
            rows.append(("independent sources", ", ".join(told)))
        left_out = ", ".join(f"{num:,} {reason}" for reason, num in self.dropped.items())
        return [*rows, ("left out", left_out or "nothing")]


def read_counts(run: Path) -> Counts:
    """Counts of a run's data, from its plan, data check and split."""
    plan, check, split = (
        read_json(run / name) for name in ("plan.json", "check.json", "split.json")
    )
    samples = {
        label: part["num_examples"]
        for name, label in _PARTS.items()
        if isinstance(part := plan.get(name), dict) and "num_examples" in part
    }
    sources = {
        label: len(ids)
        for name, label in {"train": "training", "val": "validation", "test": "test"}.items()
        if isinstance(ids := split.get(name), list)
    }
    return Counts(
        read=_numbers(check.get("counts") or plan.get("essays")),
        dropped=_numbers(plan.get("dropped")),
        samples=samples,
        sources=sources if list(sources.values()) != list(samples.values()) else {},
    )


def _numbers(found: Any) -> dict[str, int]:
    counts = found.items() if isinstance(found, dict) else ()
    return {str(k): v for k, v in counts if isinstance(v, int) and not isinstance(v, bool)}


def read_versions(run: Path) -> dict[str, str]:
    """Of what trained, as its last checkpoint says; of what exports where there is none."""
    found = sorted((run / CHECKPOINTS_FOLDER).glob(f"step-*/{MANIFEST_FILE}"))
    trained = read_json(found[-1]).get("versions") if found else None
    libraries = trained if isinstance(trained, dict) else library_versions()
    return {"aes": version("aes"), **{str(k): str(v) for k, v in libraries.items()}}


def read_json(path: Path) -> dict[str, Any]:
    """A file's object; empty if it is not there or holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
