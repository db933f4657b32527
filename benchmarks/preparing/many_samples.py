"""Instruction data of any size, prepared for training: in one go, from the cache, and after a kill.

Instructions and answers are chains of characters, as ``many_essays`` makes them. Memory is that of
this process and of the largest that it starts. Knows no model.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from aes.corpus.instructions import AlpacaColumns, AlpacaData
from aes.data.processor import Processor
from aes.data.shards import SAMPLES_PER_SHARD
from aes.data.stream import Streamed, prepare_stream
from aes.model.vocabulary import vocabulary_folder
from aes.page import PageRenderer, PageSpec
from preparing.many_essays import chain_texts, read_conf, stage

SEED = 1


def write_samples(path: Path, num_samples: int) -> None:
    """A JSON array of alpaca records; every hundredth repeats the one before it."""
    rng = np.random.default_rng(num_samples)
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, text in enumerate(chain_texts(num_samples, rng)):
            if i % 100 or not i:
                record = {
                    "instruction": f"{i}. {text[:60]}",
                    "input": text[60:200],
                    "output": text[200:350],
                }
            file.write(("," if i else "") + json.dumps(record, ensure_ascii=False) + "\n")
        file.write("]")


def measure_samples(num_samples: int, *, with_kill: bool = True) -> dict[str, Any]:
    """Seconds and peak memory of each stage; of several shards also of a resumed preparation."""
    stages: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with stage(stages, "write the data"):  # and have everything imported, for its memory
            write_samples(folder / "alpaca.json", num_samples)
            vocabulary_folder(folder / "cache")
        with stage(stages, "read, check, tokenise"):
            streamed = prepare_samples(folder, "cache")
        with stage(stages, "the same from the cache"):
            streamed = prepare_samples(folder, "cache")
        with stage(stages, "split"):
            parts = streamed.split(seed=SEED)
        found = {
            "samples": num_samples,
            "file_mib": round((folder / "alpaca.json").stat().st_size / 2**20, 1),
            "tokens": int(streamed.census.lengths.sum()),
            "kept": streamed.reading.counts["kept"],
            "copies_found": streamed.reading.counts.get("duplicate", 0),
            "train": len(parts.train.rows),
            "stages": stages,
        }
        if with_kill and num_samples >= 10 * SAMPLES_PER_SHARD:
            found["killed"] = measure_kill(folder, num_samples)
    return found


def measure_kill(folder: Path, num_samples: int) -> dict[str, Any]:
    """A preparation that is killed halfway, and another that goes on with it."""
    command = [sys.executable, "-m", "preparing.many_samples", str(folder), "other"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    vocabulary_folder(folder / "other")
    started_s = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    half = num_samples // SAMPLES_PER_SHARD // 2
    while child.poll() is None and len(written(folder)) < half:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    killed_s, num_written = time.perf_counter() - started_s, len(written(folder))
    started_s = time.perf_counter()
    subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
    return {
        "killed_after_s": round(killed_s, 1),
        "shards_done": num_written,
        "going_on_s": round(time.perf_counter() - started_s, 1),
    }


def written(folder: Path) -> list[Path]:
    """Shards that are done."""
    return list((folder / "other").glob("samples/*/??????.json"))


def prepare_samples(folder: Path, cache: str) -> Streamed:
    """As train.py does it with ``data=alpaca`` and a model that reads text and pages."""
    model = read_conf("model/nano_50m")
    plain = read_conf("data/alpaca", path=folder / "alpaca.json", split_seed=SEED)
    columns = AlpacaColumns(**{k: v for k, v in plain.pop("columns").items() if k != "_target_"})
    return prepare_stream(
        AlpacaData(**plain, columns=columns),
        processor=Processor(
            vocabulary_folder(folder / cache),
            ranges={},
            min_pixels=model["min_pixels"],
            max_pixels=model["max_pixels"],
        ),
        renderer=PageRenderer(
            PageSpec(**read_conf("page/picture", min_pixels=model["min_pixels"]))
        ),
        cache=folder / cache,
        label="preparing",
    )


if __name__ == "__main__":
    prepare_samples(Path(sys.argv[1]), sys.argv[2])
