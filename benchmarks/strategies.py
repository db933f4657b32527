"""Every strategy through train.py: the same training, at which speed, in how much memory.

    python benchmarks/strategies.py [--accelerator cuda] [--devices N] [--model nano|medium|NAME]
        [--precision fp32|bf16] [--steps 20] [--strategy NAME ...] [--out FILE] [key=value ...]

Each strategy trains in fresh processes: once to the end, and once more from the checkpoint in the
middle. All take the same samples in the same order from the same random weights, accumulate, and
are clipped at some steps, so losses and adapters differ only by the order of additions; the first
row is one process, which the others are compared with. On one device there are that and offloading.
``medium`` is a nano of 0.4 billion parameters; any other name is an option of conf/model, its
geometry filled with random weights. Needs no network. Further settings go to every run.

Memory is rank 0's: tensors alone on a GPU, the whole process on a CPU. A save is what a step with
one takes longer, lost in the noise where steps themselves vary by more; start and resume last from
the command to its first step. The file is written after each strategy, so that what was measured
is there if a later one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.samples import prepare_samples
from aes.cli.settings import bind_settings
from aes.cli.source import CONFIG_DIR, Source
from aes.model.loading import model_folder

REPOSITORY = Path(__file__).parents[1]
ON_ONE_DEVICE = ("single", "zero3_offload")
STRATEGIES = ("single", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
COMMON = (
    "logger=none",
    "data.val_fraction=0",
    "data.test_fraction=0",
    "callbacks.sample_table.num_examples=0",
    "callbacks.checkpoint.save_each_epoch=false",
    "callbacks.checkpoint.keep_last=1000",
    "trainer.log_every_n_steps=1",
    # AdamW hides a factor on the gradient, and so does clipping that always clips: a large eps
    # lets it through, and a norm between those that there are clips some steps only.
    "trainer.gradient_clip_norm=2.0",
    "optim.eps=1e-3",
    "optim.lr=5e-3",
    "hardware.micro_batch_size=2",
    "data.copies=2",
)
MEDIUM = (
    "model=nano",
    "model.text.hidden_size=1024",
    "model.text.num_layers=8",
    "model.text.num_heads=8",
    "model.text.head_dim=128",
    "model.text.mrope_section=[24,20,20]",
    "model.text.expert_intermediate_size=768",
)
TOLERANCE = 1e-3
"""On the loss of a step, in nats, and on an entry of the adapter: float32 on a card, where sums
come in no fixed order."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one strategy showed.

    Attributes:
        ranks: Processes.
        planned_gib: As the plan has it, in the same terms as ``peak_gib``.
        loss_difference: Largest from one process's loss of the same step; ``None`` for itself.
        adapter_difference: Largest from an entry of one process's adapter at the end.
        resumed_loss_difference: From the strategy's own run that was not interrupted; the next
            alike.
        same: Whether all four are within the tolerance; ``None`` in bfloat16, which has no such.
    """

    ranks: int
    s_per_step: float
    tokens_per_s: float
    peak_gib: float
    planned_gib: float
    save_s: float
    start_s: float
    resume_s: float
    loss_difference: float | None
    adapter_difference: float | None
    resumed_loss_difference: float
    resumed_adapter_difference: float
    same: bool | None


@dataclass(frozen=True)
class Run:
    """A finished run directory."""

    folder: Path
    start_s: float

    @property
    def lines(self) -> list[dict[str, float]]:
        """Of ``metrics.jsonl``, one a step."""
        text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
        return [line for line in map(json.loads, text.splitlines()) if "loss" in line]

    @property
    def losses(self) -> dict[int, float]:
        """By step."""
        return {int(line["step"]): line["loss"] for line in self.lines}

    @property
    def adapter(self) -> Mapping[str, torch.Tensor]:
        """As saved at the end."""
        found: dict[str, torch.Tensor] = load_file(
            self.folder / "adapter" / "adapter_model.safetensors"
        )
        return found

    @property
    def checkpoints(self) -> list[Path]:
        """From the oldest."""
        return sorted((self.folder / "checkpoints").glob("step-*"))


def train(settings: Sequence[str], run_dir: Path) -> Run:
    """One run in a process of its own, and when it made its first step.

    Raises:
        RuntimeError: If train.py fails; with what it said last.
    """
    command = [sys.executable, str(REPOSITORY / "train.py"), *settings, f"run_dir={run_dir}"]
    started = time.perf_counter()
    first_step_s = None
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        while process.poll() is None:
            log = run_dir / "metrics.jsonl"
            if first_step_s is None and log.exists() and log.stat().st_size:
                first_step_s = time.perf_counter() - started
            time.sleep(0.05)
        told.seek(0)
        text = told.read().decode(errors="replace").strip()
    if process.returncode or first_step_s is None:
        raise RuntimeError(f"train.py ended with status {process.returncode}: {text[-1500:]}")
    return Run(run_dir, first_step_s)


def measure(
    settings: Sequence[str], *, ranks: int, folder: Path, single: Run | None, is_exact: bool
) -> tuple[Row, Run]:
    """Train to the end and from the middle; ``single`` is what to compare with."""
    whole = train(settings, folder / "whole")
    middle = whole.checkpoints[(len(whole.checkpoints) - 1) // 2]
    resumed = train([*settings, f"resume={middle}"], folder / "resumed")
    steps, saves = step_times(whole)
    to_single = differences(whole, single) if single else (None, None)
    to_whole = differences(resumed, whole)
    found = [d for d in (*to_single, *to_whole) if d is not None]
    row = Row(
        ranks=ranks,
        s_per_step=statistics.median(steps),
        tokens_per_s=statistics.median(line["tokens_per_s"] for line in whole.lines[1:]),
        peak_gib=max(line["peak_memory_gib"] for line in whole.lines),
        planned_gib=planned_gib(whole),
        save_s=statistics.median(saves) - statistics.median(steps),
        start_s=whole.start_s,
        resume_s=resumed.start_s,
        loss_difference=to_single[0],
        adapter_difference=to_single[1],
        resumed_loss_difference=to_whole[0],
        resumed_adapter_difference=to_whole[1],
        same=max(found) <= TOLERANCE if is_exact else None,
    )
    return row, whole


def step_times(run: Run) -> tuple[list[float], list[float]]:
    """Seconds from each step to the next: without a save between, and with one."""
    saved = {int(path.name.removeprefix("step-")) for path in run.checkpoints}
    steps: list[float] = []
    saves: list[float] = []
    for before, after in pairwise(run.lines):
        seconds = after["elapsed_s"] - before["elapsed_s"]
        (saves if int(before["step"]) in saved else steps).append(seconds)
    return steps, saves


def planned_gib(run: Run) -> float:
    """The plan's figure for what ``peak_memory_gib`` counts."""
    plan = json.loads((run.folder / "plan.json").read_text(encoding="utf-8"))
    memory: dict[str, float] = plan["memory"]
    on_card = plan["hardware"]["accelerator"] == "cuda"
    return memory["total"] - (memory["overhead"] if on_card else 0.0)


