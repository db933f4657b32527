"""Essays that stand in for a corpus of any size, through every stage of the data side.

Each essay is a chain of characters, each drawn from those that follow the one before it in the
embedded sample: distinct texts that share stock phrases, as pupils' do. Knows no model.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aes.corpus import AesDataset
from aes.corpus.sample_corpus import load_sample
from aes.data.prepare import prepare
from aes.data.processor import Processor
from aes.data.sampler import StepSampler
from aes.data.spec import BatchingSpec
from aes.model.vocabulary import vocabulary_folder
from aes.page import PageSpec
from aes.prompt import PromptSpec
from aes.prompt.build import ExampleBuilder
from aes.rubric import Rubric

CONF = Path(__file__).parents[2] / "conf"
MOST_TOKENISED = 2_000
"""Of larger corpora so many are laid out and tokenised, and the seconds carried on."""


def write_essays(folder: Path, num_essays: int) -> None:
    """A folder in the layout of AES-Dataset; the last essay is a copy of the first."""
    (folder / "essays").mkdir(parents=True)
    rng = np.random.default_rng(num_essays)
    rows = []
    for i, text in enumerate(chain_texts(num_essays - 1, rng)):
        title, body = text[:6], text[6:]
        if i == 0:
            first = title, body
        rows.append((f"e{i:06d}", title, body))
    rows.append(("copy", *first))
    for name, title, body in rows:
        paragraphs = [body[at : at + 160] for at in range(0, len(body), 160)]
        file = folder / "essays" / f"{name}.txt"
        file.write_text("\n".join([title, *paragraphs]), encoding="utf-8")
    scores = [30 + i * 7919 % 70 for i in range(num_essays - 1)]
    lines = [f"{n}\t{t}\t{s}" for (n, t, _), s in zip(rows, [*scores, scores[0]], strict=True)]
    (folder / "scores.txt").write_text("\n".join(lines), encoding="gb18030")


def chain_texts(num_texts: int, rng: np.random.Generator) -> Iterator[str]:
    """Texts of 600 to 1,000 characters, each character one that follows the last in the sample."""
    source = "".join("".join(c for c in e.text if "\u4e00" <= c <= "\u9fff") for e in load_sample())
    alphabet, codes = np.unique(np.array(list(source)), return_inverse=True)
    by_character = np.argsort(codes[:-1], kind="stable")
    followers = codes[1:][by_character]
    counts = np.bincount(codes[:-1], minlength=len(alphabet))
    starts = np.cumsum(counts) - counts
    for at in range(0, num_texts, 10_000):
        num = min(10_000, num_texts - at)
        now = rng.choice(codes[:-1], num)
        chain = np.empty((num, 1_000), dtype=np.int32)
        for place in range(chain.shape[1]):
            chain[:, place] = now
            share = rng.random(num)
            known = counts[now] > 0  # the sample's very last character may follow nothing
            step = starts[now] + (share * counts[now]).astype(np.int64)
            now = np.where(known, followers[np.minimum(step, len(followers) - 1)], codes[0])
        lengths = rng.integers(600, 1_001, num)
        for row, length in zip(chain, lengths, strict=True):
            yield "".join(alphabet[row[:length]])


def measure_essays(num_essays: int) -> dict[str, Any]:
    """Seconds and peak memory of each stage, in this process."""
    stages: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root, cache = Path(scratch) / "corpus", Path(scratch) / "cache"
        write_essays(root, num_essays)
        model = read_conf("model/nano_50m")
        page = read_conf(
            "page/plain",
            glyph_px=model["glyph_px"],
            width_px=model["page_width_px"],
            max_height_px=model["page_max_height_px"],
            min_pixels=model["min_pixels"],
        )
        rubric = Rubric(**read_conf("rubric/holistic100"))
        prompt = PromptSpec(**read_conf("prompt/zh"))
        builder = ExampleBuilder(rubric=rubric, prompt=prompt, page=PageSpec(**page), seed=1)
        settings = read_conf("data/aes_dataset", root=root, split_seed=1, max_samples=10**9)
        corpus = AesDataset(**settings)
        with stage(stages, "read and check"):
            reading = corpus.read(
                find_undrawable=builder.renderer.missing_characters,
                open_page=builder.renderer.open,
                ranges=rubric.ranges,
            )
        with stage(stages, "split"):
            split = corpus.split(reading.essays, seed=1)
        with stage(stages, "split into folds"):
            folds = replace(corpus, fold=0, num_folds=5).split(reading.essays, seed=1)
        lengths = tokenise(split.train[:MOST_TOKENISED], builder, model, cache, stages)
        lengths = np.resize(lengths, len(split.train)).tolist()
        with stage(stages, "plan an epoch"):
            num_micro_batches = plan_epoch(lengths)
    if len(split.train) > MOST_TOKENISED:
        carry_on(stages["lay out and tokenise"], len(split.train))
    return {
        "essays": num_essays,
        "kept": len(reading.essays),
        "copies_found": reading.counts.get("duplicate", 0),
        "near_duplicates": reading.counts.get("near_duplicate", 0),
        "in_a_fold": len(folds.test),
        "micro_batches": num_micro_batches,
        "stages": stages,
    }


def carry_on(stage: dict[str, float], num_essays: int) -> None:
    """Seconds of ``MOST_TOKENISED`` essays become those of more, which then say so."""
    for name in ("cpu_s", "s"):
        stage[name] = round(stage[name] * num_essays / MOST_TOKENISED, 1)
    stage["measured_with"] = MOST_TOKENISED


def plan_epoch(lengths: list[int]) -> int:
    """Micro-batches of an epoch in steps of 8, each of them drawn up."""
    sampler = StepSampler(
        lengths=lengths,
        num_supervised=[450] * len(lengths),
        global_batch_size=8,
        micro_batch_size=4,
        batching=BatchingSpec(**read_conf("batching/planned")).resolved(packs=True),
        seed=1,
    )
    return sum(1 for _ in sampler)


def tokenise(
    essays: Any, builder: Any, model: dict[str, Any], cache: Path, stages: dict[str, Any]
) -> list[int]:
    """Tokens of each sample, as the library prepares them; a second time from the cache."""
    processor = Processor(
        vocabulary_folder(cache),
        ranges=builder.rubric.ranges,
        min_pixels=model["min_pixels"],
        max_pixels=model["max_pixels"],
    )

    def run() -> list[int]:
        prepared = prepare(
            essays,
            builder=builder,
            processor=processor,
            max_tokens=2048,
            on_overlong="shrink",
            cache=cache,
            label="essays",
        )
        return prepared.column("num_tokens")

    with stage(stages, "lay out and tokenise"):
        run()
    with stage(stages, "the same from the cache"):
        return run()


@contextmanager
def stage(stages: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Cost of this context: processor and clock seconds, and peaks of memory so far.

    Those of processes that it starts count too.
    """
    start, cpu_start = time.perf_counter(), sum(os.times()[:4])
    yield
    stages[name] = {
        "cpu_s": round(sum(os.times()[:4]) - cpu_start, 2),
        "s": round(time.perf_counter() - start, 3),
        "peak_gib": round(peak_gib(resource.RUSAGE_SELF), 3),
        "peak_of_a_child_gib": round(peak_gib(resource.RUSAGE_CHILDREN), 3),
    }


def read_conf(name: str, **changes: Any) -> dict[str, Any]:
    """Plain values of one option, with changes."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("_target_", "defaults")} | changes


def peak_gib(whose: int) -> float:
    """Largest resident set of this process or of a child of it."""
    return resource.getrusage(whose).ru_maxrss / 2**20
