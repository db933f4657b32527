"""Training samples a second beside LLaMA-Factory: one checkpoint, one adapter, the same pages.

    python benchmarks/versus_llamafactory.py --python PEER_ENV/bin/python [--rounds 3] [--essays 16]
        [--epochs 3] [--threads N] [--arms ours llamafactory ...] [settings for train.py ...]

Both sides train LoRA of rank 8 on q, k, v and o of the 50 M nano in fp32 on the CPU, from the same
initial adapter, on the same PNG files in the same order, 2 x 4 samples a step, loss over the
whole answer of 450 tokens. They take turns, in processes of their own, with as many threads.
Ours runs ``train.py`` through ``comparing/our_train.py``.

- ``ours``: the options' defaults. ``ours_plain``: every option of speed off.
- ``llamafactory``: its defaults, which compute each layer again in the backward pass;
  ``llamafactory_kept`` keeps the activations, as our side does on a CPU.

The time is that of the training loop, its first step included, from before the loader's processes
begin to the end of the last step; CPU time counts all processes of a side and hardly depends on
what else the machine does. LLaMA-Factory has the samples of all epochs in our order in one file and
one epoch, so that losses can be compared step by step; it tokenises each page as often as there are
epochs, which costs it a second of the whole time and nothing of the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparing.contest import OUR_ARMS, PEER_ARMS, Comparison, Timing
from comparing.our_side import BENCHMARKS
from comparing.peer import find_peer


def ratios(timings: Mapping[str, Sequence[Timing]], arm: str, peer: str) -> dict[str, list[float]]:
    """How many times faster ``arm`` was than ``peer`` in each round."""
    pairs = list(zip(timings[arm], timings[peer], strict=True))
    return {
        "wall": [a.samples_per_s / b.samples_per_s for a, b in pairs],
        "cpu": [a.samples_per_cpu_s / b.samples_per_cpu_s for a, b in pairs],
        "whole_wall": [b.whole_s / a.whole_s for a, b in pairs],
        "whole_cpu": [b.whole_cpu_s / a.whole_cpu_s for a, b in pairs],
    }


def print_table(timings: Mapping[str, Sequence[Timing]], record: Mapping[str, Any]) -> None:
    """A line an arm, then a line a ratio, then how the losses agree."""
    heads = ("samples/s", "per CPU s", "steady s", "loop s", "whole s", "first loss", "last loss")
    print(f"\n{'median of ' + str(len(next(iter(timings.values())))):<20}", end="")
    print("".join(f"{head:>12}" for head in heads))
    for arm, runs in timings.items():
        names = ("samples_per_s", "samples_per_cpu_s", "steady_s", "loop_s", "whole_s")
        medians = [statistics.median(getattr(run, name) for run in runs) for name in names]
        cells = [f"{m:.3f}" for m in medians[:2]] + [f"{m:.1f}" for m in medians[2:]]
        cells += [f"{runs[0].losses[0]:.4f}", f"{runs[0].losses[-1]:.4f}"]
        print(f"{arm:<20}" + "".join(f"{cell:>12}" for cell in cells))
    for arm, peer in pairs_of(timings):
        found = ratios(timings, arm, peer)
        parts = [
            f"{name} {statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})"
            for name, r in found.items()
        ]
        print(f"{arm} / {peer}: " + ", ".join(parts))
    for arm, peer in pairs_of(timings):
        worst = loss_difference(timings[arm][0], timings[peer][0])
        print(f"largest difference of a step's loss, {arm} and {peer}: {worst:.4f}")
    expected = record["first_loss_with_line_feed"]
    print(f"our first loss with the line feed that LLaMA-Factory supervises too: {expected:.4f}")


def pairs_of(arms: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each of ours with each of the peer's."""
    return [(ours, peer) for ours in arms if ours in OUR_ARMS for peer in arms if peer in PEER_ARMS]


def loss_difference(a: Timing, b: Timing) -> float:
    """Largest difference of the loss of a step, in nats."""
    return max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))


def draw_curves(timings: Mapping[str, Sequence[Timing]], path: Path) -> None:
    """The loss of each step, a line an arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for arm, runs in timings.items():
        losses = runs[0].losses
        marker = {"linewidth": 4, "alpha": 0.4} if arm in PEER_ARMS else {"marker": "."}
        axes.plot(range(1, len(losses) + 1), losses, label=arm, **marker)
    axes.set(xlabel="step", ylabel="loss of the step, nats a token")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(
    args: argparse.Namespace, comparison: Comparison, timings: Mapping[str, Sequence[Timing]]
) -> None:
    """The JSON and the figure."""
    first = comparison.order[0]
    result = {
        "runs": {arm: [asdict(run) for run in runs] for arm, runs in timings.items()},
        "times_faster": {
            f"{arm} / {peer}": {k: [round(r, 3) for r in v] for k, v in found.items()}
            for arm, peer in pairs_of(timings)
            for found in [ratios(timings, arm, peer)]
        },
        "loss_difference": {
            f"{arm} / {peer}": loss_difference(timings[arm][0], timings[peer][0])
            for arm, peer in pairs_of(timings)
        },
        "first_loss_with_line_feed": comparison.record["first_loss_with_line_feed"],
        "sample_tokens": {
            "all": len(first.input_ids),
            "image": first.num_image_tokens,
            "supervised": len(first.input_ids) - first.num_prompt,
        },
        "essays": args.essays,
        "epochs": args.epochs,
        "threads": args.threads,
        "hyper_parameters": asdict(comparison.hyper),
        "peer": comparison.peer.versions,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"{os.cpu_count()} CPU cores",
        "machine": platform.machine(),
        "python": platform.python_version(),
    } | {name: version(name) for name in ("torch", "transformers", "peft", "lightning")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw_curves(timings, args.out.with_suffix(".png"))


def main() -> None:
    """Measures, prints the table, writes the JSON.

    Raises:
        SystemExit: With one sentence, if the environment given is not one to compare with.
    """
    args = read_arguments()
    timings: dict[str, list[Timing]] = {arm: [] for arm in args.arms}
    with tempfile.TemporaryDirectory() as temporary:
        try:
            comparison = Comparison(
                find_peer(args.python),
                Path(temporary),
                essays=args.essays,
                epochs=args.epochs,
                threads=args.threads,
                settings=args.settings,
            )
            for number in range(args.rounds):
                for arm in args.arms:
                    timings[arm].append(comparison.run(arm, number))
                    told = timings[arm][-1]
                    print(
                        f"round {number + 1}, {arm}: {told.samples_per_s:.3f} samples/s, "
                        f"{told.samples_per_cpu_s:.3f} a CPU second",
                        file=sys.stderr,
                        flush=True,
                    )
        except ValueError as error:
            sys.exit(str(error))
    print_table(timings, comparison.record)
    write(args, comparison, timings)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training beside LLaMA-Factory.")
    arms = (*OUR_ARMS, *PEER_ARMS)
    parser.add_argument("--python", type=Path, required=True, help="of its environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--essays", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument(
        "--out", type=Path, default=BENCHMARKS / "results" / "versus_llamafactory.json"
    )
    parser.add_argument("settings", nargs="*", help="for train.py, e.g. vision_cache=none")
    args = parser.parse_intermixed_args()
    if args.rounds < 1 or args.essays * args.epochs < 16:
        parser.error("at least one round and two steps of 8 samples are needed")
    return args


if __name__ == "__main__":
    main()
