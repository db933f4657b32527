"""A run's ``checkpoints`` folder -> the newest whole checkpoint, and why newer ones are not.

Reads only. Knows names and manifests; knows neither torch nor settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from aes.training.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest, verify_files

CHECKPOINTS_FOLDER = "checkpoints"
BEST_LINK = "best"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """A whole checkpoint.

    Attributes:
        folder: Where it is, absolute.
        manifest: What it says.
        passed_over: Newer ones that are not whole, each with the reason.
    """

    folder: Path
    manifest: Manifest
    passed_over: tuple[tuple[Path, str], ...] = ()

    @property
    def told(self) -> list[str]:
        """A line for each one passed over."""
        return [f"passed over {path.name}: {reason}" for path, reason in self.passed_over]


def step_name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """All in ``folder`` that carry a checkpoint's name, oldest first."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    found = [(int(match[1]), path) for match, path in named if match and path.is_dir()]
    return [path for _, path in sorted(found)]


def find_resumable(folder: Path) -> Resumable | None:
    """The newest checkpoint in ``folder`` whose files are as they were written.

    Args:
        folder: ``checkpoints`` of a run.

    Returns:
        ``None`` if there is not one, whole or broken.

    Raises:
        ValueError: If there are some, but none is whole.
    """
    passed_over: list[tuple[Path, str]] = []
    for path in reversed(checkpoint_folders(folder.absolute())):
        try:
            manifest = read_manifest(path)
            verify_files(path, manifest)
        except ValueError as error:
            passed_over.append((path, str(error)))
            continue
        return Resumable(folder=path, manifest=manifest, passed_over=tuple(passed_over))
    if passed_over:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in passed_over)
        raise ValueError(
            f"no checkpoint in {folder} is whole ({reasons}); restore one from a backup, or start "
            "anew with another run_dir="
        )
    return None


def read_checkpoint(path: Path) -> Resumable:
    """The checkpoint that a user names: its folder, or the newest whole one of a run directory.

    Raises:
        ValueError: If there is none, or it is not whole.
    """
    path = path.expanduser().absolute()
    if (path / MANIFEST_FILE).is_file() or _NAME.fullmatch(path.name):
        try:
            manifest = read_manifest(path)
            verify_files(path, manifest)
        except ValueError as error:
            raise ValueError(
                f"the checkpoint {path} is not whole: {error}; give another one, or the run's "
                "directory, whose newest whole one is taken"
            ) from error
        return Resumable(folder=path.resolve(), manifest=manifest)
    found = find_resumable(path / CHECKPOINTS_FOLDER)
    if found is None:
        raise ValueError(
            f"resume={path} holds no checkpoint; give a run directory or one of its "
            f"{CHECKPOINTS_FOLDER}/step-*"
        )
    return found
