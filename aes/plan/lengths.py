"""Columns of a tokenised split -> what its samples look like, in a few numbers.

Knows numbers only: no text, no tokenizer, no page. Padding is counted in the sampler's own order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aes.data import BatchingSpec
from aes.data.prepared import Prepared
from aes.data.sampler import StepSampler


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of one split's samples, a tuple entry each, all tuples alike in length.

    Attributes:
        ids: Samples' ids, to name the longest.
        num_tokens: All tokens of a sample: image, prompt, answer.
        num_image_tokens: Those of its pages; 0 for text alone.
        num_supervised: Those of its answer, on which the loss is taken.
        num_pages: Its page images.
    """

    ids: tuple[str, ...]
    num_tokens: tuple[int, ...]
    num_image_tokens: tuple[int, ...]
    num_supervised: tuple[int, ...]
    num_pages: tuple[int, ...]

    def __post_init__(self) -> None:
        columns = (self.num_tokens, self.num_image_tokens, self.num_supervised, self.num_pages)
        assert all(len(column) == len(self.ids) for column in columns), "columns differ in length"

    @classmethod
    def of(cls, prepared: Prepared) -> Lengths:
        """Lengths of a tokenised split."""
        return cls(
            ids=tuple(prepared.column("id")),
            num_tokens=tuple(prepared.column("num_tokens")),
            num_image_tokens=tuple(prepared.column("num_image_tokens")),
            num_supervised=tuple(prepared.column("num_supervised")),
            num_pages=tuple(prepared.column("num_pages")),
        )

    @property
    def num_examples(self) -> int:
        """Samples of the split."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class MeasuredData:
    """A data set as it goes into training, after anything was dropped or shrunk.

    Attributes:
        essays: Counts of essays by what became of them: ``read``, ``kept``, ``shrunk``.
        dropped: Essays left out, by reason.
        overlong: Training samples left out for their length, with their tokens at full size.
        glyph_px: Least and greatest height of a glyph; ``None`` where no page is drawn.
        max_tokens: Limit of a sample.
        unit: What was read: ``essays`` or ``records``.
    """

    train: Lengths
    validation: Lengths
    test: Lengths
    essays: Mapping[str, int]
    dropped: Mapping[str, int]
    overlong: Mapping[str, int]
    glyph_px: tuple[float, float] | None
    max_tokens: int
    unit: str = "essays"


@dataclass(frozen=True, kw_only=True)
class LengthSummary:
    """A split in numbers; all 0 for an empty one.

    Attributes:
        mean_page_tokens: Image tokens a page.
        max_page_tokens: The same in the sample whose pages are largest on average.
        p95_tokens: 19 of 20 samples are no longer than this.
        longest_id: Id of the longest sample.
        max_prompt_tokens: Most tokens before the answer.
        padding_share: Share of padding in micro-batches, in ``[0, 1)``.
    """

    num_examples: int
    num_pages: int
    mean_page_tokens: float
    max_page_tokens: float
    mean_tokens: float
    p95_tokens: int
    max_tokens: int
    longest_id: str
    max_image_tokens: int
    mean_supervised: float
    max_supervised: int
    max_prompt_tokens: int
    padding_share: float


def summarise(
    lengths: Lengths,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    batching: BatchingSpec,
    num_ranks: int = 1,
) -> LengthSummary:
    """Boil a split down to the numbers of a plan."""
    sampler = plan_epoch(
        lengths,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        batching=batching,
        num_ranks=num_ranks,
    )
    tokens = lengths.num_tokens
    num, pages = lengths.num_examples, sum(lengths.num_pages)
    of_pages = [
        i / p for i, p in zip(lengths.num_image_tokens, lengths.num_pages, strict=True) if p
    ]
    prompts = [t - s for t, s in zip(tokens, lengths.num_supervised, strict=True)]
    longest = max(tokens, default=0)
    return LengthSummary(
        num_examples=num,
        num_pages=pages,
        mean_page_tokens=sum(lengths.num_image_tokens) / pages if pages else 0.0,
        max_page_tokens=max(of_pages, default=0.0),
        mean_tokens=sum(tokens) / num if num else 0.0,
        p95_tokens=sorted(tokens)[math.ceil(0.95 * num) - 1] if num else 0,
        max_tokens=longest,
        longest_id=lengths.ids[tokens.index(longest)] if num else "",
        max_image_tokens=max(lengths.num_image_tokens, default=0),
        mean_supervised=sum(lengths.num_supervised) / num if num else 0.0,
        max_supervised=max(lengths.num_supervised, default=0),
        max_prompt_tokens=max(prompts, default=0),
        padding_share=_padding_share(sampler),
    )


def plan_epoch(
    lengths: Lengths,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    batching: BatchingSpec,
    num_ranks: int,
) -> StepSampler:
    """An epoch as training plans it; other seeds and epochs differ little."""
    return StepSampler(
        lengths=lengths.num_tokens,
        num_supervised=lengths.num_supervised,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        batching=batching,
        seed=0,
        num_ranks=num_ranks,
    )


def _padding_share(sampler: StepSampler) -> float:
    """Of one epoch over all ranks."""
    cells = [
        sampler.lengths[cell].tolist()
        for step in sampler.steps()
        for micro_batch in sampler.cells(step)
        for cell in micro_batch
    ]
    padded = sum(map(sampler.cutter.num_tokens, cells))
    return 1 - sum(map(sum, cells)) / padded if padded else 0.0
