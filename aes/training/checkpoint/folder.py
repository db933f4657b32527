"""Files of all ranks -> a checkpoint's folder that is there whole or not at all.

Written aside, every file brought to the disk and hashed by the rank that wrote it, then named.
Knows neither Lightning nor what the files hold. All ranks call these methods together.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any, TypeVar

from aes.files import sync
from aes.ranks import Ranks
from aes.training.checkpoint.manifest import (
    MANIFEST_FILE,
    FileFacts,
    Manifest,
    file_digest,
)
from aes.training.checkpoint.resumable import (
    BEST_LINK,
    Resumable,
    checkpoint_folders,
    step_name,
)

T = TypeVar("T")
_SAVING, _REMOVING, _BROKEN = ".saving-", ".removing-", ".broken-"
_LOCK = ".lock"
_claimed: dict[Path, IO[bytes]] = {}
"""Locks of this process. To close any file of a locked one's name would give the lock up."""


class CheckpointFolder:
    """``checkpoints`` of a run.

    Args:
        path: The folder; made when it is needed.
        ranks: The processes that write together.
        keep_last: Newest checkpoints that are kept.
    """

    def __init__(self, path: Path, *, ranks: Ranks, keep_last: int) -> None:
        self.path = path
        self._ranks = ranks
        self._keep_last = keep_last

    def claim(self) -> None:
        """Keep other processes out until ``release``, or until this one is gone.

        Raises:
            ValueError: If another one trains here.
        """
        if not self._ranks.is_first or self.path in _claimed:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / _LOCK).open("ab")
        try:
            # Of the process alone: its loaders, which a kill leaves for a moment, hold nothing.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(
                    f"another process trains in {self.path.parent} already; wait for it, or stop "
                    "it, or choose another run_dir="
                ) from error  # else the file system knows no locks
        _claimed[self.path] = lock

    def release(self) -> None:
        """Let others in."""
        if self.path in _claimed:
            (self.path / _LOCK).unlink(missing_ok=True)
            _claimed.pop(self.path).close()

    def write(self, manifest: Manifest, write_files: Callable[[Path], list[Path]]) -> Path:
        """Write a checkpoint.

        Args:
            manifest: Its facts, ``files`` aside; only the first rank's count.
            write_files: Writes this rank's files into the folder that it is given, and names them.

        Returns:
            The folder.

        Raises:
            ValueError: On every rank, if one of them could not write; nothing is left behind.
        """
        (aside, *_) = self._together(manifest.step, self._make_aside, None)
        assert aside is not None
        written = self._together(manifest.step, lambda: _settle(write_files(aside)), aside)
        files = {name: facts for part in written for name, facts in part.items()}

        def name_it() -> Path:
            final = self.path / step_name(manifest.step)
            if self._ranks.is_first:
                _write(aside / MANIFEST_FILE, replace(manifest, files=files).to_json().encode())
                sync(aside)
                self._remove(final)
                aside.rename(final)
                sync(self.path)
            return final

        (final, *_) = self._together(manifest.step, name_it, aside)
        return final

    def is_own(self, start: Resumable) -> bool:
        """Whether a checkpoint is this run's."""
        return start.folder.parent == self.path.absolute()

    def adopt(self, start: Resumable) -> None:
        """Take in a checkpoint of another run, so that this one can go on without that."""
        final = self.path / start.folder.name
        if not self._ranks.is_first or final.is_dir():
            return
        aside = self._make_aside()
        assert aside is not None
        for name in (*start.manifest.files, MANIFEST_FILE):
            shutil.copyfile(start.folder / name, aside / name)
            _settle([aside / name])
        sync(aside)
        aside.rename(final)
        sync(self.path)

    def prune(self, best: int | None) -> None:
        """Remove all but the newest ones and that of the step ``best``."""
        if not self._ranks.is_first:
            return
        for path in checkpoint_folders(self.path)[: -self._keep_last]:
            if best is None or path.name != step_name(best):
                self._remove(path)

    def link_best(self, step: int | None) -> None:
        """Let ``best`` point to the checkpoint of a step, or to nothing."""
        if not self._ranks.is_first:
            return
        link = self.path / BEST_LINK
        if step is None or not (self.path / step_name(step)).is_dir():
            link.unlink(missing_ok=True)
            return
        draft = self.path / f".{BEST_LINK}-{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(step_name(step))  # relative, so that a run may be moved
        draft.replace(link)
        sync(self.path)

    def tidy(self, start: Resumable | None) -> None:
        """Clear what a crash left behind; set broken checkpoints aside that ``start`` is behind."""
        if not self._ranks.is_first or not self.path.is_dir():
            return
        for path in self.path.glob(".*"):
            if path.name.startswith((_SAVING, _REMOVING)):
                shutil.rmtree(path)
            elif path.name.startswith(f".{BEST_LINK}-"):
                path.unlink()
        for path, _ in start.passed_over if start is not None and self.is_own(start) else ():
            aside = self.path / f"{_BROKEN}{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)

    def _make_aside(self) -> Path | None:
        if not self._ranks.is_first:
            return None
        self.path.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=_SAVING, dir=self.path))
        aside.chmod(0o755)
        return aside

    def _remove(self, path: Path) -> None:
        """Take a checkpoint away, so that no half of it ever carries its name."""
        if path.exists():
            gone = self.path / f"{_REMOVING}{path.name}"
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone)

    def _together(self, step: int, action: Callable[[], T], aside: Path | None) -> list[T]:
        """What ``action`` gave on each rank; if it fails on one, it fails on all."""
        result: Any = None
        reason = ""
        try:
            result = action()
        except (OSError, RuntimeError) as error:
            reason = _reason(error)
        told = self._ranks.gather((result, reason))
        for rank, (_, reason) in enumerate(told):
            if reason:
                if self._ranks.is_first and aside is not None:
                    shutil.rmtree(aside, ignore_errors=True)
                who = f"rank {rank} cannot write" if len(told) > 1 else "cannot write"
                raise ValueError(
                    f"{who} the checkpoint of step {step} into {self.path} ({reason}); earlier "
                    "checkpoints are whole: make room or mend the disk, and go on with the same "
                    "command and resume=auto"
                )
        return [result for result, _ in told]


def clear_drafts(run_dir: Path) -> None:
    """Remove what a kill left of files and folders that were written aside in a run directory."""
    for path in run_dir.glob(".*"):
        if path.is_dir() and path.name.startswith((_SAVING, ".old-")):
            shutil.rmtree(path)
        elif path.suffix == ".tmp":
            path.unlink()


def _reason(error: OSError | RuntimeError) -> str:
    """What the system said.

    Raises:
        RuntimeError: If it was not about writing.
    """
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
        raise error
    return "the file cannot be written whole"


def _settle(paths: list[Path]) -> Mapping[str, FileFacts]:
    """Bring files to the disk and say how they must be found."""
    facts = {}
    for path in paths:
        sync(path)
        facts[path.name] = FileFacts(bytes=path.stat().st_size, sha256=file_digest(path))
    return facts


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
