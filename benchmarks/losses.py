"""What each training loss gives: the nano on the embedded sample, through train.py, in one table.

    python benchmarks/losses.py [--seeds 1 2 3] [--out FILE] [--loss LOSS ...] [key=value ...]

Runs train.py once for each loss and seed, one after the other, all else equal; further settings,
such as ``trainer.max_steps=80``, go to every run. ``--loss`` tries other settings of a loss, e.g.
``--loss "expected loss.score_weight=0.5"``. The seed decides adapter, order and data, so figures
are means over seeds beside the spread; the ridge on length is fitted on the same essays.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import torch
import transformers

REPOSITORY = Path(__file__).parents[1]
LOSSES = ("ce", "valid_digits", "expected", "ordinal")
# The nano's own weight of feedback, which only some of the losses take by themselves.
COMMON = ("loss.feedback_weight=0.01", "logger=none", "callbacks.sample_table.num_examples=0")
NAMES = ("val/qwk/total", "val/mae/total", "val/qwk/traits_mean")


@dataclass(frozen=True)
class Row:
    """A line of the table: a value a seed for each metric, and seconds a run."""

    name: str
    values: dict[str, list[float]]
    seconds: list[float]


def train(loss: str, seed: int, settings: Sequence[str]) -> dict[str, float]:
    """Metrics of one finished run.

    Raises:
        RuntimeError: If train.py fails; with what it said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, str(REPOSITORY / "train.py"), *COMMON, f"loss={loss.split()[0]}"]
        command += [*loss.split()[1:], f"seed={seed}", f"run_dir={run_dir}", *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"train.py failed with loss={loss}: {done.stderr.strip()[-500:]}")
        text = (run_dir / "metrics.json").read_text(encoding="utf-8")
    metrics: dict[str, float] = {
        name: nan if value is None else value for name, value in json.loads(text).items()
    }
    traits = [
        value
        for name, value in metrics.items()
        if name.startswith("val/qwk/") and name.count("/") == 2 and name != "val/qwk/total"
    ]
    return metrics | {"val/qwk/traits_mean": statistics.mean(traits)}


def measure(losses: Sequence[str], seeds: Sequence[int], settings: Sequence[str]) -> list[Row]:
    """A row a loss, and the baseline's, which the last loss's runs report."""
    rows = []
    ridge: dict[str, list[float]] = {}
    for loss in losses:
        found: dict[str, list[float]] = {name: [] for name in NAMES}
        seconds = []
        ridge = {"val/qwk/total": [], "val/mae/total": []}
        for seed in seeds:
            start = time.perf_counter()
            metrics = train(loss, seed, settings)
            seconds.append(time.perf_counter() - start)
            told = f"loss={loss} seed={seed}: {NAMES[0]} {metrics[NAMES[0]]:.3f}"
            print(f"{told}, {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
            for name in NAMES:
                found[name].append(metrics[name])
            for kind, values in zip(("qwk", "mae"), ridge.values(), strict=True):
                values.append(metrics[f"baseline/length_ridge/{kind}"])
        rows.append(Row(loss, found, seconds))
    return [*rows, Row("(ridge on length)", ridge, [])]


def print_table(rows: Sequence[Row], num_seeds: int) -> None:
    """Means over seeds, with the spread from the lowest to the highest seed."""
    width = max(len(row.name) for row in rows)
    print(f"{'loss':<{width}}" + "".join(f"{name:>24}" for name in NAMES) + f"{'s a run':>10}")
    for row in rows:
        cells = [_cell(row.values.get(name, [])) for name in NAMES]
        seconds = f"{statistics.mean(row.seconds):.0f}" if row.seconds else ""
        print(f"{row.name:<{width}}" + "".join(f"{c:>24}" for c in cells) + f"{seconds:>10}")
    print(f"mean (lowest to highest) of {num_seeds} seed{'s' if num_seeds > 1 else ''}")


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description="What each training loss gives.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/losses.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--loss", action="append", help='e.g. "expected loss.score_weight=0.5"')
    parser.add_argument("settings", nargs="*", help="for every run, e.g. trainer.max_steps=80")
    args = parser.parse_intermixed_args()
    rows = measure(args.loss or LOSSES, args.seeds, args.settings)
    print_table(rows, len(args.seeds))
    result = {
        "rows": {
            row.name: {name: [round(v, 4) for v in found] for name, found in row.values.items()}
            | ({"seconds": [round(s, 1) for s in row.seconds]} if row.seconds else {})
            for row in rows
        },
        "seeds": args.seeds,
        "settings": [*COMMON, *args.settings],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
