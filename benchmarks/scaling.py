"""How cost grows: with essays or instructions (the data side), with page tokens, and with ranks.

    python benchmarks/scaling.py [--only essays instructions pages ranks] [--most-essays 100000]

Essays are chains of characters after the embedded sample's, each character drawn from those that
follow the one before it there: distinct texts that share stock phrases, as pupils' do. They are
written as a folder like AES-Dataset, with two copies of one essay among them, then read and
checked, split, laid out and tokenised, and planned into epochs as training does it, each size in a
process of its own. Where tokenising would take too long its seconds are carried on in proportion,
and marked with a ~. Pages are timed with the 50 M nano by the options of speed that change what is
computed (none fused or compiled), forward and backward. Both in seconds of the processors, which
others on the machine do not lengthen; the clock's of the essays are in the JSON. Ranks are whole
runs of train.py. Instructions are alpaca records of such characters, read, checked and tokenised a
shard at a time, and once more with a kill halfway. One table, and a JSON beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
ESSAY_COUNTS = (100, 1_000, 10_000, 100_000)
INSTRUCTION_COUNTS = (1_000, 10_000, 100_000)
PAGES = {256: (16, 16), 512: (32, 16), 1024: (32, 32), 2048: (64, 32)}
"""Rows and columns of tokens by their number."""
_OTHER_TOKENS = 485
"""Of a sample beside its page, as in the reference job."""
_RANK_STEPS = 12


def measure_page(num_page_tokens: int) -> dict[str, Any]:
    """Seconds a sample through the tower, and through all layers forward and backward."""
    import torch
    import transformers
    from training.batches import draw_samples
    from training.geometry import GEOMETRIES, Job
    from training.options import Options
    from training.random_model import draw_weights
    from training.trial import Setting, Trial

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    job = Job(
        page=PAGES[num_page_tokens],
        num_tokens=num_page_tokens + _OTHER_TOKENS,
        samples_per_step=2,
    )
    geometry, device = replace(GEOMETRIES["nano_50m"], job=job), torch.device("cpu")
    setting = Setting(
        geometry=geometry,
        weights=draw_weights(geometry, dtype=torch.float32, device=device),
        samples=draw_samples(geometry),
        precision="fp32",
        device=device,
    )
    options = Options(
        vision="cached",
        logit_rows=1024,
        experts="frozen",
        batching="packed",
        attention="varlen",
        micro_batch=2,
    )
    trial = Trial(options, setting)
    pages = Trial(replace(options, vision="no_grad"), setting)
    trial.first_pass()
    return {
        "page_tokens": num_page_tokens,
        "sample_tokens": job.num_tokens,
        "tower_s": _median_cpu_s(pages.page_features, 2) / job.samples_per_step,
        "layers_s": _median_cpu_s(trial.accumulate, 2) / job.samples_per_step,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }


def _median_cpu_s(run: Callable[[], Any], repeats: int) -> float:
    """Of the process's own time, which others on the machine do not lengthen."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return round(statistics.median(seconds), 4)


def measure_ranks(num_ranks: int) -> dict[str, Any]:
    """Samples a second of a whole run, from its third step on."""
    hardware, strategy = ("cpu", "single") if num_ranks == 1 else ("cpux2", "ddp")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "train.py", f"hardware={hardware}", f"strategy={strategy}"]
        command += [f"trainer.max_steps={_RANK_STEPS}", "logger=none", f"run_dir={scratch}/run"]
        command += ["global_batch_size=8", "hardware.micro_batch_size=2"]
        command += ["data.val_fraction=0", "data.test_fraction=0"]
        command += ["callbacks.sample_table.num_examples=0", "trainer.log_every_n_steps=1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
        text = (Path(scratch) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    ends = [line["elapsed_s"] for line in lines if "loss" in line]
    seconds = ends[-1] - ends[1]
    return {
        "ranks": num_ranks,
        "samples_per_s": round(8 * (len(ends) - 2) / seconds, 3),
        "peak_gib_of_a_rank": lines[-1]["peak_memory_gib"],
    }


def _measure_essays(num_essays: int) -> dict[str, Any]:
    from preparing.many_essays import measure_essays

    return measure_essays(num_essays)


def _measure_instructions(num_samples: int) -> dict[str, Any]:
    from preparing.many_samples import measure_samples

    return measure_samples(num_samples)


KINDS: dict[str, tuple[Callable[[int], dict[str, Any]], tuple[int, ...]]] = {
    "essays": (_measure_essays, ESSAY_COUNTS),
    "instructions": (_measure_instructions, INSTRUCTION_COUNTS),
    "pages": (measure_page, tuple(PAGES)),
    "ranks": (measure_ranks, (1, 2)),
}


def main() -> None:
    """Measure each size in a process of its own, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="How cost grows.")
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--most-essays", type=int, default=ESSAY_COUNTS[-1])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure, _ = KINDS[args.one[0]]
        print(json.dumps(measure(int(args.one[1]))))
        return
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    results |= describe()
    for kind in args.only:
        sizes = [n for n in KINDS[kind][1] if kind != "essays" or n <= args.most_essays]
        results[kind] = []
        for size in sizes:
            results[kind].append(run_alone(kind, size))
            args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_tables(results)


def run_alone(kind: str, size: int) -> dict[str, Any]:
    """One size in a process of its own, so that its peak of memory is its own."""
    command = [sys.executable, __file__, "--one", kind, str(size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def describe() -> dict[str, Any]:
    """On what, with what and when."""
    import torch
    import transformers

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()} CPU",
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def print_tables(results: dict[str, Any]) -> None:
    """A line a size."""
    for row in results.get("essays", ()):
        if row is results["essays"][0]:
            print("essays".rjust(9), *(name.rjust(24) for name in row["stages"]))
        cells = [
            f"{'~' if 'measured_with' in s else ''}{s['cpu_s']:,.2f} s {s['peak_gib']:6.2f} GiB"
            for s in row["stages"].values()
        ]
        print(f"{row['essays']:>9,}", *(cell.rjust(24) for cell in cells))
    for row in results.get("instructions", ()):
        cells = (f"{n} {s['s']:,.1f} s, {s['peak_gib']:.2f} GiB" for n, s in row["stages"].items())
        print(f"{row['samples']:>9,} instructions: {'; '.join(cells)}")
        if "killed" in row:
            print(f"{'killed'.rjust(9)} {json.dumps(row['killed'])}")
    for row in results.get("pages", ()):
        print(
            f"page of {row['page_tokens']:>5,} tokens: tower {row['tower_s']:.3f} s, layers "
            f"{row['layers_s']:.3f} s a sample, peak {row['peak_gib']:.2f} GiB"
        )
    for row in results.get("ranks", ()):
        print(f"{row['ranks']} ranks: {row['samples_per_s']:.2f} samples/s")


if __name__ == "__main__":
    main()
