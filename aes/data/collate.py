"""Encoded examples to one padded batch of tensors, position ids included.

The model would build position ids itself, one token at a time and on the device; here it is done
in the loader's processes. Knows ids and grids; knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aes.data.processor import FREE_STEP, Encoded

IGNORED = -100
"""Label of tokens that are not supervised."""


def position_ids(
    input_ids: Sequence[int], grids: Sequence[tuple[int, int]], *, image_token: int
) -> np.ndarray:
    """Multimodal rotary positions of one sequence.

    Text counts on by one in all three rows. A page keeps the time row constant, counts its rows
    and columns of tokens in the other two, and the text after it goes on behind its longer side.

    Args:
        grids: Height and width of each page in patches of 16 px.

    Returns:
        Time, height and width positions, int64 ``[3, T]``.
    Source: Qwen3-VL, ``get_rope_index`` of transformers, to which it is tested equal.
    """
    ids = np.asarray(input_ids)
    out = np.zeros((3, len(ids)), dtype=np.int64)
    start, at = 0, 0  # next position, next token
    for height, width in grids:
        rows, columns = height // 2, width // 2
        first = at + int(np.argmax(ids[at:] == image_token))
        out[:, at:first] = start + np.arange(first - at)
        start += first - at
        last = first + rows * columns
        out[0, first:last] = start
        out[1, first:last] = start + np.repeat(np.arange(rows), columns)
        out[2, first:last] = start + np.tile(np.arange(columns), rows)
        start += max(rows, columns)
        at = last
    out[:, at:] = start + np.arange(len(ids) - at)
    return out


def pad_prompts(
    encoded: Sequence[Encoded], *, image_token: int, pad_token: int
) -> dict[str, Tensor]:
    """Whole sequences as a batch, padded on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 ``[B, T]``; ``position_ids``, int64
        ``[3, B, T]``; ``image_grid_thw``, int64 ``[pages, 3]``.
    """
    length = max(len(e.input_ids) for e in encoded)
    input_ids = np.full((len(encoded), length), pad_token, dtype=np.int64)
    mask = np.zeros((len(encoded), length), dtype=np.int64)
    positions = np.zeros((3, len(encoded), length), dtype=np.int64)
    for i, e in enumerate(encoded):
        n = len(e.input_ids)
        input_ids[i, :n] = e.input_ids
        mask[i, :n] = 1
        positions[:, i, :n] = position_ids(e.input_ids, e.grids, image_token=image_token)
    grids = [(1, h, w) for e in encoded for h, w in e.grids]
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(mask),
        "position_ids": torch.from_numpy(positions),
        "image_grid_thw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
    }


class Collator:
    """Collates training items.

    Args:
        image_token: Id of the page placeholder.
        pad_token: Id that fills up.
    """

    def __init__(self, *, image_token: int, pad_token: int) -> None:
        self.image_token = image_token
        self.pad_token = pad_token

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Batch of items as ``PageDataset`` gives them.

        Returns:
            What ``pad_prompts`` gives, and ``pixel_values``, float32 ``[patches, 1536]``;
            ``labels``, int64 ``[B, T]``: the token itself, or -100 where nothing is supervised;
            ``steps``, int64 ``[B, T]``: see ``Encoded.steps``; ``num_supervised_in_step``, the
            supervised tokens of the whole global batch.
        """
        encoded: list[Encoded] = [item["encoded"] for item in items]
        batch = pad_prompts(encoded, image_token=self.image_token, pad_token=self.pad_token)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        steps = torch.full_like(labels, FREE_STEP)
        for i, e in enumerate(encoded):
            n = len(e.input_ids)
            labels[i, e.num_prompt : n] = batch["input_ids"][i, e.num_prompt : n]
            steps[i, e.num_prompt : n] = torch.tensor(e.steps)
        patches = [item["patches"] for item in items if len(item["patches"])]
        empty = np.zeros((0, 1536), np.float32)
        return batch | {
            "pixel_values": torch.from_numpy(np.concatenate(patches) if patches else empty),
            "labels": labels,
            "steps": steps,
            "num_supervised_in_step": torch.tensor(items[0]["num_supervised_in_step"]),
        }