def differences(run: Run, other: Run) -> tuple[float, float]:
    """Largest between two runs: of the loss of a step that both made, of an adapter's entry."""
    losses, expected = run.losses, other.losses
    adapter, expected_adapter = run.adapter, other.adapter
    if not losses or adapter.keys() != expected_adapter.keys():
        raise RuntimeError(f"{run.folder.name} and {other.folder.name} hold unlike things")
    return (
        max(abs(loss - expected[step]) for step, loss in losses.items()),
        max(float((adapter[n] - t).abs().max()) for n, t in expected_adapter.items()),
    )


def model_settings(name: str) -> tuple[str, ...]:
    """A model with random weights."""
    if name == "medium":
        return MEDIUM
    return (f"model={name}", "model.path=null")


def warm_up(settings: Sequence[str]) -> None:
    """Build the model and prepare the samples, so that no run is charged for it."""
    source = Source(config_dir=CONFIG_DIR, config_name="train", overrides=tuple(settings))
    config = compose(source)
    bound = bind_settings(resolve(without_hydra(config), config.hydra, source))
    prepare_samples(bound, Console(quiet=True))
    model_folder(bound.model, bound.cache)


def describe_machine(accelerator: str) -> dict[str, Any]:
    """What it was measured on."""
    device = f"{os.cpu_count()} CPU cores"
    if accelerator == "cuda":
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    libraries = ("transformers", "lightning", "deepspeed", "peft")
    return {
        "device": device,
        "machine": platform.machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{name: version(name) for name in libraries},
    }


