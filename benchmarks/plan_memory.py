"""How much memory a training step takes, against what the plan says: one process, CPU or GPU.

    python benchmarks/plan_memory.py [--out FILE] [key=value ...]

Settings are train.py's, for example ``hardware=h800x1 hardware.micro_batch_size=8``. Loads the
model, makes a micro-batch of the longest samples, as the plan assumes, and takes two optimiser
steps. Weights, gradients and optimiser states are summed over their tensors; the rest is the peak
of everything that PyTorch allocated, less those: on a GPU as its allocator counts it, on a CPU by
watching each tensor come and go, which misses what operators allocate within themselves.
"""

from __future__ import annotations

import argparse
import json
import platform
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aes.cli.building import build_data, build_module
from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.planning import make_run_plan
from aes.cli.samples import prepare_samples
from aes.cli.settings import Settings, bind_settings
from aes.cli.source import CONFIG_DIR, Source
from aes.data.sampler import Pick
from aes.plan import Plan
from aes.ranks import ALONE
from aes.training.optim import build_optimizer

MIB = 2**20
# Logits as the plan counts them, and the tower within the step, as in a run's first one.
COMMON = ("loss=ce", "logger=none", "vision_cache=none")


class AllocationPeak(TorchDispatchMode):
    """Most bytes that tensors held at once, from those that were there before.

    Attributes:
        held: Bytes at the moment.
        peak: The most so far.
    """

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        for tensor in before:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def forget(_: Any) -> None:
            del self._seen[key]
            self.held -= num_bytes

        self._seen[key] = weakref.ref(storage, forget)
        self.held += num_bytes
        self.peak = max(self.peak, self.held)


def read_settings(overrides: Sequence[str]) -> Settings:
    """train.py's settings."""
    source = Source(config_dir=CONFIG_DIR, config_name="train", overrides=(*COMMON, *overrides))
    config = compose(source)
    return bind_settings(resolve(without_hydra(config), config.hydra, source))


def measure(overrides: Sequence[str]) -> tuple[Plan, dict[str, float]]:
    """The plan of a run, and the parts of its memory in GiB as they are."""
    settings = read_settings(overrides)
    samples = prepare_samples(settings, Console(quiet=True))
    plan = make_run_plan(settings, samples)
    module = build_module(settings, samples, plan=plan, ranks=ALONE)
    device = next(module.model.parameters()).device
    module.to(device)
    batch = {name: t.to(device) for name, t in _largest_batch(settings, samples).items()}
    parts = _step_twice(module, build_optimizer(module.model, settings.optim), batch)
    return plan, {name: num_bytes / 2**30 for name, num_bytes in parts.items()}


def planned(plan: Plan) -> dict[str, float]:
    """The same parts as planned, in GiB; what is not PyTorch's is left out."""
    memory = plan.memory
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimiser,
        "rest": memory.activations + memory.logits + memory.step,
        "peak": memory.total - memory.overhead - memory.features,
    }


def _largest_batch(settings: Settings, samples: Any) -> dict[str, torch.Tensor]:
    lengths = samples.train.column("num_tokens")
    supervised = samples.train.column("num_supervised")
    longest = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    chosen = longest[: settings.hardware.micro_batch_size]
    total = sum(supervised[index] for index in chosen)
    data = build_data(settings, samples, ALONE)
    return data.collator([data.dataset[Pick(index, total, False)] for index in chosen])


def _step_twice(module: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Bytes of the second step: by then the optimiser has its states."""
    module.model.train()
    weights = list(module.model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        held["gradients"] = _num_bytes(w.grad for w in weights if w.grad is not None)
        optimizer.step()

    held: dict[str, float] = {"weights": _num_bytes([*weights, *module.model.buffers()])}
    step()
    held["optimiser"] = _num_bytes(tree_leaves([*optimizer.state.values()]))
    optimizer.zero_grad()
    if weights[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        step()
        held["peak"] = torch.cuda.max_memory_allocated()
    else:
        own = [*weights, *module.model.buffers(), *tree_leaves([*optimizer.state.values()])]
        with AllocationPeak(t for t in own if isinstance(t, torch.Tensor)) as allocated:
            step()
        held["peak"] = allocated.peak
    rest = held["peak"] - held["weights"] - held["gradients"] - held["optimiser"]
    return held | {"rest": rest}


def _num_bytes(tensors: Iterable[Any]) -> float:
    storages = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes()
        for t in tensors
        if isinstance(t, torch.Tensor)
    }
    return float(sum(storages.values()))


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description="Memory of a step against the plan's figure.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", help="as for train.py")
    args = parser.parse_intermixed_args()
    plan, found = measure(args.settings)
    expected = planned(plan)
    print(f"{'MiB':<10}{'planned':>12}{'measured':>12}{'planned / measured':>20}")
    for name, gib in expected.items():
        ratio = gib / found[name] if found[name] else float("nan")
        print(f"{name:<10}{gib * 1024:12.1f}{found[name] * 1024:12.1f}{ratio:20.2f}")
    if args.out:
        result = {
            "settings": args.settings,
            "planned_gib": expected,
            "measured_gib": found,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "python": platform.python_version(),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
