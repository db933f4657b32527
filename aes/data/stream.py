"""Instruction data -> tokenised samples of its parts, a shard at a time.

However many samples there are, memory holds a few shards and some numbers of each sample. Shards
that are done stay in the cache, so an interrupted preparation goes on where it was. What samples
have in common is looked at when all are there: copies, unlike answers to one prompt, and what must
stand on one side of a split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from aes.corpus.base import DataSpec
from aes.corpus.instructions import InstructionData, Sample
from aes.corpus.problems import Ledger, Reading
from aes.data.parts import Census, deal_groups
from aes.data.prepare import SHAPING_PACKAGES, find_in_cache, shaping_modules
from aes.data.prepared import Prepared, apply_policy, column
from aes.data.processor import Processor
from aes.data.shards import SAMPLES_PER_SHARD, Shard
from aes.data.tokenising import Tokenisers
from aes.files import touch, write_atomically
from aes.page import PageRenderer

_INDEX_FILE = "index.json"
"""Written when all shards are: how many there are."""


@dataclass(frozen=True)
class Parts:
    """The tokenised parts of instruction data.

    Attributes:
        num_left_out: Training samples beyond ``max_samples``.
    """

    train: Prepared
    val: Prepared
    test: Prepared
    num_left_out: int


@dataclass(frozen=True)
class Streamed:
    """All samples that were read, tokenised and checked.

    Attributes:
        reading: Problems and counts; it holds no essays.
        rows: All samples, mapped into memory: a ``datasets.Dataset``.
        kept: Places in ``rows`` of those that the policy leaves in.
        census: What tells relatives, an entry a row.
        data: What was asked for.
    """

    reading: Reading
    rows: Any
    kept: Sequence[int]
    census: Census
    data: InstructionData

    def whole(self) -> Prepared:
        """All samples as one part."""
        return self._prepare(self.kept)

    def split(self, *, seed: int) -> Parts:
        """Training, validation and test part; no prompt and no image stands in two.

        Prompts are equal if they differ in white space, case, width or the system prompt alone;
        those that are merely alike, and images that differ in a byte, may stand in two.

        Args:
            seed: Of the choice under ``max_samples``.

        Raises:
            ValueError: If there are too few samples to split, or none.
        """
        data = self.data
        if not self.kept:
            raise ValueError(
                f"none of {self.reading.counts['read']} samples is left to train on; mend "
                "what the check lists above"
            )
        places = deal_groups(
            self.census.groups(self.kept),
            self.census.labels,
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            seed=data.split_seed,
        )
        train, num_left_out = places["train"], max(0, len(places["train"]) - data.max_samples)
        if num_left_out:
            train = sorted(random.Random(seed).sample(train, data.max_samples))
        return Parts(
            train=self._prepare(train),
            val=self._prepare(places["val"]),
            test=self._prepare(places["test"]),
            num_left_out=num_left_out,
        )

    def _prepare(self, places: Sequence[int]) -> Prepared:
        rows = self.rows.select(places)
        drop = self.data.on_overlong != "error"
        return apply_policy(rows, max_tokens=self.data.max_tokens, drop=drop)


def prepare_stream(
    data: InstructionData,
    *,
    processor: Processor,
    renderer: PageRenderer,
    cache: Path,
    label: str,
) -> Streamed:
    """Read, check and tokenise, or take from the cache what is there.

    Args:
        label: Stands before the progress bar.

    Raises:
        ValueError: If a file is missing or cannot be read, or the model cannot read its images.
    """
    if processor.image_processor is not None:
        least, most = renderer.spec.areas_px
        processor.require_page_area(min_pixels=least, max_pixels=most)
    folder = find_in_cache(cache, _fingerprint(data, processor, renderer))
    shards = _find_shards(folder) or _make_shards(
        data, folder, processor=processor, renderer=renderer, cache=cache, label=label
    )
    touch(folder)
    return _look_over(data, shards)


def _find_shards(folder: Path) -> list[Shard] | None:
    """All shards, if all are there and good."""
    try:
        num = json.loads((folder / _INDEX_FILE).read_text(encoding="utf-8"))["num_shards"]
    except (OSError, ValueError, KeyError):
        return None
    shards = [Shard(folder, number) for number in range(num)]
    return shards if all(shard.is_whole() for shard in shards) else None


def _make_shards(
    data: InstructionData,
    folder: Path,
    *,
    processor: Processor,
    renderer: PageRenderer,
    cache: Path,
    label: str,
) -> list[Shard]:
    """Make those that are not there; samples are read anew, which takes less time."""
    from datasets.utils import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    with (
        Tokenisers(processor, renderer) as tokenisers,
        tqdm(desc=label, unit=" samples") as bar,
    ):
        for samples in _cut(data.samples(cache=cache)):
            shard = Shard(folder, len(shards))
            if not shard.is_whole():
                tokenisers.write(shard, samples)
            shards.append(shard)
            bar.update(len(samples))
    index = json.dumps({"num_shards": len(shards)})
    write_atomically(folder / _INDEX_FILE, index.encode())
    return shards


def _cut(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    while chunk := list(islice(samples, SAMPLES_PER_SHARD)):
        yield chunk


def _look_over(data: InstructionData, shards: Sequence[Shard]) -> Streamed:
    """Everything that takes all samples: the list of problems, and who is related."""
    from datasets import Dataset, concatenate_datasets

    if not shards:
        names = ", ".join(path.name for path in data.files())
        raise ValueError(f"{names} holds no sample; correct the path or add samples")
    ledger, num_read, tables = Ledger(data.on_problem), 0, []
    for shard in shards:
        facts = shard.facts()
        num_read += facts.num_read
        for id_, found in facts.findings:
            ledger.report(
                found.code, id=id_, file=found.file, line=found.line, message=found.message
            )
        tables.append(shard.rows())
    rows: Dataset = concatenate_datasets(tables)
    census = _take_census(rows)
    _report_relatives(census, rows, ledger, has_labels=bool(data.labels))
    kept = [place for place, id_ in enumerate(census.ids) if ledger.keeps(id_)]
    reading = ledger.close_counted(num_read=num_read, num_kept=len(kept))
    return Streamed(reading=reading, rows=rows, kept=kept, census=census, data=data)


def _take_census(rows: Any) -> Census:
    names: dict[bytes, int] = {}
    return Census(
        ids=column(rows, "id"),
        numbers=np.array(column(rows, "number"), dtype=np.int64),
        lengths=np.array(column(rows, "num_tokens"), dtype=np.int64),
        labels=np.array(column(rows, "label"), dtype=np.int64),
        asked=[names.setdefault(asked, len(names)) for asked in column(rows, "asked")],
        twins=[names.setdefault(twin, len(names)) for twin in column(rows, "twin")],
        keys=[
            tuple(names.setdefault(key, len(names)) for key in keys)
            for keys in column(rows, "keys")
        ],
        # All keys have names by now; a beginning without one is no sample's whole prompt.
        beginnings=[
            tuple(names[key] for key in keys if key in names) for keys in column(rows, "beginnings")
        ],
    )


def _report_relatives(census: Census, rows: Any, ledger: Ledger, *, has_labels: bool) -> None:
    """Copies, and unlike answers to one prompt."""
    places_on_disk = rows.select_columns(["file", "line"])

    def report(code: str, place: int, message: str) -> None:
        ledger.report(code, id=census.ids[place], message=message, **places_on_disk[place])

    for first, second in census.copies():
        message = f"Sample {census.numbers[second]} repeats sample {census.numbers[first]}."
        report("duplicate", second, message)
    for places in census.disagreeing():
        numbers = ", ".join(str(census.numbers[place]) for place in places[:5])
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        message = f"Samples {numbers}{more} ask the same and are answered differently."
        if not has_labels:
            report("several_answers", places[0], message)
            continue
        for place in places:  # nothing tells which label is right
            report("conflicting_labels", place, message)


def _fingerprint(data: InstructionData, processor: Processor, renderer: PageRenderer) -> str:
    """Digest of everything that shapes the rows: data, tokenizer, image sizes, code."""
    settled_later = {field.name for field in dataclasses.fields(DataSpec)}
    settings = {
        field.name: getattr(data, field.name)
        for field in dataclasses.fields(data)
        if field.name not in settled_later
    }
    image_processor = processor.image_processor
    digest = hashlib.sha256()
    for part in (
        type(data).__qualname__,
        settings,
        data.choice_seed(),  # any other seed only splits, which is done anew each time
        dataclasses.replace(renderer.spec, save_dir=None),
        processor.tokenizer.chat_template,
        None if image_processor is None else image_processor.size,
        processor.tokenizer_digest,
        *map(version, SHAPING_PACKAGES),
    ):
        digest.update(repr(part).encode())
    for path in data.files():
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    for module in shaping_modules("corpus/instructions"):
        digest.update(module.read_bytes())
    return digest.hexdigest()