def print_table(rows: Mapping[str, Row]) -> None:
    """A line a strategy; differences to one process, and of the resumed run to its own."""
    heads = [
        *("strategy", "ranks", "s/step", "tokens/s", "peak GiB", "planned", "save s", "start s"),
        *("resume s", "loss", "adapter", "resumed loss", "adapter", "same"),
    ]
    print("".join(f"{head:>14}" for head in heads))
    for name, r in rows.items():
        cells = [name, str(r.ranks), f"{r.s_per_step:.3f}", f"{r.tokens_per_s:.0f}"]
        cells += [f"{v:.2f}" for v in (r.peak_gib, r.planned_gib)]
        cells += [f"{v:.1f}" for v in (r.save_s, r.start_s, r.resume_s)]
        cells += [
            "" if v is None else f"{v:.1e}" for v in (r.loss_difference, r.adapter_difference)
        ]
        cells += [f"{v:.1e}" for v in (r.resumed_loss_difference, r.resumed_adapter_difference)]
        cells += ["" if r.same is None else "yes" if r.same else "NO"]
        print("".join(f"{cell:>14}" for cell in cells))


def main() -> int:
    """Measures, prints the table, writes the JSON; 1 if a strategy failed or trained otherwise."""
    args = read_arguments()
    hardware = "h800x1" if args.accelerator == "cuda" else "cpu"
    common = [*COMMON, *model_settings(args.model), f"hardware={hardware}"]
    common += [f"hardware.precision={args.precision}", f"trainer.max_steps={args.steps}"]
    common += [f"callbacks.checkpoint.every_n_train_steps={max(2, args.steps // 4)}"]
    rows: dict[str, Row] = {}
    errors: dict[str, str] = {}
    single: Run | None = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common += [f"paths.cache={folder / 'cache'}", *args.settings]
        warm_up(common)
        for name in args.strategy:
            ranks = 1 if name == "single" else args.devices
            settings = [*common, f"strategy={name}", f"hardware.devices={ranks}"]
            print(f"{name} on {ranks} ...", file=sys.stderr, flush=True)
            try:
                row, run = measure(
                    settings,
                    ranks=ranks,
                    folder=folder / name,
                    single=single,
                    is_exact=args.precision == "fp32",
                )
            except RuntimeError as error:
                errors[name] = str(error)
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            else:
                rows[name] = row
                single = run if name == "single" else single
            write(args, rows, errors, common)
    print_table(rows)
    return 1 if errors or any(row.same is False for row in rows.values()) else 0


def write(
    args: argparse.Namespace,
    rows: Mapping[str, Row],
    errors: Mapping[str, str],
    settings: Sequence[str],
) -> None:
    """The JSON as far as it goes."""
    result = {
        "rows": {name: rounded(asdict(row)) for name, row in rows.items()},
        "failed": dict(errors),
        **{name: getattr(args, name) for name in ("model", "precision", "steps")},
        "tolerance": TOLERANCE,
        "settings": [s for s in settings if not s.startswith("paths.")],
        **describe_machine(args.accelerator),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """To four digits that count."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


def read_arguments() -> argparse.Namespace:
    """The command line; strategies that would do nothing on one device are left out."""
    parser = argparse.ArgumentParser(description="Every strategy through train.py.")
    has_card = torch.cuda.is_available()
    parser.add_argument(
        "--accelerator", choices=("cpu", "cuda"), default="cuda" if has_card else "cpu"
    )
    parser.add_argument("--devices", type=int, help="default: all cards, or two processes")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", help="for every run, e.g. optim.lr=1e-3")
    args = parser.parse_intermixed_args()
    if args.steps < 4:
        parser.error("--steps must be at least 4, for a save in the middle")
    on_card = args.accelerator == "cuda"
    args.devices = args.devices or (torch.cuda.device_count() if on_card else 2)
    chosen = args.strategy or (STRATEGIES if args.devices > 1 else ON_ONE_DEVICE)
    # The others are compared with it.
    args.strategy = ["single", *(name for name in chosen if name != "single")]
    args.out = args.out or Path(f"benchmarks/results/strategies_{args.accelerator}.json")
    return args


if __name__ == "__main__":
    sys.exit(main())
