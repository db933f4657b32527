"""Preparation of 300 essays: ours beside LLaMA-Factory's, one process and one thread each, in turn.

    python benchmarks/prepare.py [--python PEER_ENV/bin/python] [--essays 300] [--repeats 3]

Two phases. ``before the first step``: from files to token ids of every sample, all lengths known.
Ours reads and checks the folder, splits it and tokenises; LLaMA-Factory's ``get_dataset`` converts
and tokenises. ``in the loader``: from a sample to the tensors of a micro-batch of 2, which is done
again in each epoch unless the features of the pages are kept.

Both sides have the same pages of 640 x 928 px with the same answers of 450 tokens. ``typed``: our
side has the essays as text, which it lays out before the first step and draws in the loader;
``images``: as the PNG files that LLaMA-Factory reads, opened, checked and trimmed like photos.
LLaMA-Factory can only have images: who drew them is not in its time.
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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparing.our_side import BENCHMARKS, PROMPT, run_ours
from comparing.our_train import RECORD_FILE
from comparing.peer import HyperParameters, Peer, find_peer, write_job
from comparing.reference_job import Sample
from comparing.watched import Watched

Row = dict[str, float]
PHASES = ("before", "loader", "both")


def read_row(seen: Watched) -> Row:
    """Milliseconds a sample of each phase, by the clock and by CPU time."""
    (line,) = [line for _, line in seen.lines if line.startswith("PREPARED ")]
    told: dict[str, Any] = json.loads(line.removeprefix("PREPARED "))
    row: Row = {}
    for kind, unit in (("", "s"), ("cpu_", "cpu_s")):
        before = told[f"before_{unit}"] / told["num_samples"]
        loader = told[f"loader_{unit}"] / told["num_collated"]
        row |= {f"{kind}before": before, f"{kind}loader": loader, f"{kind}both": before + loader}
    return {name: 1e3 * value for name, value in row.items()}


class Preparation:
    """Both sides' job in a folder.

    Args:
        folder: Everything is written here.
        num_batches: Micro-batches of 2 that the loader's phase takes.
    """

    def __init__(self, folder: Path, *, essays: int, num_batches: int, peer: Peer | None) -> None:
        self.folder, self.num_batches, self.peer = folder, num_batches, peer
        self.settings = [
            *("model=nano_50m", "data=aes_dataset", f"data.max_samples={essays}"),
            *("data.val_fraction=0", "data.test_fraction=0", "data.on_problem=keep"),
            *("loss=ce", "optim=adamw", "trainer.max_epochs=1", "logger=none", *PROMPT),
            *("hardware.micro_batch_size=2", f"paths.cache={folder / 'cache'}"),
        ]
        root, run_dir = f"data.root={folder / 'images'}", f"run_dir={folder / 'recorded_run'}"
        self._ours("our_train", "--record", str(folder / "record"), root, run_dir)
        if peer is not None:
            text = (folder / "record" / RECORD_FILE).read_text(encoding="utf-8")
            record = json.loads(text)
            samples = [Sample(**s) for s in record["samples"].values()]
            checkpoint = Path(record["checkpoint"])
            job = write_job(
                folder / "peer",
                samples,
                checkpoint=checkpoint,
                adapter=None,
                hyper=HyperParameters(),
            )
            (folder / "peer" / "job.yaml").write_text(json.dumps(job), encoding="utf-8")

    def _ours(self, name: str, *arguments: str) -> Watched:
        return run_ours(name, (*arguments, *self.settings), folder=self.folder, threads=1)

    def run(self, way: str) -> Row:
        """One measurement of ``typed``, ``images`` or ``llamafactory``."""
        if way != "llamafactory":
            root = f"data.root={self.folder / way}"
            return read_row(self._ours("our_prepare", str(self.num_batches), root))
        assert self.peer is not None
        arguments = [
            str(BENCHMARKS / "comparing" / "peer_prepare.py"),
            "job.yaml",
            str(self.num_batches),
        ]
        return read_row(self.peer.run(arguments, folder=self.folder / "peer", threads=1))


def print_table(rows: Mapping[str, Sequence[Row]]) -> None:
    """Milliseconds a sample, then how many times faster than LLaMA-Factory."""
    print(f"\n{'ms a sample, median':<22}{'by the clock':>36}{'CPU time':>36}")
    heads = ("before step 1", "in the loader", "both")
    print(f"{'':<22}" + "".join(f"{head:>14}" for head in (*heads, *heads)))
    for way, found in rows.items():
        cells = [
            statistics.median(r[f"{k}{p}"] for r in found) for k in ("", "cpu_") for p in PHASES
        ]
        print(f"{way:<22}" + "".join(f"{cell:>14.1f}" for cell in cells))
    for way, times in times_faster(rows).items():
        text = ", ".join(f"{p} {m[0]:.2f} ({m[1]:.2f} to {m[2]:.2f})" for p, m in times.items())
        print(f"{way} is times faster than llamafactory: {text}")


def times_faster(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, list[float]]]:
    """Median, least and most over the rounds, of CPU time, by way and phase."""
    if "llamafactory" not in rows:
        return {}
    found = {}
    for way in (name for name in rows if name != "llamafactory"):
        pairs = list(zip(rows["llamafactory"], rows[way], strict=True))
        quotients = {
            p: [peer[f"cpu_{p}"] / ours[f"cpu_{p}"] for peer, ours in pairs] for p in PHASES
        }
        found[way] = {p: [statistics.median(q), min(q), max(q)] for p, q in quotients.items()}
    return found


def main() -> None:
    """Measures, prints the table, writes the JSON.

    Raises:
        SystemExit: With one sentence, if the environment given is not one to compare with.
    """
    parser = argparse.ArgumentParser(description="Preparation beside LLaMA-Factory.")
    parser.add_argument("--python", type=Path, help="of its environment; without: ours alone")
    parser.add_argument("--essays", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of the loader's phase")
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results" / "prepare.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            peer = find_peer(args.python) if args.python else None
            ways = ["typed", "images", *(["llamafactory"] if peer else [])]
            rows: dict[str, list[Row]] = {way: [] for way in ways}
            preparation = Preparation(
                Path(temporary), essays=args.essays, num_batches=args.batches, peer=peer
            )
            for _ in range(args.repeats):
                for way in ways:
                    rows[way].append(preparation.run(way))
        except ValueError as error:
            sys.exit(str(error))
    print_table(rows)
    result = {
        "ms_per_sample": rows,
        "times_faster_by_cpu_time": times_faster(rows),
        "essays": args.essays,
        "repeats": args.repeats,
        "peer": peer.versions if peer else None,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"{os.cpu_count()} CPU cores, one process and thread at a time",
        "machine": platform.machine(),
        "python": platform.python_version(),
    } | {name: version(name) for name in ("torch", "transformers", "pillow", "tokenizers")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
