"""Measurements of a run -> ``metrics.jsonl``, a line a logging step, and ``metrics.json``.

Knows neither Lightning nor what the numbers mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import IO

from aes.files import write_atomically

Number = int | float


class MetricsLog:
    """Appends JSON lines to one file, which is made by the first line.

    A line is written whole before the call returns, so that ``tail -f`` sees it; ``flush`` makes
    it survive a crash of the machine. Ranks that never log leave no trace.
    """

    def __init__(self, path: Path) -> None:
        """Remember the file without touching it.

        Args:
            path: ``metrics.jsonl`` of the run.
        """
        self.path = path
        self._file: IO[bytes] | None = None

    def log(self, values: Mapping[str, Number]) -> None:
        """Append one line.

        Args:
            values: By name, in this order; ``step`` and ``epoch`` first by custom. NaN and
                infinities become null, since JSON has no word for them.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        self._file.write((_to_json(values) + "\n").encode("utf-8"))
        self._file.flush()

    def flush(self) -> int:
        """Bring everything to the disk; to be called before each checkpoint.

        Returns:
            Size of the log in bytes, to be saved in the checkpoint for ``rewind``.
        """
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, num_bytes: int) -> None:
        """Forget what was logged after a checkpoint, also a line that a crash cut short.

        Args:
            num_bytes: What ``flush`` returned then. A shorter log is left as it is: it belongs
                to a run that resumes elsewhere.
        """
        self.close()
        if self.path.exists() and self.path.stat().st_size > num_bytes:
            os.truncate(self.path, num_bytes)

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_metrics_json(path: Path, metrics: Mapping[str, Number]) -> None:
    """Write the last values of a run in one step; NaN becomes null.

    Args:
        path: ``metrics.json`` of the run.
        metrics: By name, e.g. ``val/qwk/total``.
    """
    write_atomically(path, (_to_json(metrics, indent=2) + "\n").encode("utf-8"))


def _to_json(values: Mapping[str, Number], indent: int | None = None) -> str:
    finite = {name: value if isfinite(value) else None for name, value in values.items()}
    return json.dumps(finite, ensure_ascii=False, allow_nan=False, indent=indent)
