"""The job's shape -> random samples, and micro-batches of them as the collator makes them.

Knows no tokenizer, no page and no model: ids and patches are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from training.geometry import Geometry

IGNORED = -100
Batching = Literal["shuffled", "sorted", "packed"]


@dataclass(frozen=True)
class Sample:
    """One sample: a page in front, then its question, then the answer.

    Attributes:
        input_ids: int64 ``[T]``.
        labels: The same where the answer stands, else -100.
        position_ids: Time, height and width, int64 ``[3, T]``.
        patches: float32 ``[4 * page tokens, 1536]``.
        grid: 1, and the page's rows and columns of patches, int64 ``[3]``.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    patches: Tensor
    grid: Tensor


def draw_samples(geometry: Geometry) -> list[Sample]:
    """The samples of one step, in no order of length; their mean length is the job's."""
    job = geometry.job
    generator = torch.Generator().manual_seed(2)
    num = job.samples_per_step
    # Evenly from shortest to longest, so that the mean is exact; then shuffled.
    reach = [job.spread * (2 * i / (num - 1) - 1) for i in range(num)]
    order = torch.randperm(num, generator=generator).tolist()
    return [_draw_sample(geometry, reach[i], generator) for i in order]


def _draw_sample(geometry: Geometry, reach: float, generator: torch.Generator) -> Sample:
    job = geometry.job
    rows, columns = job.page
    num_image = rows * columns
    extra = round(job.num_supervised * reach)
    length, num_answer = job.num_tokens + extra, job.num_supervised + extra
    ids = torch.randint(0, geometry.image_token - 12, (length,), generator=generator)
    first = 4  # the user's turn begins, then the page
    ids[first : first + num_image] = geometry.image_token
    labels = ids.clone()
    labels[: length - num_answer] = IGNORED
    patches = torch.randn(4 * num_image, 1536, generator=generator)
    return Sample(
        input_ids=ids,
        labels=labels,
        position_ids=position_ids(length, first, rows, columns),
        patches=patches,
        grid=torch.tensor([1, 2 * rows, 2 * columns]),
    )


def position_ids(length: int, first: int, rows: int, columns: int) -> Tensor:
    """Multimodal rotary positions of a sequence with a page of tokens from ``first`` on.

    Returns:
        int64 ``[3, length]``, equal to ``aes.data.collate.position_ids``.
    """
    out = torch.arange(length).repeat(3, 1)
    last = first + rows * columns
    out[0, first:last] = first
    out[1, first:last] = first + torch.arange(rows).repeat_interleave(columns)
    out[2, first:last] = first + torch.arange(columns).repeat(rows)
    out[:, last:] += max(rows, columns) - rows * columns
    return out


def cut(samples: Sequence[Sample], micro_batch: int, batching: Batching) -> list[dict[str, Tensor]]:
    """Micro-batches of a step: in the given order, or of like length, padded or end to end."""
    if batching != "shuffled":
        samples = sorted(samples, key=lambda sample: len(sample.input_ids))
    join = pack if batching == "packed" else pad_up
    return [join(samples[i : i + micro_batch]) for i in range(0, len(samples), micro_batch)]


def pad_up(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """As ``aes.data.collate.Collator`` does it: filled up on the right."""
    lengths = [len(sample.input_ids) for sample in samples]

    def stack(name: str, value: int) -> Tensor:
        rows = [
            pad(getattr(s, name), (0, max(lengths) - n), value=value)
            for s, n in zip(samples, lengths, strict=True)
        ]
        return torch.stack(rows, dim=-2)

    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {
        "input_ids": stack("input_ids", 0),
        "labels": stack("labels", IGNORED),
        "attention_mask": mask.long(),
        "position_ids": stack("position_ids", 0),
        **_pages(samples),
    }


def pack(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """End to end in one row; the first of four rows of positions restarts with each sample."""
    lengths = [len(sample.input_ids) for sample in samples]
    counts = torch.cat([torch.arange(n) for n in lengths])
    positions = torch.cat([sample.position_ids for sample in samples], dim=1)
    return {
        "input_ids": torch.cat([sample.input_ids for sample in samples])[None],
        "labels": torch.cat([sample.labels for sample in samples])[None],
        "position_ids": torch.cat([counts[None], positions])[:, None],
        "sequence_lengths": torch.tensor(lengths),
        **_pages(samples),
    }


def _pages(samples: Sequence[Sample]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.cat([sample.patches for sample in samples]),
        "image_grid_thw": torch.stack([sample.grid for sample in samples]),
    }


def move(value: Any, device: torch.device) -> Any:
    """A batch, or tensors in tuples, on the device; lengths stay, for they are read on the host."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [move(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return {
        name: part if name == "sequence_lengths" else move(part, device)
        for name, part in value.items()
    }
