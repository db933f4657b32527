"""Times our preparation of a job in this process, and prints one JSON line for ``prepare.py``.

    python -m comparing.our_prepare NUM_BATCHES data.root=DIR [key=value ...]

``before``: files to checked, split and tokenised samples, nothing taken from a cache. ``loader``:
the data set and the collator on so many micro-batches, as the loader's processes call them. What
only a first call pays, imports, tokenizer and font, is paid before.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from aes.cli.entry import main
from comparing.our_train import add_comments

if TYPE_CHECKING:
    from aes.cli.settings import Settings


def prepare(settings: Settings, *, num_batches: int) -> int:
    """Measure both phases."""
    from rich.console import Console

    from aes.cli import samples as stages
    from aes.cli.building import build_data
    from aes.page import photo
    from aes.ranks import ALONE

    settings.cache.mkdir(parents=True, exist_ok=True)
    processor = stages.make_processor(settings, weights=True)
    stages.make_processor = partial(_return, processor)
    few = replace(settings, data=replace(settings.data, max_samples=2))
    stages.prepare_samples(few, Console(quiet=True))
    shutil.rmtree(settings.cache / "samples")
    photo._crops.clear()  # the check of these two opened every file
    start, start_cpu = time.perf_counter(), time.process_time()
    samples = stages.prepare_samples(settings, Console(quiet=True))
    before_s, before_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    data = build_data(settings, samples, ALONE)
    batches = list(islice(data.sampler, num_batches))
    start, start_cpu = time.perf_counter(), time.process_time()
    for picks in batches:
        batch = data.redraw(picks)
    found = {
        "num_samples": len(samples.train.rows),
        "before_s": before_s,
        "before_cpu_s": before_cpu_s,
        "num_collated": sum(map(len, batches)),
        "loader_s": time.perf_counter() - start,
        "loader_cpu_s": time.process_time() - start_cpu,
        "tokens": samples.train.column("num_tokens"),
        "patches": list(batch["pixel_values"].shape),
    }
    print("PREPARED " + json.dumps(found))
    return 0


def _return(value: Any, *_: Any, **__: Any) -> Any:
    return value


if __name__ == "__main__":
    add_comments()
    count = int(sys.argv.pop(1))
    main("train", partial(prepare, num_batches=count))
