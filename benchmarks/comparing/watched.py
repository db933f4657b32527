"""A command -> its lines, when each came, and the CPU time that it had taken by then.

Wall time depends on what else the machine does, CPU time hardly: a comparison on a busy machine
reports both. Knows nothing of what the command does.
"""

from __future__ import annotations

import bisect
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PAUSE_S = 0.25


@dataclass(frozen=True)
class Watched:
    """What was seen of a command that ended well; times in seconds since its start.

    Attributes:
        wall_s: From its start to its end.
        cpu_s: User and system time of all its processes.
        lines: Each line of its output with the moment of its coming.
        samples: Moments, and the CPU time that all its processes had taken by then.
    """

    wall_s: float
    cpu_s: float
    lines: tuple[tuple[float, str], ...]
    samples: tuple[tuple[float, float], ...]

    def moments(self, pattern: str) -> list[float]:
        """When each line came in which ``pattern`` is found."""
        return [moment for moment, line in self.lines if re.search(pattern, line)]

    def cpu_at(self, moment: float) -> float:
        """CPU time taken by then, between two samples along a line."""
        at = bisect.bisect_left(self.samples, (moment, 0.0))
        if at in (0, len(self.samples)):
            return self.samples[min(at, len(self.samples) - 1)][1]
        (t0, c0), (t1, c1) = self.samples[at - 1], self.samples[at]
        return c0 + (c1 - c0) * (moment - t0) / (t1 - t0)


def watch(command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> Watched:
    """Run a command to its end.

    Args:
        environment: Set beside what this process has.
        folder: Where it runs.

    Raises:
        ValueError: If it fails; its last lines are in the message.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    samples: list[tuple[float, float]] = [(0.0, 0.0)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_PAUSE_S):
            samples.append((time.perf_counter() - start, _cpu_of_tree(process.pid)))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    assert process.stdout is not None
    lines = [(time.perf_counter() - start, line.rstrip()) for line in process.stdout]
    # wait4 alone tells the CPU time of processes that have ended, children of children included.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    sampler.join()
    if process.returncode != 0:
        tail = "\n".join(line for _, line in lines[-15:])
        raise ValueError(
            f"{Path(command[0]).name} {' '.join(command[1:3])} ended with status "
            f"{process.returncode}; its last lines:\n{tail}"
        )
    wall_s, cpu_s = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    # A process that ends between two samples is missed for a moment: CPU time never falls.
    rising = [(t, max(c for _, c in samples[: i + 1])) for i, (t, c) in enumerate(samples)]
    return Watched(wall_s, cpu_s, tuple(lines), (*rising, (wall_s, cpu_s)))


def _cpu_of_tree(pid: int) -> float:
    total = 0.0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += sum(process.cpu_times()[:4])  # user, system, and those of ended children
    except psutil.NoSuchProcess:
        pass
    return total
