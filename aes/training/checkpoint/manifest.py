"""The facts of a checkpoint <-> ``manifest.json``, which vouches for itself and for every file.

Knows neither torch nor what the files hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

MANIFEST_FILE = "manifest.json"
FORMAT = 1
"""Counts up when an older checkpoint could no longer be gone on from."""

_OWN_DIGEST = "sha256_of_all_above"


_LIBRARIES = ("torch", "transformers", "peft", "lightning", "deepspeed")


def library_versions() -> dict[str, str]:
    """Of the libraries that decide numbers, by name."""
    return {name: version(name) for name in _LIBRARIES}


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """How a file of a checkpoint must be found."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Best:
    """The checkpoint with the highest score so far, and that score."""

    step: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where a run stood, what decides its result, and the files that hold the rest.

    Attributes:
        step: Optimiser steps done.
        total_steps: Those of the whole run.
        epoch: Pass over the data, from 0, that the last of them belongs to.
        steps_in_epoch: Optimiser steps done in that pass.
        micro_batches_in_epoch: Micro-batches of each rank done in that pass.
        num_ranks: Processes that trained.
        strategy: How the model was spread over them.
        skipped_steps: Steps whose gradients were not fit to be used.
        log_bytes: Size of ``metrics.jsonl``.
        elapsed_s: Training time so far.
        wandb_id: Id of the W&B run; ``None`` without one.
        best: The best checkpoint so far; ``None`` before the first validation.
        validations: Step and metrics of each validation so far.
        settings: What decides the result, by dotted key.
        versions: Of the libraries, by name.
        files: What else is in the folder, by name.
    """

    step: int
    total_steps: int
    epoch: int
    steps_in_epoch: int
    micro_batches_in_epoch: int
    num_ranks: int
    strategy: str
    skipped_steps: int
    log_bytes: int
    elapsed_s: float
    wandb_id: str | None
    best: Best | None
    validations: tuple[Mapping[str, float | None], ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    files: Mapping[str, FileFacts] = field(default_factory=dict)

    @property
    def is_last(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.total_steps

    def to_json(self) -> str:
        """The content of ``manifest.json``, ending in a digest of itself."""
        values = {"format": FORMAT, **asdict(self)}
        return _dump({**values, _OWN_DIGEST: _digest(values)})


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json`` of a checkpoint's folder.

    Raises:
        ValueError: If it is missing, was changed, or is of another format; a clause without the
            folder's name.
    """
    try:
        values = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        found = values.pop(_OWN_DIGEST)
    except FileNotFoundError:
        raise ValueError(f"it has no {MANIFEST_FILE}") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{MANIFEST_FILE} cannot be read") from error
    if found != _digest(values):
        raise ValueError(f"{MANIFEST_FILE} was changed")
    if values.pop("format") != FORMAT:
        raise ValueError("another version of this program wrote it")
    return Manifest(
        **values
        | {
            "best": Best(**values["best"]) if values["best"] else None,
            "validations": tuple(values["validations"]),
            "files": {name: FileFacts(**facts) for name, facts in values["files"].items()},
        }
    )


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Reads every file and compares it with what was written.

    Raises:
        ValueError: If one is missing, or has another size or content; a clause as above.
    """
    for name, facts in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != facts.bytes:
                raise ValueError(f"{name} has {size} bytes instead of {facts.bytes}")
            if file_digest(path) != facts.sha256:
                raise ValueError(f"{name} does not hold what was written")
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror})") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(values).encode()).hexdigest()


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False)
