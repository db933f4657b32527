"""Encoded examples to one batch of tensors, padded or packed, position ids included.

The model would build position ids itself, one token at a time and on the device; here it is done
in the loader's processes. Knows ids and grids; knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(mask),
        "position_ids": torch.from_numpy(positions),
        "image_grid_thw": _all_grids(encoded),
    }


def pack(encoded: Sequence[Encoded], *, image_token: int) -> dict[str, Tensor]:
    """Whole sequences end to end in one row; none may see another.

    Returns:
        ``input_ids``, int64 ``[1, N]``; ``position_ids``, int64 ``[4, 1, N]``: places within each
        sample, by whose restarts transformers knows the samples, and time, height and width;
        ``sequence_lengths``, int64 ``[samples]``; ``image_grid_thw``, int64 ``[pages, 3]``.
    """
    rows = [
        np.concatenate(
            [
                np.arange(len(e.input_ids))[None],
                position_ids(e.input_ids, e.grids, image_token=image_token),
            ]
        )
        for e in encoded
    ]
    return {
        "input_ids": torch.tensor([token for e in encoded for token in e.input_ids])[None],
        "position_ids": torch.from_numpy(np.concatenate(rows, axis=1))[:, None],
        "sequence_lengths": torch.tensor([len(e.input_ids) for e in encoded]),
        "image_grid_thw": _all_grids(encoded),
    }


def _all_grids(encoded: Sequence[Encoded]) -> Tensor:
    grids = [(1, h, w) for e in encoded for h, w in e.grids]
    return torch.tensor(grids, dtype=torch.int64).reshape(-1, 3)


class Collator:
    """Collates training items.

    Args:
        image_token: Id of the page placeholder.
        pad_token: Id that fills up.
        is_packed: Whether samples stand end to end instead.
    """

    def __init__(self, *, image_token: int, pad_token: int, is_packed: bool = False) -> None:
        self.image_token = image_token
        self.pad_token = pad_token
        self.is_packed = is_packed

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch of items as ``PageDataset`` gives them.

        Returns:
            What ``pad_prompts`` or ``pack`` gives; ``pixel_values``, float32 ``[patches, 1536]``;
            ``labels``, int64 like ``input_ids``: the token itself, or -100 where nothing is
            supervised, as all over a filler; ``steps`` alike: see ``Encoded.steps``;
            ``num_tokens``, those that are neither padding nor a filler's;
            ``num_supervised_in_step``, the supervised tokens of the whole global batch; where
            features are kept ``pages``, a list of ``SamplePages``, and patches of those alone that
            were drawn.
        """
        encoded: list[Encoded] = [item["encoded"] for item in items]
        targets = [
            _targets(e, counts=not item["is_filler"])
            for item, e in zip(items, encoded, strict=True)
        ]
        if self.is_packed:
            batch = pack(encoded, image_token=self.image_token)
        else:
            batch = pad_prompts(encoded, image_token=self.image_token, pad_token=self.pad_token)
        patches = [item["patches"] for item in items if len(item["patches"])]
        empty = np.zeros((0, 1536), np.float32)
        real = [len(e.input_ids) for i, e in zip(items, encoded, strict=True) if not i["is_filler"]]
        return batch | {
            "pixel_values": torch.from_numpy(np.concatenate(patches) if patches else empty),
            "labels": self._join([labels for labels, _ in targets], fill=IGNORED),
            "steps": self._join([steps for _, steps in targets], fill=FREE_STEP),
            "num_tokens": torch.tensor(sum(real)),
            "num_supervised_in_step": torch.tensor(items[0]["num_supervised_in_step"]),
            **_pages(items),
        }

    def _join(self, parts: Sequence[Tensor], *, fill: int) -> Tensor:
        """Samples side by side as the layout has it."""
        if self.is_packed:
            return torch.cat(list(parts))[None]
        return pad_sequence(list(parts), batch_first=True, padding_value=fill)


def _pages(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of the pages of each sample that has any, where features are kept."""
    pages = [item["pages"] for item in items if "pages" in item]
    return {"pages": pages} if pages else {}


def _targets(encoded: Encoded, *, counts: bool) -> tuple[Tensor, Tensor]:
    """Labels and steps of one sample, int64 ``[T]``."""
    labels = torch.tensor(encoded.input_ids)
    steps = torch.full_like(labels, FREE_STEP)
    if not counts:
        return torch.full_like(labels, IGNORED), steps
    is_learned = torch.arange(len(labels)) >= encoded.num_prompt
    for start, end in encoded.turns:
        is_learned[start:end] = True
    labels[~is_learned] = IGNORED
    steps[encoded.num_prompt :] = torch.tensor(encoded.steps)
    return labels, steps
