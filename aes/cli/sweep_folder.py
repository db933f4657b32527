"""The folder of a sweep: what was asked for, what each trial came to, and who works on it.

``sweep.json`` says which command made it; ``trials/<name>.json`` holds one trial's record, beside
the run directory ``<name>`` itself, so that a trial on another machine writes nothing but its own
file. Knows neither Hydra nor how a trial is run.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import IO, Literal

from aes.files import write_atomically

SWEEP_FILE = "sweep.json"
_RECORDS = "trials"
_REPLACED = "replaced"

State = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a trial.

    Attributes:
        name: Its run directory within the sweep's folder.
        overrides: Its command line.
        varied: Those values of it that differ between trials, by key.
        settings: Digest of the resolved settings that it ran with.
        state: ``running`` is also what a kill leaves behind.
        monitor: Name of the objective.
        objective: Its value at the end; ``None`` where there was no validation, or not yet.
        seconds: Of work, those before an interruption included.
        status: Exit status; negative: the signal that killed it; ``None``: none yet.
        error: What went wrong, in a sentence.
        stderr: The last lines there, longer runs of Chinese text left out.
    """

    name: str
    overrides: tuple[str, ...]
    varied: dict[str, str]
    settings: str
    state: State
    monitor: str
    objective: float | None = None
    seconds: float = 0.0
    status: int | None = None
    error: str = ""
    stderr: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SweepFolder:
    """One sweep on disk.

    Attributes:
        path: Absolute.
        group: The W&B group of all its trials.
        command: The settings that it was started with.
        num_trials: How many trials it is to have.
        varied: Keys that differ between trials.
    """

    path: Path
    group: str
    command: tuple[str, ...]
    num_trials: int
    varied: tuple[str, ...]

    def records(self) -> list[Record]:
        """Every trial that was started, in order."""
        files = (self.path / _RECORDS).glob("*.json")
        found = [_read_record(file) for file in files]
        return sorted(found, key=lambda one: (len(one.name), one.name))

    def find(self, overrides: Sequence[str]) -> Record | None:
        """The trial of a command line, if it was started."""
        same = [one for one in self.records() if sorted(one.overrides) == sorted(overrides)]
        return same[-1] if same else None

    def free_name(self, number: int) -> str:
        """The number of a trial, or the next one that no other trial has."""
        taken = {record.name for record in self.records()}
        return next(str(n) for n in count(number) if str(n) not in taken)

    def write(self, record: Record) -> None:
        """Keeps a record in one step."""
        content = json.dumps(asdict(record), indent=1, ensure_ascii=False)
        write_atomically(self._record_file(record.name), f"{content}\n".encode())

    def run_dir(self, name: str) -> Path:
        """Where a trial keeps its run."""
        return self.path / name

    def put_aside(self, name: str) -> None:
        """Moves what a trial left behind to where no command looks for runs; nothing is lost."""
        run_dir = self.run_dir(name)
        if not run_dir.is_dir() or not any(run_dir.iterdir()):
            return
        places = (self.path / _REPLACED / f"{name}-{n}" for n in count(1))
        place = next(place for place in places if not place.exists())
        place.parent.mkdir(exist_ok=True)
        run_dir.rename(place)

    def lock_trial(self, name: str) -> IO[bytes] | None:
        """The lock of a trial, held until the file is closed, or ``None``: its run still lives."""
        return lock(self.path / _RECORDS / f"{name}.lock")

    def write_header(self, *, fingerprint: str, is_finished: bool) -> None:
        """Keeps what the sweep is.

        Args:
            fingerprint: Digest of the command, by which it is found again.
            is_finished: No trial is missing, so the same command starts a new sweep.
        """
        header = {
            "fingerprint": fingerprint,
            "is_finished": is_finished,
            "group": self.group,
            "command": self.command,
            "num_trials": self.num_trials,
            "varied": self.varied,
        }
        content = json.dumps(header, indent=1, ensure_ascii=False)
        write_atomically(self.path / SWEEP_FILE, f"{content}\n".encode())

    def _record_file(self, name: str) -> Path:
        return self.path / _RECORDS / f"{name}.json"


def digest(values: object) -> str:
    """SHA-256 of plain values."""
    return sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def lock(path: Path) -> IO[bytes] | None:
    """An exclusive lock, which the kernel gives back when its last holder ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _read_record(file: Path) -> Record:
    try:
        plain = json.loads(file.read_bytes())
        lists = {name: tuple(plain[name]) for name in ("overrides", "stderr")}
        return Record(**plain | lists)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not a trial's record; remove it to run it again") from error
