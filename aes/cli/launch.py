"""Starts the ranks of a run on this machine, each a process of its own, and looks after them.

One way for every command: the ranks get this process's command line again, and variables that say
who they are, as torchrun's do. Knows nothing of what they compute.

The first rank writes to the terminal; of the others only the first error is shown. When one fails,
the rest are stopped, for they would wait for it forever.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from aes.hardware import HardwareSpec
from aes.ranks import Ranks

_ROOT = Path(__file__).resolve().parents[2]
STATUS_FAILED = 1
STATUS_LOST_CONTACT = 75
"""A rank ends so when another one is gone: what became of that one is what matters."""

_POLL_S = 0.1
_GRACE_S = 3.0
"""Time for ranks that noticed a death to end by themselves, so that the first cause is known."""
_GRACE_AFTER_SIGNAL_S = 45.0
"""Time for ranks that were asked to stop and have saved, to finish what else they have open."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_GUARD = "AES_RANKS"
"""Variable with the descriptor of a pipe that closes when the parent is gone."""


def must_launch(hardware: HardwareSpec, ranks: Ranks) -> bool:
    """Whether this process is a parent that still has to start the ranks.

    Raises:
        ValueError: If ranks were started otherwise than ``hardware`` says, or cannot be from here.
    """
    if not ranks.from_outside:
        if hardware.num_nodes > 1:
            raise ValueError(
                f"hardware.num_nodes={hardware.num_nodes}: start the run on every node by torchrun "
                "or srun, as docs/scaling.md shows, or only plan it with check_only=true"
            )
        return hardware.num_ranks > 1
    if (ranks.num_ranks, ranks.num_nodes) != (hardware.num_ranks, hardware.num_nodes):
        raise ValueError(
            f"{ranks.num_ranks} ranks were started on {ranks.num_nodes} node(s), but the hardware "
            f"has {hardware.devices} device(s) on {hardware.num_nodes}; start one a device, or set "
            "hardware.devices and hardware.num_nodes"
        )
    return False


def launch(command: str, *, num_ranks: int) -> int:
    """Run ``<command>.py`` with this process's command line as ``num_ranks`` processes.

    Returns:
        As ``run_ranks``.
    """
    return run_ranks([sys.executable, str(_ROOT / f"{command}.py"), *sys.argv[1:]], num_ranks)


def run_ranks(line: Sequence[str], num_ranks: int) -> int:
    """Run a command as several ranks on this machine and wait for them.

    Returns:
        Exit status: 0, what the first rank to fail returned, or what all agreed on after a signal.
    """
    watched, held = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="aes-ranks-") as folder:
            errors = [Path(folder) / f"rank-{rank}" for rank in range(num_ranks)]
            started = _start(line, errors, watched)
            with _forwarding(started) as told:
                failed = _wait(started)
            statuses = [process.returncode for process in started]
            return _explain(failed, statuses, errors[failed], told)
    finally:
        os.close(watched)
        os.close(held)


def _start(
    line: Sequence[str], errors: Sequence[Path], watched: int
) -> list[subprocess.Popen[bytes]]:
    port = _free_port()
    started = []
    for rank, path in enumerate(errors):
        with path.open("wb") as file:
            started.append(
                subprocess.Popen(
                    line,
                    env=_variables(rank, len(errors), port, watched),
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=None if rank == 0 else file,
                    pass_fds=(watched,),
                    # A signal to our group reaches us alone, and them once, through us.
                    process_group=0,
                )
            )
    return started


def _variables(rank: int, num_ranks: int, port: int, watched: int) -> Mapping[str, str]:
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        _GUARD: str(watched),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _forwarding(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Within this context what this process is told by signals, the ranks are told.

    Yields:
        The signals so far.
    """
    told: list[int] = []

    def forward(number: int, _: Any) -> None:
        told.append(number)
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all have ended; where one fails, the others are stopped.

    Returns:
        The rank whose end says what became of the run: the first to fail for a reason of its own.
    """
    ended: list[int] = []  # in their order
    deadline = math.inf
    while len(ended) < len(started) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        ended += [r for r, p in enumerate(started) if r not in ended and p.poll() is not None]
        statuses = {started[rank].returncode for rank in ended} - {0}
        if deadline == math.inf and statuses:
            asked = statuses <= {128 + number for number in _FORWARDED}
            deadline = time.monotonic() + (_GRACE_AFTER_SIGNAL_S if asked else _GRACE_S)
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    failed = [rank for rank in ended if started[rank].returncode]
    causes = [rank for rank in failed if started[rank].returncode != STATUS_LOST_CONTACT]
    return (causes or failed or [0])[0]


def _explain(rank: int, statuses: Sequence[int], errors: Path, told: Sequence[int]) -> int:
    """Show why a rank failed, where nobody said so yet; the run's exit status."""
    status = statuses[rank]
    if -status in told:  # before it could take note, or after there was anything to save
        name = signal.Signals(-status).name
        sys.stderr.write(f"Stopped by {name}, while there was nothing to save.\n")
        return 128 - status
    lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
    # What all stopped for alike the first rank has said.
    if rank > 0 and not (statuses[0] == status and len(lines) == 1):
        sys.stderr.write("".join(f"rank {rank}: {line}\n" for line in lines))
    if status >= 0:
        return status
    name = signal.Signals(-status).name
    cause = ", which is what happens when memory runs out" if -status == signal.SIGKILL else ""
    sys.stderr.write(
        f"Error: rank {rank} was ended by {name}{cause}; the other ranks were stopped, and the "
        "same command (a training: with run_dir= and resume=auto) goes on from what is saved\n"
    )
    return STATUS_FAILED


def is_launched() -> bool:
    """Whether this process is a rank that ``launch`` has started."""
    return _GUARD in os.environ


def end_with_parent() -> None:
    """End this rank as soon as the process that launched it is gone, however that came."""
    watched = os.environ.get(_GUARD)
    if watched is None:
        return
    pipe: IO[bytes] = os.fdopen(int(watched), "rb", buffering=0)

    def watch() -> None:
        pipe.read(1)  # returns at the end of the pipe, which nobody writes to
        os._exit(STATUS_LOST_CONTACT)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
