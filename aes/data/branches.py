"""A padded batch to one in which every valid score can be read, not only the gold one.

The digits that the gold answer does not take are read beside it in the same pass. Knows ids and
places; knows no text and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from aes.data.collate import IGNORED
from aes.data.guide import ScoreGuide
from aes.data.processor import FREE_STEP


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
