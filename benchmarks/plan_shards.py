"""What a rank really holds and receives under each strategy, against the plan: two CPU processes.

    python benchmarks/plan_shards.py [--out FILE] [STRATEGY ...]

Trains the nano for three steps of two micro-batches under each strategy and looks before the last
optimiser step: bytes of all tensors alive but the batch (weights, gradients, optimiser states,
buckets), and bytes of all collectives of that step as their whole tensors, not as a ring moves
them. Peaks within a step are another matter: ``plan_memory.py``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REPOSITORY = Path(__file__).resolve().parents[1]
STRATEGIES = ("ddp", "zero2", "fsdp2", "zero3")
SETTINGS = (
    "hardware=cpux2",
    "hardware.num_workers=0",
    "trainer.max_steps=3",
    "global_batch_size=16",
    "logger=none",
    "callbacks.sample_table.num_examples=0",
)
MIB = 2**20


class Traffic(TorchDispatchMode):
    """Bytes of each kind of collective; the size of its largest tensor, once a call."""

    def __init__(self) -> None:
        super().__init__()
        self.mib: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace.startswith(("c10d", "_c10d")):
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            name = func._schema.name.partition("::")[2].strip("_")
            self.mib[name] += max((t.nbytes for t in tensors), default=0) / MIB
        return func(*args, **(kwargs or {}))


def held_mib() -> float:
    """All tensors alive in this process, each storage once."""
    gc.collect()
    sizes: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor):  # isinstance would wake lazy modules
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None:
                    storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
                    sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values()) / MIB


def watch(out: Path) -> None:
    """Train as this rank, and write what it held and received at each step."""
    from aes.cli.entry import train
    from aes.training.module import TuningModule

    traffic, batch_mib, rows = Traffic(), [0.0], []
    start, step, report = (
        TuningModule.on_train_epoch_start,
        TuningModule.training_step,
        TuningModule.step_report,
    )

    def on_train_epoch_start(self: Any) -> None:
        start(self)
        if not rows:
            traffic.__enter__()  # until the process ends

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        batch_mib[0] = sum(t.nbytes for t in batch.values()) / MIB
        return step(self, batch, batch_idx)

    def step_report(self: Any, **options: Any) -> Any:
        held = held_mib() - batch_mib[0]
        rows.append({"held_mib": held, "collectives_mib": dict(traffic.mib)})
        traffic.mib.clear()
        if os.environ["RANK"] == "0":
            out.write_text(json.dumps(rows), encoding="utf-8")
        return report(self, **options)

    TuningModule.on_train_epoch_start = on_train_epoch_start  # type: ignore[method-assign]
    TuningModule.training_step = training_step  # type: ignore[method-assign]
    TuningModule.step_report = step_report  # type: ignore[method-assign]
    train()


def measure(strategy: str) -> dict[str, Any]:
    """Planned and found for one strategy."""
    from aes.cli.launch import run_ranks

    with tempfile.TemporaryDirectory() as folder:
        out, run = Path(folder) / "rows.json", Path(folder) / "run"
        settings = (*SETTINGS, f"strategy={strategy}", f"run_dir={run}")
        if run_ranks([sys.executable, __file__, "--watch", str(out), *settings], 2):
            raise RuntimeError(f"training failed under strategy={strategy}")
        found = json.loads(out.read_text(encoding="utf-8"))[-1]
        memory = json.loads((run / "plan.json").read_text(encoding="utf-8"))["memory"]
    parts = ("weights", "gradients", "optimiser", "buffers")
    return {"planned_mib": sum(memory[part] for part in parts) * 1024, **found}


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    if sys.argv[1:2] == ["--watch"]:
        out, sys.argv = Path(sys.argv[2]), [str(REPOSITORY / "train.py"), *sys.argv[3:]]
        watch(out)
    parser = argparse.ArgumentParser(description="What ranks hold and receive.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan_shards.json"))
    parser.add_argument("strategies", nargs="*", default=STRATEGIES)
    args = parser.parse_args()
    rows = {strategy: measure(strategy) for strategy in args.strategies}
    for strategy, row in rows.items():
        sent = ", ".join(f"{k} {v:.1f}" for k, v in row["collectives_mib"].items() if v >= 0.05)
        planned, held = row["planned_mib"], row["held_mib"]
        print(f"{strategy:8} planned {planned:8.1f} held {held:8.1f} MiB; {sent}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
