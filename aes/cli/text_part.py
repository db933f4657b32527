"""A run that learned from instruction data -> the samples of one of its parts. Wiring only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aes.cli.engines import needs_weights
from aes.cli.requests import Part, TrainedRun
from aes.cli.samples import SPLIT_FILE, read_texts
from aes.corpus.instructions import InstructionData
from aes.page import PageRenderer
from aes.records import Example

if TYPE_CHECKING:
    from aes.data.processor import Processor


@dataclass(frozen=True)
class SamplesOfPart:
    """The samples to be answered, and what is needed for it.

    Attributes:
        choices: Labels of which each answer is one; none where answers are free.
        dropped: Ids of samples that were left out as too long.
        num_seen: Samples among them that the run was trained on.
    """

    processor: Processor
    renderer: PageRenderer
    examples: tuple[Example, ...]
    choices: tuple[str, ...]
    dropped: tuple[str, ...]
    num_seen: int


def read_samples(run: TrainedRun, part: Part, console: Console) -> SamplesOfPart:
    """Reads the data and takes one part, as the run cut it.

    Raises:
        ValueError: If the data is not right, the part is empty, or the run was trained on some of
            what it was to hold out.
    """
    data = run.settings.data
    assert isinstance(data, InstructionData)
    streamed, renderer, processor = read_texts(
        run.settings, data, console, weights=needs_weights(run.settings)
    )
    if part == "all":
        prepared = streamed.whole()
    else:
        parts = streamed.split(seed=run.settings.seed)
        prepared = {"train": parts.train, "val": parts.val, "test": parts.test}[part]
    examples = tuple(prepared.examples())
    if not examples:
        raise ValueError(
            f"{run.path} holds no samples out for split={part}; choose another split=, or train "
            f"with data.{'val' if part == 'val' else 'test'}_fraction=0.2"
        )
    num_seen = count_seen(run.path, examples)
    if num_seen and part in ("val", "test"):
        raise ValueError(
            f"{run.path} was trained on {num_seen} of the {len(examples)} samples of split={part}: "
            "the data or the split is not what it was; use the same data with the same "
            "data.split_seed and fractions, or split=all for other data"
        )
    return SamplesOfPart(
        processor=processor,
        renderer=renderer,
        examples=examples,
        choices=data.labels,
        dropped=prepared.dropped,
        num_seen=num_seen,
    )


def require_comparable(
    other: TrainedRun, first: TrainedRun, part: SamplesOfPart, name: Part
) -> None:
    """Checks that another run may answer the first one's samples.

    Raises:
        ValueError: If it is of another kind, was asked otherwise, or was trained on them.
    """
    own, data = first.settings.data, other.settings.data
    assert isinstance(own, InstructionData)
    if not isinstance(data, InstructionData):
        raise ValueError(
            f"compare={other.path} grades essays, but {first.path} learned from instruction data; "
            "choose runs of one kind"
        )
    for key, values in {
        "labels": (own.labels, data.labels),
        "system prompt": (own.system_prompt(), data.system_prompt()),
        "question": (getattr(own, "question", None), getattr(data, "question", None)),
        "size of images": (_image_size(first, part), _image_size(other, part)),
    }.items():
        if values[0] != values[1]:
            raise ValueError(
                f"compare={other.path} was trained with another {key} than {first.path}, so it "
                "would not be asked as it was trained; evaluate it by itself"
            )
    num_seen = count_seen(other.path, part.examples)
    if num_seen and name in ("val", "test"):
        raise ValueError(
            f"compare={other.path} was trained on {num_seen} of the {len(part.examples)} samples "
            f"that {first.path} holds out; compare runs of one split"
        )


def _image_size(run: TrainedRun, part: SamplesOfPart) -> tuple[int | None, int | None]:
    """The largest, in pixels across and down; nothing where no sample has any."""
    page = run.settings.page
    has_images = any(example.pages for example in part.examples)
    return (page.width_px, page.max_height_px) if has_images else (None, None)


def count_seen(run_dir: Path, examples: Sequence[Example]) -> int:
    """How many of the samples a run was trained on, told by what they ask.

    Raises:
        ValueError: If the run does not say what it was trained on.
    """
    file = run_dir / SPLIT_FILE
    try:
        trained = set(json.loads(file.read_text(encoding="utf-8"))["train"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be read, so nobody knows what the run was trained on; restore it, or "
            "train again"
        ) from error
    return sum(example.source in trained for example in examples)
