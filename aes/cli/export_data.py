"""``python -m aes.export data=... --out DIR``: settings to a data set for other trainers.

Reads, checks, splits and tokenises as ``train.py`` does, so what is left out there is left out
here, and no sample is longer than a training would take. Needs neither hardware nor weights.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import RunMode
from rich.console import Console
from rich.text import Text

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.entry import quote_value
from aes.cli.run_directory import require_cache
from aes.cli.samples import CHECK_FILE, Samples, prepare_samples
from aes.cli.settings import Settings, bind_settings
from aes.cli.source import CONFIG_DIR, Source
from aes.cli.validate import check_combination
from aes.corpus import Reading, write_check
from aes.corpus.instructions import InstructionData

if TYPE_CHECKING:
    from aes.data.prepared import Prepared
    from aes.export.dataset import DatasetWriter
    from aes.records import Example

_NAME = "aes"


def run(overrides: Sequence[str], out: Path) -> int:
    """Write the data that these settings name.

    Args:
        overrides: As for ``train.py``: data, page, rubric, prompt and model shape the result.
        out: Must not exist, or be empty.

    Returns:
        Exit status 0.

    Raises:
        ValueError: For every mistake of the user's, and where the data stops the run.
    """
    from aes.export.folder import require_free, written_aside

    out = out.expanduser().absolute()
    require_free(out)
    settings = compose_settings(overrides)
    require_cache(settings.cache)
    console = Console()
    samples = prepare_samples(settings, console)
    _refuse_overlong(settings, samples)
    with written_aside(out) as folder:
        writer = _write(samples, folder)
        if not any(part.num_samples for part in writer.parts.values()):
            raise ValueError("no sample has an answer, so there is nothing to learn from")
        longest = max(max(p.column("num_tokens"), default=0) for p in samples.parts.values())
        writer.close(template=_template(settings), max_tokens=longest)
        write_check(without_folders(samples.reading, settings), folder / CHECK_FILE)
    _tell(writer, samples, out, console)
    return 0


def compose_settings(overrides: Sequence[str]) -> Settings:
    """Settings of a training that is only planned.

    Raises:
        ValueError: If they cannot be understood, contradict each other or ask for a sweep.
    """
    quoted = (*map(quote_value, overrides), "check_only=true")
    source = Source(config_dir=CONFIG_DIR, config_name="train", overrides=quoted)
    config = compose(source)
    if config.hydra.mode == RunMode.MULTIRUN:
        raise ValueError("a data set is written once; leave the sweep out")
    settings = bind_settings(resolve(without_hydra(config), config.hydra, source))
    check_combination(settings)
    return settings


def _refuse_overlong(settings: Settings, samples: Samples) -> None:
    for name, part in samples.parts.items():
        left = part.overlong.keys() - part.shrunk.keys() - set(part.dropped)
        if left:
            raise ValueError(
                f"{len(left)} samples of {name} have more than data.max_tokens="
                f"{settings.data.max_tokens}; raise it, or set data.on_overlong=drop or shrink"
            )


def _write(samples: Samples, folder: Path) -> DatasetWriter:
    from aes.export.dataset import DatasetWriter
    from aes.inference.progress import progress_bar

    parts = samples.parts
    writer = DatasetWriter(
        folder,
        name=_NAME,
        has_images=any(any(part.column("num_pages")) for part in parts.values()),
        renderer=samples.renderer,
        processor=samples.processor,
    )
    with progress_bar("writing", sum(len(part.rows) for part in parts.values())) as advance:
        for name, part in parts.items():
            writer.write(name, _examples(part, advance))
    return writer


def _examples(part: Prepared, advance: Any) -> Iterator[Example]:
    """One by one, as they lie on the disk."""
    for row in part.rows.select_columns(["example"]):
        yield pickle.loads(row["example"])
        advance()


def without_folders(reading: Reading, settings: Settings) -> Reading:
    """The problems with the names of files alone: the folder is for others, the paths are not."""
    data = settings.data
    named = [value for value in vars(data).values() if isinstance(value, Path)]
    if isinstance(data, InstructionData):
        named += data.files()
    named = [path.expanduser() for path in (*named, settings.cache)]
    absolute = [found for path in named for found in (path.absolute(), path.resolve())]
    folders = {path if path.is_dir() else path.parent for path in absolute}
    folders |= {Path.cwd(), Path.home()}
    # The longest first, so that what is left of a path counts from the nearest.
    prefixes = sorted((f"{folder}/" for folder in folders if folder.name), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, prefixes)))
    problems = tuple(
        replace(one, message=pattern.sub("", one.message), file=pattern.sub("", one.file))
        for one in reading.problems
    )
    return replace(reading, problems=problems)


def _template(settings: Settings) -> str:
    """LLaMA-Factory's name of the chat format."""
    return "qwen3_nothink" if settings.model.reads_text_alone else "qwen3_vl_nothink"


def _tell(writer: DatasetWriter, samples: Samples, out: Path, console: Console) -> None:
    from aes.export.dataset import REGISTRY_FILE, SETTINGS_FILE

    lines = []
    for name, part in writer.parts.items():
        if part.num_samples:
            images = f", {part.num_images:,} images" if part.num_images else ""
            lines.append(f"{_NAME}_{name}: {part.num_samples:,} samples{images}")
    left_out = {
        "longer than data.max_tokens": sum(len(p.dropped) for p in samples.parts.values()),
        "beyond data.max_samples": samples.num_left_out,
        "without an answer": sum(p.num_unanswered for p in writer.parts.values()),
    }
    lines += [f"left out: {number:,} {why}" for why, number in left_out.items() if number]
    broken = sum(part.num_broken_marks for part in writer.parts.values())
    if broken:
        lines.append(f"{broken:,} marks such as <image> in texts got a space, to be read as text")
    lines.append(f"{out}: {REGISTRY_FILE} names the parts, {SETTINGS_FILE} what keeps them whole")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
