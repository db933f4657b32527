"""A training step by each of its ways: seconds, TFLOP/s, memory, and whether they are equal.

    python benchmarks/train.py --model nano_50m [--rows ladder singles] [--repeats 5] [--clock cpu]
    PYTHONPATH=. python benchmarks/train.py --model qwen3_vl_30b_a3b [--max-seconds 500]

Forward, backward and AdamW of the reference job's step: 8 samples of 1,065 tokens, 576 or 580 of
them a page and about 450 supervised, LoRA of rank 8 on q, k, v and o. Weights, ids and patches are
random, drawn on the device: nothing is downloaded, and nothing but torch, transformers and peft is
imported beside ``aes.kernels``. The full-size model takes 57.9 GiB of a card.

``plain`` is transformers' way under ``kernels=plain``; the rows after it switch options on in turn
(``ladder``), by themselves (``singles``), or all at once by micro-batch and checkpointing
(``best``). Each says how far its loss and gradients are from plain's. On a CPU rows take turns, so
that noise hits all alike, and ratios are medians over rounds. TFLOP/s count what the step needs,
nothing computed again (``benchmarks/training/flops.py``); the peak is the fastest of some matrix
products in the same run. The reference job is 113 steps, and 300 pages through the tower where
features are kept; start-up is not in it. The file is written after each row or step: what was
measured is there if a later row fails or the time is up. Of ``tiny``, a size to try this script
with, no file is written unless ``--out`` names one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from training import options as ways
from training.batches import draw_samples
from training.geometry import GEOMETRIES
from training.measuring import Measurement, Meter, summary
from training.options import Options, Row
from training.random_model import draw_weights
from training.trial import Precision, Setting, Trial

_TITLES = (
    *("way", "micro", "s/step", "±", "tokens/s", "samples/s", "TFLOP/s", "of peak"),
    *("peak GiB", "job s", "x plain", "grad diff"),
)
_GRACE_S = 45
"""After the time is up, for the row that is running; then the process ends itself."""


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="How fast a training step is, by its ways.")
    parser.add_argument("--model", choices=tuple(GEOMETRIES), default="nano_50m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 for the full size")
    parser.add_argument(
        "--rows", nargs="+", choices=("ladder", "singles", "best"), help="which, in this order"
    )
    parser.add_argument("--without", nargs="+", default=(), help="options to leave out")
    parser.add_argument("--samples", type=int, help="of a step; the job's 8, but for a trial")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--max-seconds", type=float, default=500.0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def choose_rows(args: argparse.Namespace) -> list[Row]:
    """The rows in order, plain first wherever there is time for it.

    The full size takes checkpointing for plain, without which it does not fit, and goes on with
    what is worth most: all options at once.
    """
    is_full = args.model == "qwen3_vl_30b_a3b"
    plain = Options(micro_batch=args.micro_batch, checkpointing="all" if is_full else "none")
    kinds = args.rows or (("best", "ladder", "singles") if is_full else ("ladder", "singles"))
    makers = {"ladder": ways.ladder, "singles": ways.singles, "best": ways.best}
    without = [*args.without, *([] if args.device == "cpu" else [ways.HEAD_AS_ATTENTION])]
    rows = [row for kind in kinds for row in makers[kind](plain, without=without)]
    return list(dict.fromkeys([Row("plain", plain), *rows]))


def main() -> None:
    """Measure, print the table, write the JSON."""
    args = parse_arguments()
    started = time.perf_counter()
    # Ctrl-C ends the process at once: what compiles layers may swallow an exception.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Rows differ in what they allocate, and a card that is nearly full has no room for gaps.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    faulthandler.dump_traceback_later(args.max_seconds + _GRACE_S, exit=True)
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)  # between peft and transformers
    geometry, device = GEOMETRIES[args.model], torch.device(args.device)
    if args.samples:
        job = replace(geometry.job, samples_per_step=args.samples)
        geometry = replace(geometry, job=job)
    full = args.model == "qwen3_vl_30b_a3b"
    precision: Precision = args.precision or ("bf16" if full else "fp32")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    setting = Setting(
        geometry=geometry,
        weights=draw_weights(geometry, dtype=dtype, device=device),
        samples=draw_samples(geometry),
        precision=precision,
        device=device,
    )
    meter = Meter(setting, args.clock)
    meter.time_pages(Trial(Options(), setting), args.repeats)
    report = Report(args.out or default_out(args.model, device), describe(args, meter))
    measure = measure_in_turn if device.type == "cpu" else measure_one_by_one
    measure(meter, choose_rows(args), report, args.repeats, started + args.max_seconds)
    print_table(report)


def default_out(model: str, device: torch.device) -> Path | None:
    """Where results are kept; those of a trial are not."""
    if model == "tiny":
        return None
    return Path(f"benchmarks/results/train_{model}_{_name(device)}.json")


class Report:
    """What was measured, on disk after each row.

    Args:
        path: The JSON; ``None``: none is written.
        content: What stands in it before any row.
    """

    def __init__(self, path: Path | None, content: dict[str, Any]) -> None:
        self.path, self.content = path, content | {"rows": []}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Those that there are."""
        found: list[dict[str, Any]] = self.content["rows"]
        return found

    def put(self, rows: list[dict[str, Any]]) -> None:
        """Write these rows in place of those before, at once or not at all."""
        self.content["rows"] = rows
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
        aside.replace(self.path)

    def add(self, row: dict[str, Any]) -> None:
        """Write one row more, and print it."""
        self.put([*self.rows, row])
        print("  ".join(summary(row)), flush=True)


