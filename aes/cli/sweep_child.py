"""One trial's command -> a process of its own, and what came of it.

The process is no rank of anything, so that it may start ranks itself. It does not outlive this one:
a signal that stops this process stops it too, and if this process is killed, the kernel tells it.
Knows nothing of sweeps.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import IO

STOP_S = 120
"""How long a stopped trial may take to save before it is killed."""

_RANK_PREFIXES = ("SLURM_", "PL_", "TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_")
_RANK_NAMES = {
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "AES_RANKS"),
}
_PR_SET_PDEATHSIG = 1
_NUM_LINES = 20
_LONGEST_LINE = 300
_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]{9,}")
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))(?::|$)")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Exit status; negative: the signal that killed it.
        error: One sentence; empty after status 0.
        stderr: Its last lines, without longer runs of Chinese text: an essay is nobody's business.
    """

    status: int
    error: str
    stderr: tuple[str, ...]


def run_child(command: Sequence[str], *, keep_open: Sequence[int] = ()) -> Ended:
    """Runs a command to its end; its output is shown as it comes.

    Args:
        command: Program and arguments.
        keep_open: File descriptors that the process holds as long as it lives.
    """
    child = subprocess.Popen(
        command,
        env=without_ranks(os.environ),
        stderr=subprocess.PIPE,
        pass_fds=keep_open,
        # A group of its own: Ctrl-C reaches it once, through us, and whatever it left can be ended.
        process_group=0,
        preexec_fn=_stop_with_parent(),
    )
    assert child.stderr is not None
    tail = bytearray()
    reader = Thread(target=_show, args=(child.stderr, tail), daemon=True)
    reader.start()
    try:
        status = child.wait()
    except BaseException as reason:
        _stop(child, signal.SIGINT if isinstance(reason, KeyboardInterrupt) else signal.SIGTERM)
        raise
    finally:
        # What the trial started has no business without it, and would hold its stderr open.
        _kill_group(child.pid)
        reader.join(timeout=5)
    lines = _last_lines(bytes(tail))
    error = _sentence(status, lines) if status else ""
    return Ended(status=status, error=error, stderr=lines if status else ())


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what tells a process that it is one of several."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _RANK_NAMES and not name.startswith(_RANK_PREFIXES)
    }


def _stop_with_parent() -> Callable[[], None] | None:
    """What a new process does first, so that the kernel stops it when this one is gone."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before that call
            os.kill(os.getpid(), signal.SIGTERM)

    return ask_kernel


def _stop(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Asks the process to end, and waits while it saves; a second signal to us kills it."""
    try:
        child.send_signal(number)
        child.wait(timeout=STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
        _kill_group(child.pid)
        child.wait()


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(group, signal.SIGKILL)


def _show(stream: IO[bytes], tail: bytearray) -> None:
    """Passes on what comes, and keeps the end of it."""
    while chunk := os.read(stream.fileno(), 65536):
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()
        tail += chunk
        del tail[:-65536]


def _last_lines(tail: bytes) -> tuple[str, ...]:
    # A progress bar rewrites its line; what stood there last is what counts.
    lines = [line.rpartition("\r")[2] for line in tail.decode(errors="replace").split("\n")]
    kept = [line.rstrip() for line in lines if line.strip()][-_NUM_LINES:]
    return tuple(_CHINESE.sub("[...]", line)[:_LONGEST_LINE] for line in kept)


def _sentence(status: int, lines: Sequence[str]) -> str:
    """The sentence that the command itself gave, or else how it ended."""
    for line in reversed(lines):
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")
    if status < 0:
        name = signal.Signals(-status).name
        cause = " (often for want of memory)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{cause}"
    for line in reversed(lines):
        found = _EXCEPTION.match(line)
        if found:
            return f"{found[1]}, a bug: its last lines are in the trial's record"
    return f"the process ended with status {status}"
