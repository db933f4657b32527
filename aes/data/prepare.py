"""Essays to tokenised samples, in parallel, cached by a fingerprint of all that shapes them.

Every length is measured here, page tokens included, before anything is trained: a sample over the
limit is refused, dropped or set in smaller type, as asked, and counted. Pages are laid out, not
drawn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from aes.data.prepared import Prepared, apply_policy
from aes.data.processor import Encoded, Processor
from aes.files import prune, touch
from aes.page.font import font_path
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example, PdfPage

# Factors on type size and page height, tried in turn. Below half the reference's 20 px, strokes
# of dense characters run together.
_SHRINK_FACTORS = (0.9, 0.8, 0.7, 0.6, 0.5)
_COLUMNS = (
    *("id", "source", "example", "input_ids", "num_prompt", "steps", "turns", "grids"),
    "num_tokens",
    *("num_tokens_full_size", "num_image_tokens", "num_supervised", "num_pages", "glyph_px"),
)
SHAPING_PACKAGES = ("aes", "transformers", "tokenizers", "jinja2", "pillow", "pypdfium2")
_CACHE_BYTES = 4 * 2**30
_IN_USE_S, _KEPT_S = 24 * 3600.0, 30 * 24 * 3600.0
"""Bounds of the cache: other runs may be reading what was used within a day, and nothing is kept
that was not used for a month."""

_ESSAYS_PER_PROCESS = 200
"""Starting a process costs about a second; it pays from this many essays on."""


def prepare_essay(
    row: dict[str, Any],
    *,
    builder: ExampleBuilder,
    processor: Processor,
    max_tokens: int,
    on_overlong: Literal["error", "drop", "shrink"],
) -> dict[str, Any]:
    """One pickled essay to one row; ``num_tokens`` may stay over the limit."""
    essay: Essay = pickle.loads(row["essay"])
    fitted = fit_essay(
        essay,
        builder=builder,
        processor=processor,
        max_tokens=max_tokens,
        may_shrink=on_overlong == "shrink",
    )
    example, encoded = fitted.example, fitted.encoded
    return {
        "id": essay.id,
        "source": example.source,
        "example": pickle.dumps(example),
        "input_ids": encoded.input_ids,
        "num_prompt": encoded.num_prompt,
        "steps": encoded.steps,
        "turns": [list(turn) for turn in encoded.turns],
        "grids": [list(grid) for grid in encoded.grids],
        "num_tokens": len(encoded.input_ids),
        "num_tokens_full_size": fitted.num_tokens_full_size,
        "num_image_tokens": encoded.num_image_tokens,
        "num_supervised": encoded.num_supervised,
        "num_pages": len(encoded.grids),
        "glyph_px": fitted.glyph_px,
    }


@dataclass(frozen=True)
class FittedEssay:
    """An essay as an Example of at most so many tokens, where that could be had.

    Attributes:
        num_tokens_full_size: Tokens before it was set smaller.
        glyph_px: Type size; 0 where no type is set: of essays that came as images, and of text.
    """

    example: Example
    encoded: Encoded
    num_tokens_full_size: int
    glyph_px: int


def fit_essay(
    essay: Essay,
    *,
    builder: ExampleBuilder,
    processor: Processor,
    max_tokens: int,
    may_shrink: bool,
) -> FittedEssay:
    """The essay at full size or, if it may shrink, at the first size that fits the limit.

    An image file is opened at one size everywhere, so only typed essays can be set smaller.
    """
    example, encoded = _encode(essay, builder, processor)
    full_size, glyph_px = len(encoded.input_ids), 0 if essay.pages else builder.page.glyph_px or 0
    if may_shrink and not essay.pages:
        for factor in _SHRINK_FACTORS:
            if len(encoded.input_ids) <= max_tokens:
                break
            smaller = builder.shrunk(factor)
            example, encoded = _encode(essay, smaller, processor)
            glyph_px = smaller.page.glyph_px or 0
    return FittedEssay(example, encoded, full_size, glyph_px)


def _encode(essay: Essay, builder: ExampleBuilder, processor: Processor) -> tuple[Example, Encoded]:
    example = builder.build(essay)
    sizes = [builder.renderer.size(page) for page in example.pages]
    return example, processor.encode(example, sizes)


def prepare(
    essays: Sequence[Essay],
    *,
    builder: ExampleBuilder,
    processor: Processor,
    max_tokens: int,
    on_overlong: Literal["error", "drop", "shrink"],
    cache: Path,
    label: str,
) -> Prepared:
    """Tokenise ``essays``, or take them from the cache.

    Args:
        max_tokens: Limit of a whole sample: prompt, pages, answer and end.
        on_overlong: What happens to longer ones. With ``error`` they stay in, for the caller to
            report all of them at once.
        label: Stands before the progress bar.
    """
    from datasets import Dataset

    if not builder.page.reads_text_alone:
        least, most = builder.page.areas_px
        processor.require_page_area(min_pixels=least, max_pixels=most)
    if not essays:  # datasets gives a mapped data set without rows no columns either
        return apply_policy(
            Dataset.from_dict({name: [] for name in _COLUMNS}), max_tokens=max_tokens, drop=True
        )
    fingerprint = _fingerprint(essays, builder, processor, max_tokens, on_overlong)
    cached = find_in_cache(cache, fingerprint).with_suffix(".arrow")
    _remove_if_broken(cached)
    source = Dataset.from_dict({"essay": [pickle.dumps(essay) for essay in essays]})
    # datasets writes the cache aside and moves it into place when it is whole.
    rows = source.map(
        partial(
            prepare_essay,
            builder=builder,
            processor=processor,
            max_tokens=max_tokens,
            on_overlong=on_overlong,
        ),
        remove_columns=["essay"],
        num_proc=_num_processes(len(essays)),
        cache_file_name=str(cached),
        new_fingerprint=fingerprint[:32],
        load_from_cache_file=True,
        desc=label,
    )
    return apply_policy(rows, max_tokens=max_tokens, drop=on_overlong != "error")


def find_in_cache(cache: Path, fingerprint: str) -> Path:
    """Where samples of this fingerprint lie, or will; what nobody used for long makes room."""
    folder = cache / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{fingerprint}*"):  # several where several processes wrote
        touch(path)
    prune(folder, max_bytes=_CACHE_BYTES, min_idle_s=_IN_USE_S, max_idle_s=_KEPT_S)
    return folder / fingerprint


def _remove_if_broken(cached: Path) -> None:
    """A cache file that a full disk or a crash of the machine cut short is made again."""
    from datasets import Dataset

    if not cached.exists():
        return
    try:
        Dataset.from_file(str(cached))
    except (OSError, ValueError):  # pyarrow's errors are of these kinds
        cached.unlink()


def _num_processes(num_essays: int) -> int | None:
    wanted = min(os.cpu_count() or 1, num_essays // _ESSAYS_PER_PROCESS)
    return wanted if wanted > 1 else None


def _fingerprint(
    essays: Sequence[Essay],
    builder: ExampleBuilder,
    processor: Processor,
    max_tokens: int,
    on_overlong: str,
) -> str:
    """Digest of everything that shapes the rows: data, wording, rubric, type, tokenizer, code."""
    digest = hashlib.sha256()
    for part in (
        builder.rubric,
        builder.prompt,
        dataclasses.replace(builder.page, save_dir=None),
        builder.seed,
        max_tokens,
        on_overlong,
        processor.tokenizer.chat_template,
        None if processor.image_processor is None else processor.image_processor.size,
        processor.tokenizer_digest,
        *map(version, SHAPING_PACKAGES),
    ):
        digest.update(repr(part).encode())
    if builder.page.font is not None:
        digest.update(font_path(builder.page.font).read_bytes())  # widths decide lines and pages
    for module in shaping_modules():
        digest.update(module.read_bytes())
    for essay in essays:
        digest.update(repr(essay).encode())
        for page in essay.pages:
            status = (page.path if isinstance(page, PdfPage) else page).stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def shaping_modules(*others: str) -> list[Path]:
    """Our own sources that decide what a row holds; a change in them makes the cache stale.

    Args:
        others: Further packages, below ``aes``.
    """
    package = Path(__file__).parent.parent
    folders = [package / name for name in ("page", "prompt", "data", *others)]
    modules = [path for folder in folders for path in folder.glob("*.py")]
    return sorted([*modules, package / "records.py", package / "rubric.py"])
