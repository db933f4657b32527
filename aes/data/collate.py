"""Encoded examples to one batch of tensors, padded or packed, position ids included.

The model would build position ids itself, one token at a time and on the device; here it is done
in the loader's processes. Scores may be branched: the digits that the gold answer does not take are
read beside it in the same pass. Knows ids and grids; knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from aes.data.guide import ScoreGuide
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
    labels[: encoded.num_prompt] = IGNORED
    steps[encoded.num_prompt :] = torch.tensor(encoded.steps)
    return labels, steps


@dataclass
class _Branches:
    """Of one sample: tokens beside its answer, and where each node of a score's tree is read.

    Attributes:
        tokens: Digits that the answer does not take.
        parents: Place of the token before each of them, itself a branch or in the answer.
        places: ``node_places`` of ``add_branches``; ``steps`` and ``gold`` likewise.
    """

    places: Tensor
    steps: Tensor
    gold: Tensor
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)


def add_branches(batch: Mapping[str, Tensor], guide: ScoreGuide) -> dict[str, Tensor]:
    """A batch in which the distribution over all valid scores of every trait can be read.

    After ``1`` of a gold 15 the model says how likely 12 is, but not what it would write after a
    ``2``. So the digits that gold does not take stand behind the sequence, at the positions that
    they would have at the score's place; each sees what its parent sees, and itself, and nobody
    else sees it. What the model makes of the sequence stays as it was.

    Args:
        batch: As ``Collator`` gives it, on any device.

    Returns:
        The batch, T grown by the branches, with ``branch_mask``, bool ``[B, 1, T, T]``: who (row)
        sees whom; ``node_places``, int64 ``[B, traits, nodes]``: the token after which the choice
        at a node of ``ScoreGuide.nodes`` is read; ``node_steps`` alike: its row of
        ``ScoreGuide.table``; ``gold_scores``, int64 ``[B, traits]``, counted from the trait's
        lowest. The last three are -1 where there is none. ``score_paths``: ``ScoreGuide.paths``.
    """
    device, length = batch["input_ids"].device, batch["input_ids"].shape[1]
    found = [_grow(steps, guide, length) for steps in batch["steps"].tolist()]
    tokens, roots, depths, inner = (part.to(device) for part in _lay_out(found, length))
    num = tokens.shape[1]
    sequence = batch["attention_mask"].bool()[:, None].repeat(1, length, 1).tril()
    outer = torch.arange(length, device=device) <= roots[..., None]
    at_root = roots.clamp(min=0).expand(3, -1, -1)
    return {
        **batch,
        "input_ids": torch.cat([batch["input_ids"], tokens], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], (roots >= 0).long()], dim=1),
        "position_ids": torch.cat(
            [batch["position_ids"], batch["position_ids"].gather(2, at_root) + depths], dim=2
        ),
        "labels": pad(batch["labels"], (0, num), value=IGNORED),
        "steps": pad(batch["steps"], (0, num), value=FREE_STEP),
        "branch_mask": torch.cat(
            [pad(sequence, (0, num)), torch.cat([outer, inner], dim=2)], dim=1
        )[:, None],
        "node_places": torch.stack([branches.places for branches in found]).to(device),
        "node_steps": torch.stack([branches.steps for branches in found]).to(device),
        "gold_scores": torch.stack([branches.gold for branches in found]).to(device),
        "score_paths": guide.paths.to(device),
    }


def _lay_out(found: Sequence[_Branches], length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Branches side by side, filled up with tokens that see themselves alone.

    Returns:
        Tokens; place of the last token of the sequence that each sees, or -1; digits from there
        to it, all int64 ``[B, K]``; which branches each sees, bool ``[B, K, K]``.
    """
    shape = len(found), max(len(branches.tokens) for branches in found)
    tokens, depths = torch.zeros(2, *shape, dtype=torch.int64)
    roots = torch.full(shape, -1)
    # A token that saw nothing would be NaN, and its gradient too.
    inner = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1)
    for b, branches in enumerate(found):
        for k, (token, parent) in enumerate(zip(branches.tokens, branches.parents, strict=True)):
            tokens[b, k], roots[b, k], depths[b, k] = token, parent, 1
            if parent >= length:
                up = parent - length
                roots[b, k], depths[b, k] = roots[b, up], depths[b, up] + 1
                inner[b, k] |= inner[b, up]
    return tokens, roots, depths, inner


def _grow(steps: Sequence[int], guide: ScoreGuide, length: int) -> _Branches:
    """The branches of one sample, whose first stands at place ``length``."""
    starts: dict[str, int] = {}
    written: dict[str, tuple[bool, str]] = {}
    for at, step in enumerate(steps):
        if step >= 0:
            name, feedback, digits = guide.place(step)
            starts.setdefault(name, at)
            written[name] = feedback, digits  # the last step of a score is behind its last digit
    shape = len(guide.ranges), max(map(len, guide.nodes.values()))
    places, rows = torch.full(shape, -1), torch.full(shape, -1)
    branches = _Branches(places, rows, gold=torch.full(shape[:1], -1))
    for trait, (name, (low, _)) in enumerate(guide.ranges.items()):
        if name in written:
            feedback, score = written[name]
            at_node = _place_nodes(guide, name, score, starts[name], branches, length)
            for node, (prefix, place) in enumerate(at_node.items()):
                places[trait, node] = place
                rows[trait, node] = guide.step(name, prefix, feedback=feedback).index
            branches.gold[trait] = int(score) - low
    return branches


def _place_nodes(
    guide: ScoreGuide, name: str, score: str, start: int, branches: _Branches, length: int
) -> dict[str, int]:
    """Place of the last token before each node's choice; new tokens go into ``branches``."""
    at_node = {"": start - 1}
    for prefix in guide.nodes[name][1:]:
        if score.startswith(prefix):
            at_node[prefix] = start + len(prefix) - 1
        else:
            at_node[prefix] = length + len(branches.tokens)
            branches.tokens.append(guide.digits[prefix[-1]])
            branches.parents.append(at_node[prefix[:-1]])
    return at_node
