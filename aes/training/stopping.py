"""Signals -> a wish to stop, acted upon when a step is done and saved.

SIGTERM comes from schedulers, SIGUSR1 from Slurm some time before the end of a job, SIGINT from
Ctrl-C. A second Ctrl-C ends the process at once. A second SIGTERM does not: schedulers send it to
every process, and launchers pass theirs on; what ends a process at once is SIGKILL.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Notes signals while it is entered as a context.

    Attributes:
        received: Number of the first signal; 0: none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.received = self.received or number
        elif self.received in (0, signal.SIGUSR1):
            self.received = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def stop_by(number: int) -> NoReturn:
    """End as a process does that this signal ended.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        SystemExit: After the others, with the status that a shell would show, e.g. 143.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
