"""A planned sweep -> its folder: a new one, or the one that an earlier start left unfinished.

Two processes never work on one folder. Starts no trial.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO, Any

from aes.cli.sweep_folder import SWEEP_FILE, SweepFolder, digest, lock
from aes.cli.sweep_jobs import SweepPlan

_LOCK = ".lock"

# Where and by what means trials run does not change what they are.
_SAME_SWEEP = ("hydra.sweep.dir=", "hydra.mode=", "hydra/launcher=", "hydra.launcher.")


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A sweep that this process alone works on.

    Attributes:
        folder: The sweep.
        fingerprint: Digest of the command, by which it is found again.
        is_new: It was made just now; otherwise it is gone on with.
        lock: Holds the sweep until it is closed, or the process ends.
    """

    folder: SweepFolder
    fingerprint: str
    is_new: bool
    lock: IO[bytes]

    def close(self) -> None:
        """No trial is missing, so the same command starts a new sweep the next time."""
        self.folder.write_header(fingerprint=self.fingerprint, is_finished=True)


def claim_sweep(plan: SweepPlan) -> Claimed:
    """The newest unfinished sweep of the same command that nobody works on, or a new one.

    Raises:
        ValueError: If the chosen folder belongs to something else, or another process.
    """
    fingerprint = _fingerprint(plan)
    if plan.dir_is_chosen:
        return _claim_chosen(plan, fingerprint)
    # multirun/<date>/<time>: names in the order of time.
    for file in sorted(plan.sweep_dir.parents[1].glob(f"*/*/{SWEEP_FILE}"), reverse=True):
        try:
            header = _read_header(file)
        except ValueError:
            continue  # a damaged one among many is nobody's business today
        if header is None or header["is_finished"] or header["fingerprint"] != fingerprint:
            continue
        held = lock(file.with_name(_LOCK))
        if held is not None:
            return _gone_on_with(plan, file.parent, header, held)
    return _new(plan, _make_next(plan.sweep_dir), fingerprint)


def _claim_chosen(plan: SweepPlan, fingerprint: str) -> Claimed:
    path = plan.sweep_dir
    header = _read_header(path / SWEEP_FILE)
    if header is None:
        if path.exists() and (not path.is_dir() or {p.name for p in path.iterdir()} - {_LOCK}):
            raise ValueError(
                f"hydra.sweep.dir={path} is in use by something else; choose another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        return _new(plan, path, fingerprint)
    if header["fingerprint"] != fingerprint:
        raise ValueError(
            f"hydra.sweep.dir={path} holds the sweep of another command ("
            f"{' '.join(header['command'])}); choose another folder, or repeat that command"
        )
    held = lock(path / _LOCK)
    if held is None:
        raise ValueError(f"another process works on {path}; wait for it, or choose another folder")
    return _gone_on_with(plan, path, header, held)


def _new(plan: SweepPlan, path: Path, fingerprint: str) -> Claimed:
    folder = replace(_folder(plan, path), group=f"{plan.name}-{datetime.now():%Y-%m-%d-%H-%M-%S}")
    held = lock(path / _LOCK)
    if held is None:
        raise ValueError(f"another process works on {path}; wait for it, or choose another folder")
    folder.write_header(fingerprint=fingerprint, is_finished=False)
    return Claimed(folder=folder, fingerprint=fingerprint, is_new=True, lock=held)


def _gone_on_with(plan: SweepPlan, path: Path, header: dict[str, Any], held: IO[bytes]) -> Claimed:
    # The grid itself may have changed in conf/ since; what the trials are called has not.
    folder = replace(_folder(plan, path), group=header["group"])
    return Claimed(folder=folder, fingerprint=header["fingerprint"], is_new=False, lock=held)


def _folder(plan: SweepPlan, path: Path) -> SweepFolder:
    return SweepFolder(
        path=path,
        group="",
        command=plan.source.overrides,
        num_trials=plan.num_trials,
        varied=plan.varied,
    )


def _make_next(path: Path) -> Path:
    """Makes ``path``, or ``path-2`` and so on: mkdir tells apart sweeps that start together."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        candidate.parent.mkdir(parents=True, exist_ok=True)
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("counting never ends")


def _fingerprint(plan: SweepPlan) -> str:
    """Digest of a command: the same settings in any order are the same sweep."""
    source = plan.source
    asked = sorted(o for o in source.overrides if not o.lstrip("+").startswith(_SAME_SWEEP))
    return digest([source.config_name, str(source.config_dir), asked])


def _read_header(file: Path) -> dict[str, Any] | None:
    try:
        header = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged; restore it, or remove its folder") from error
    assert isinstance(header, dict)
    return header
