"""Seconds from the command to what a user waits for: ``--help``, and the first training step.

    python benchmarks/startup.py [--out benchmarks/results/startup.json] [--repeats 3] [ARG ...]

Each time a fresh process, as a user starts it. The first run finds an empty cache folder, so it
builds the random model and tokenises; the second finds what the first left. ARG are further
arguments of ``train.py`` for both. A run ends behind its first step. To tell the stages apart its
libraries are imported one by one before the command goes on, and the functions that
``aes.cli.train`` calls are wrapped; a step's own time is what is left. CPU seconds are of the
process without its loader's: where the machine is busy, those can be compared and the others not.
The figures are of the fastest of the repeats.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTED, REPORT = "AES_BENCHMARK_STARTED", "AES_BENCHMARK_REPORT"

IMPORTS = {
    "import the command line": "aes.cli.entry",
    "import settings": "aes.cli.settings",
    "import torch": "torch",
    "import transformers": "transformers.modeling_utils",
    "import the model": "transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe",
    "import peft": "peft",
    "import datasets": "datasets",
    "import lightning": "lightning.pytorch",
    "import the rest": "aes.training.fit",
}
STAGES = {
    "_plan": "plan",
    "prepare_samples": "read and tokenise",
    "describe_run": "digest data and weights",
    "build_module": "load the model",
    "build_data": "loaders",
    "_make_run_directory": "make the run directory",
    "measure_baselines": "baselines",
}
FIRST_STEP = "trainer, loaders' processes, first step"


class Timeline:
    """Wall and CPU seconds of each stage; what stages hold of others is counted there alone."""

    def __init__(self) -> None:
        self.last = (float(os.environ[STARTED]), 0.0)
        self.stages: dict[str, list[float]] = {}

    def mark(self, stage: str) -> None:
        """Count the time since the last mark to ``stage``."""
        now = (time.time(), time.process_time())
        spent = self.stages.setdefault(stage, [0.0, 0.0])
        for clock in range(2):
            spent[clock] += now[clock] - self.last[clock]
        self.last = now

    def wrap(self, module: Any, name: str, stage: str) -> None:
        """Count to ``stage`` what a function takes, and to the command what came before."""
        function = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.mark("command")
            found = function(*args, **kwargs)
            self.mark(stage)
            return found

        setattr(module, name, wrapped)


def run_to_first_step() -> None:
    """In a process of its own: train as ``sys.argv`` says, and end behind the first step."""
    timeline = Timeline()
    timeline.mark("start Python")
    sys.path.insert(0, str(ROOT))
    for stage, module in IMPORTS.items():
        importlib.import_module(module)
        timeline.mark(stage)
        if module == "aes.cli.entry":
            importlib.import_module("aes.cli.environment").prepare_environment()
    from aes.cli import entry, train
    from aes.training import loggers
    from aes.training.progress import ProgressReport

    for name, stage in STAGES.items():
        timeline.wrap(train, name, stage)
    timeline.wrap(loggers, "build_logger", "open the logger")
    end_of_batch = ProgressReport.on_train_batch_end

    def end(self: Any, trainer: Any, *args: Any) -> None:
        end_of_batch(self, trainer, *args)
        if trainer.global_step:
            timeline.mark(FIRST_STEP)
            Path(os.environ[REPORT]).write_text(json.dumps(timeline.stages), encoding="utf-8")
            os._exit(0)

    ProgressReport.on_train_batch_end = end  # type: ignore[method-assign,assignment]
    entry.train()


def measure_run(cache: Path, arguments: Sequence[str]) -> dict[str, list[float]]:
    """Stages of one run up to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        line = [sys.executable, __file__, "--child", f"run_dir={folder}/run", *arguments]
        facts = {STARTED: str(time.time()), REPORT: str(report), "AES_CACHE": str(cache)}
        done = subprocess.run(
            line, env={**os.environ, **facts}, capture_output=True, text=True, check=False
        )
        if not report.is_file():
            raise SystemExit(f"the run ended before its first step:\n{done.stdout}{done.stderr}")
        found: dict[str, list[float]] = json.loads(report.read_text(encoding="utf-8"))
    return found


def measure_help() -> list[float]:
    """Wall and CPU seconds of ``train.py --help``."""
    before, started_s = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"], stdout=subprocess.DEVNULL, check=True
    )
    wall_s, after = time.perf_counter() - started_s, os.times()
    spent_s = after.children_user + after.children_system
    return [wall_s, spent_s - before.children_user - before.children_system]


def total(stages: dict[str, list[float]]) -> float:
    """Wall seconds."""
    return sum(wall_s for wall_s, _ in stages.values())


def show(help_s: Sequence[float], runs: dict[str, dict[str, list[float]]]) -> None:
    """The table."""
    print(f"{'':42}{'first run':>20}{'second run':>20}")
    print(f"{'':42}" + f"{'wall s':>12}{'CPU s':>8}" * 2)
    stages = list(dict.fromkeys(stage for run in runs.values() for stage in run))
    for stage in [*stages, "to the first step"]:
        cells = []
        for run in runs.values():
            sums = [sum(spent[clock] for spent in run.values()) for clock in range(2)]
            wall_s, cpu_s = sums if stage == "to the first step" else run.get(stage, [0.0, 0.0])
            cells.append(f"{wall_s:12.2f}{cpu_s:8.2f}")
        print(f"{stage:42}{''.join(cells)}")
    print(f"{'--help':42}{help_s[0]:12.2f}{help_s[1]:8.2f}")


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description="How long a user waits.")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/startup.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("arguments", nargs="*", metavar="ARG")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    helps, firsts, seconds = [], [], []
    for _ in range(args.repeats):
        helps.append(measure_help())
        with tempfile.TemporaryDirectory() as cache:
            firsts.append(measure_run(Path(cache), args.arguments))
            seconds.append(measure_run(Path(cache), args.arguments))
    runs = {"first": min(firsts, key=total), "second": min(seconds, key=total)}
    show(min(helps), runs)
    print(f"load before: {load:.1f} on {os.cpu_count()} cores")
    result = {
        "help_s": dict(zip(("wall", "cpu"), min(helps), strict=True)),
        "to_first_step_s": {
            name: {
                stage: {"wall": round(wall_s, 3), "cpu": round(cpu_s, 3)}
                for stage, (wall_s, cpu_s) in run.items()
            }
            for name, run in runs.items()
        },
        "total_wall_s": {name: round(total(run), 2) for name, run in runs.items()},
        "arguments": args.arguments,
        "repeats": args.repeats,
        "load_before": round(load, 2),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    } | {name: version(name) for name in ("torch", "transformers", "lightning")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        del sys.argv[1]
        run_to_first_step()
    else:
        main()