def measure_one_by_one(
    meter: Meter, rows: Sequence[Row], report: Report, repeats: int, deadline: float
) -> None:
    """Each row to its end before the next is begun, as a card's memory wants it."""
    plain: Measurement | None = None
    longest = 0.0
    for row in rows:
        start = time.perf_counter()
        if start + 1.2 * longest > deadline:
            report.add(meter.describe(Measurement(row), plain))
            continue
        found = meter.start(row, plain)
        for _ in range(repeats):
            meter.repeat(found)
        if row.name == "plain":
            plain = found
        report.add(meter.describe(found, plain))
        meter.release(found)
        longest = max(longest, time.perf_counter() - start)


def measure_in_turn(
    meter: Meter, rows: Sequence[Row], report: Report, repeats: int, deadline: float
) -> None:
    """All rows once, then all again: what disturbs the machine disturbs them alike."""
    found: list[Measurement] = []
    plain: Measurement | None = None
    for row in rows:
        in_time = time.perf_counter() < deadline
        found.append(meter.start(row, plain) if in_time else Measurement(row))
        if row.name == "plain":
            plain = found[-1]
    report.put([meter.describe(one, plain) for one in found])
    for _ in range(repeats):
        for one in found:
            if time.perf_counter() < deadline:
                meter.repeat(one)
                report.put([meter.describe(other, plain) for other in found])


def describe(args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """On what, with what and when."""
    setting = meter.setting
    is_cuda = setting.device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": args.model,
        "device": torch.cuda.get_device_name() if is_cuda else f"{platform.machine()} CPU",
        "precision": setting.precision,
        "threads": None if is_cuda else torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "clock": args.clock,
        "repeats": args.repeats,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "job": asdict(setting.geometry.job),
        "lengths": setting.lengths,
        "num_supervised_in_step": setting.num_supervised,
        "gemm_tflops": meter.gemm,
        "peak_tflops": meter.peak_tflops,
        "s_per_page": round(meter.page_s, 5),
    }


def print_table(report: Report) -> None:
    """One line a row, columns aligned."""
    lines = [list(_TITLES), *(summary(row) for row in report.rows)]
    widths = [
        max(len(line[i]) for line in lines if i < 2 or len(line) == len(_TITLES))
        for i in range(len(_TITLES))
    ]
    print()
    for name, *cells in lines:  # a row that failed says so in place of its figures
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False)]
        print("  ".join([name.ljust(widths[0]), *right]))
    about = report.content
    kept = f"written to {report.path}" if report.path else "not written, for want of --out"
    print(
        f"\n{about['model']} on {about['device']}, {about['precision']}, peak "
        f"{about['peak_tflops']} TFLOP/s, {about['s_per_page']} s a page; {kept}"
    )


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return torch.cuda.get_device_name(device).lower().replace(" ", "_")


if __name__ == "__main__":
    main()
