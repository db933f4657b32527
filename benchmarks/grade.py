"""Prompts and decoding, tokens and essays a second, against ``generate`` and against the floor.

    python benchmarks/grade.py [--model nano nano_50m] [--threads 1 2] [--repeats 5] [--clock cpu]
    PYTHONPATH=. python benchmarks/grade.py --random qwen3_vl_30b_a3b [--batch-size 32 64 128]

Without ``--random`` essays are answered, by the Engine and by transformers' ``generate`` under the
same grammar, in batches of the same examples, greedily, in as many new tokens; both draw and encode
the pages within the time. The answers must be equal. ``prefill`` is the Engine's way up to the
first score; ``scores only`` answers without comments. Figures are medians over the repeats, which
take the ways in turn.

With ``--random`` weights are drawn on the device and rows write 500 words behind prompts without
pages, by each way of decoding: this needs torch, transformers and peft alone. The floor of a step
is what it must read over the bandwidth measured in the same run. In float32 all ways must write the
same words; in bfloat16 near ties fall either way, and the share of equal words is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="How fast essays are answered.")
    parser.add_argument("--out", type=Path, help="default: named by what is measured, and where")
    parser.add_argument("--model", nargs="+", default=["nano", "nano_50m"], help="of conf/model")
    parser.add_argument("--random", help="decode alone: a geometry of benchmarks/training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--num-prompt", type=int, default=615)
    parser.add_argument("--num-new", type=int, default=500)
    parser.add_argument("--ways", nargs="+", help="with --random; default: all")
    return parser.parse_args()


def answer_essays(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The Engine against ``generate``, by model, batch size and threads."""
    from grading.essays import CLOCKS, build_contest

    found = []
    for name in args.model:
        for batch_size in args.batch_size or [8]:
            with tempfile.TemporaryDirectory() as folder:
                contest = build_contest(
                    name,
                    batch_size=batch_size,
                    device=torch.device(args.device),
                    clock=CLOCKS[args.clock],
                    cache=Path(folder),
                )
                for threads in args.threads:
                    torch.set_num_threads(threads)
                    measured = contest.measure(args.repeats)
                    found.append({"model": name, "threads": threads} | measured)
                    _print_essays(found[-1])
    return found


def decode_randomly(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ways of decoding, by batch size; one that fails says why, and the others go on."""
    from grading.decoding import WAYS, Decoding
    from training.geometry import GEOMETRIES

    device = torch.device(args.device)
    decoding = Decoding(
        GEOMETRIES[args.random],
        device=device,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        num_prompt=args.num_prompt,
        num_new=args.num_new,
    )
    torch.set_num_threads(args.threads[0])
    found = []
    for num_rows in args.batch_size or [32, 64, 128]:
        first = None
        for way in args.ways or WAYS:
            try:
                measured = decoding.measure(way, num_rows)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                text = " ".join(str(error).split())[:200]
                measured = {"way": way, "rows": num_rows, "failed": text}
            words = measured.pop("words", None)
            if words is not None:
                first = words if first is None else first
                equal = float((words == first).float().mean())
                assert decoding.dtype != torch.float32 or equal == 1, f"{way} writes other words"
                measured["words_equal_to_first_way"] = equal
            found.append({"model": args.random} | measured)
            _print_decoding(found[-1])
    return found


def _print_essays(m: dict[str, Any]) -> None:
    s, decode = m["s_per_batch"], m["decode_s"]
    title = f"{m['model']}, {m['threads']} threads, batches of {m['batch_size']}"
    print(f"\n{title:<40}{'generate':>10}{'Engine':>10}{'times':>8}{'scores only':>13}")
    rows = (
        ("s a batch", s["generate"], s["engine"], s["scores_only"]),
        ("  of it pages and prompts", s["generate_prefill"], s["prefill"], s["prefill"]),
        ("  of it decoding", decode["generate"], decode["engine"], decode["scores_only"]),
    )
    for label, plain, ours, scores in rows:
        print(f"{label:<40}{plain:>10.3f}{ours:>10.3f}{plain / ours:>8.2f}{scores:>13.3f}")
    rate = m["answers_per_s"]
    print(
        f"{'answers a second':<40}{rate['generate']:>10.2f}{rate['engine']:>10.2f}"
        f"{m['times_generate']:>8.2f}{rate['scores_only']:>13.2f}"
    )
    new = m["new_tokens_per_s_of_decoding"]
    print(f"{'new tokens a second of decoding':<40}{new['generate']:>10.0f}{new['engine']:>10.0f}")
    print(
        f"scores only: {m['scores_only_of_prefill_speed']:.0%} of the speed of prompts alone; "
        f"decoding: {m['engine_of_decode_floor']:.0%} of the speed that memory allows "
        f"({m['bandwidth_gb_per_s']:.0f} GB/s)"
    )


def _print_decoding(m: dict[str, Any]) -> None:
    head = f"{m['model']:<18}{m['way']:<10}{m['rows']:>5} rows"
    if "failed" in m:
        print(f"{head}  {m['failed']}")
        return
    print(
        f"{head}{m['prefill_tokens_per_s']:>10,.0f} prompt tokens/s{1000 * m['s_per_step']:>9.2f} "
        f"ms a step{m['tokens_per_s']:>8,.0f} tokens/s{m['of_floor']:>7.1%} of the floor's speed"
        f"{m['reference_decode_s']:>8.0f} s for 300 x 500 (floor {m['reference_floor_s']:.0f})"
        f"{m['words_equal_to_first_way']:>8.1%} equal"
    )


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    args = parse_arguments()
    transformers.utils.logging.disable_progress_bar()
    measured = decode_randomly(args) if args.random else answer_essays(args)
    is_cuda = args.device.startswith("cuda")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if is_cuda else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),  # of all that ran beside it too
        "clock": args.clock,
        "repeats": args.repeats,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "measured": measured,
    }
    out: Path = args.out or default_path(args)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def default_path(args: argparse.Namespace) -> Path:
    """A file for each device, and for essays another than for random decoding."""
    is_cuda = args.device.startswith("cuda")
    device = torch.cuda.get_device_name().lower().replace(" ", "_") if is_cuda else args.device
    return Path(f"benchmarks/results/grade_{args.random or 'essays'}_{device}.json")


if __name__ == "__main__":
    main()
