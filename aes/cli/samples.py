"""The stages before training: settings to checked, tokenised samples.

Wiring only; nothing is written to disk but the cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aes.cli.settings import Settings
from aes.corpus import Reading, Split
from aes.corpus.instructions import InstructionData
from aes.files import write_atomically
from aes.report.check_table import print_check

if TYPE_CHECKING:
    from aes.data.prepared import Prepared
    from aes.data.processor import Processor
    from aes.data.stream import Streamed
    from aes.page import PageRenderer
    from aes.prompt.build import ExampleBuilder
    from aes.records import Essay

CHECK_FILE = "check.json"
SPLIT_FILE = "split.json"
"""Ids of the source essays in each part of a run."""


@dataclass(frozen=True)
class Samples:
    """The tokenised splits, and what draws and reads their pages."""

    reading: Reading
    renderer: PageRenderer
    processor: Processor
    train: Prepared
    val: Prepared
    test: Prepared
    num_left_out: int
    """Training samples beyond ``data.max_samples``."""

    @property
    def parts(self) -> dict[str, Prepared]:
        """The splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class Material:
    """Checked essays, and what is needed to make samples of them."""

    reading: Reading
    builder: ExampleBuilder
    processor: Processor


def prepare_samples(settings: Settings, console: Console) -> Samples:
    """Read, check, split and tokenise the data.

    Raises:
        ValueError: If the data stops the run, or leaves nothing to train on.
    """
    if isinstance(settings.data, InstructionData):
        return _prepare_texts(settings, settings.data, console)
    material, split = read_and_split(settings, console, weights=not settings.check_only)
    parts = {
        label: tokenise(settings, material, essays, label=label)
        for label, essays in (("train", split.train), ("val", split.val), ("test", split.test))
    }
    return Samples(
        material.reading,
        material.builder.renderer,
        material.processor,
        **parts,
        num_left_out=split.num_left_out,
    )


def _prepare_texts(settings: Settings, data: InstructionData, console: Console) -> Samples:
    """Samples whose answers are texts: they are tokenised as they are read, and then split."""
    streamed, renderer, processor = read_texts(
        settings, data, console, weights=not settings.check_only
    )
    parts = streamed.split(seed=settings.seed)
    return Samples(
        streamed.reading,
        renderer,
        processor,
        train=parts.train,
        val=parts.val,
        test=parts.test,
        num_left_out=parts.num_left_out,
    )


def read_texts(
    settings: Settings, data: InstructionData, console: Console, *, weights: bool
) -> tuple[Streamed, PageRenderer, Processor]:
    """Read, check and tokenise instruction data; with what draws and reads its images.

    Args:
        weights: See ``read_and_split``.

    Raises:
        ValueError: If the data stops the run.
    """
    from aes.data.stream import prepare_stream
    from aes.page import PageRenderer

    renderer = PageRenderer(settings.page)
    processor = make_processor(settings, weights=weights)
    streamed = prepare_stream(
        data, processor=processor, renderer=renderer, cache=settings.cache, label="preparing"
    )
    _show_check(console, streamed.reading, has_run=not settings.check_only, what="samples")
    return streamed, renderer, processor


def read_and_split(
    settings: Settings, console: Console, *, weights: bool, feedback: bool | None = None
) -> tuple[Material, Split]:
    """Read, check and split the data.

    Args:
        feedback: See ``ExampleBuilder``.
        weights: Whether the model's weights will be needed, and may be fetched.

    Raises:
        ValueError: If the data stops the run, or leaves nothing to train on.
    """
    builder = make_builder(settings, feedback=feedback)
    reading = settings.corpus.read(
        find_undrawable=builder.renderer.missing_characters,
        open_page=builder.renderer.open,
        ranges=settings.essay_rubric.ranges,
    )
    try:
        split = settings.corpus.split(reading.essays, seed=settings.seed)
    except ValueError:
        _show_check(console, reading, has_run=False)
        raise
    _show_check(console, reading, has_run=not settings.check_only)
    return Material(reading, builder, make_processor(settings, weights=weights)), split


def make_builder(settings: Settings, *, feedback: bool | None = None) -> ExampleBuilder:
    """Builds Examples as the settings say; see there for ``feedback``."""
    from aes.prompt.build import ExampleBuilder

    return ExampleBuilder(
        rubric=settings.essay_rubric,
        prompt=settings.prompt,
        page=settings.page,
        seed=settings.seed,
        feedback=feedback,
    )


def make_processor(settings: Settings, *, weights: bool) -> Processor:
    """Tokenizer and image processor of the model.

    Raises:
        ValueError: If the model has none.
    """
    from aes.data.processor import Processor
    from aes.model.loading import tokenizer_folder

    return Processor(
        tokenizer_folder(settings.model, settings.cache, weights=weights),
        ranges=settings.rubric.ranges,
        min_pixels=settings.model.min_pixels,
        max_pixels=settings.model.max_pixels,
    )


def tokenise(
    settings: Settings, material: Material, essays: Sequence[Essay], *, label: str
) -> Prepared:
    """Samples of one part, those over the limit treated as asked.

    Raises:
        ValueError: If one is over the limit and that is an error.
    """
    from aes.data.prepare import prepare

    return prepare(
        essays,
        builder=material.builder,
        processor=material.processor,
        max_tokens=settings.data.max_tokens,
        on_overlong=settings.data.on_overlong,
        cache=settings.cache,
        label=f"preparing {label}",
    )


def _show_check(console: Console, reading: Reading, *, has_run: bool, what: str = "essays") -> None:
    """Print what is wrong with the data; all of it where no run will hold the full list.

    Raises:
        ValueError: If the data stops the run.
    """
    has_run = has_run and not reading.stops_run
    full_list = f"{CHECK_FILE} in the run lists all" if has_run else None
    print_check(console, reading.problems, reading.counts, full_list=full_list, what=what)
    if reading.stops_run:
        raise ValueError(
            f"the data has {len(reading.problems)} problems, listed above; mend them, or set "
            "data.on_problem=drop (leave out what is wrong) or keep"
        )


def describe_samples(samples: Samples) -> dict[str, str]:
    """A digest of each part: its samples in their order."""
    from aes.training.checkpoint.identity import samples_digest

    return {name: samples_digest(part) for name, part in samples.parts.items()}


def write_split(run_dir: Path, samples: Samples) -> None:
    """Keeps which source essays stand in which part."""
    sources = {name: sorted(set(part.column("source"))) for name, part in samples.parts.items()}
    content = json.dumps(sources, indent=1, ensure_ascii=False).encode()
    write_atomically(run_dir / SPLIT_FILE, content)
