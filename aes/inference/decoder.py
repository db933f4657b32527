"""Feeds tokens to the model behind a key-value cache, rows of unequal length side by side.

Bookkeeping only: masks, positions, branches that are looked at and forgotten, rows that leave.
What is fed is decided elsewhere. The mask is laid out here, which needs sdpa attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aes.data.collate import pad_prompts
from aes.data.processor import Encoded, Processor
from aes.kernels.forward import hidden_states


@dataclass(frozen=True)
class Branch:
    """A token that may come next: behind all that was fed, or behind another branch.

    Attributes:
        token: Its id.
        parent: Index of the branch before it in the same sequence; -1 for none.
    """

    token: int
    parent: int


class CachedRows:
    """A batch of sequences that grow together.

    Args:
        model: Transformers or PEFT model, in evaluation mode.
        processor: Gives the ids of placeholders and padding.
        encoded: Prompts.
        patches: Pixel patches of all their pages, in order, ``[patches, 1536]``.

    Attributes:
        states: Hidden states behind each row's last token, ``[B, hidden]``.
    """

    def __init__(
        self, model: Any, processor: Processor, encoded: Sequence[Encoded], patches: Tensor
    ) -> None:
        from transformers import DynamicCache

        self.model = model
        self.pad_token = processor.pad_token
        self.device = next(model.parameters()).device
        batch = pad_prompts(
            encoded, image_token=processor.image_token, pad_token=processor.pad_token
        )
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        batch["pixel_values"] = patches.to(self.device)
        self.cache = DynamicCache()
        self.mask = batch["attention_mask"].bool()
        self.next_position = batch["position_ids"].amax(dim=(0, 2)) + 1
        states = hidden_states(model, batch, cache=self.cache)
        rows = torch.arange(len(encoded), device=self.device)
        self.states: Tensor = states[rows, self.mask.sum(dim=1) - 1]

    def feed(self, tokens: Sequence[Sequence[int]], branches: Sequence[Branch] = ()) -> Tensor:
        """Append tokens to each row, at least one and not equally many, and look ahead.

        Args:
            branches: Looked at behind the tokens in every row, in the same pass, and forgotten.

        Returns:
            Hidden states behind each branch, ``[B, len(branches), hidden]``; those behind the
            rows' last tokens are in ``states``.
        """
        ids, new = self._pad(tokens)
        width, num_branches = ids.shape[1], len(branches)
        last = self.next_position + new.sum(dim=1) - 1
        positions = self.next_position[:, None] + new.cumsum(dim=1) - 1
        if branches:
            tried = torch.tensor([branch.token for branch in branches], device=self.device)
            ids = torch.cat([ids, tried.expand(len(ids), -1)], dim=1)
            depths = torch.tensor(_depths(branches), device=self.device)
            positions = torch.cat([positions, last[:, None] + depths], dim=1)
        states = hidden_states(
            self.model,
            {
                "input_ids": ids,
                "attention_mask": self._sight(new, branches),
                "position_ids": positions.expand(3, -1, -1),
            },
            cache=self.cache,
        )
        if branches:
            self.cache.crop(-num_branches)
        self.mask = torch.cat([self.mask, new], dim=1)
        self.next_position = last + 1
        self.states = states[:, width - 1]
        return states[:, width:]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, numbered anew in this order."""
        index = torch.tensor(rows, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask, self.next_position = self.mask[index], self.next_position[index]
        self.states = self.states[index]

    def _pad(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids, and which of them are real; on the left, so that last tokens share a column."""
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), self.pad_token, dtype=torch.int64)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(tokens):
            assert row, "every row is fed, or none"
            ids[i, width - len(row) :] = torch.tensor(row)
            real[i, width - len(row) :] = True
        return ids.to(self.device), real.to(self.device)

    def _sight(self, new: Tensor, branches: Sequence[Branch]) -> Tensor:
        """Which tokens each token of a pass may look at, bool ``[B, 1, fed, cached + fed]``.

        Tokens see what is before them; a branch sees the tokens, its ancestors and itself.
        Padding sees the prompt: a row of the mask without any would make it not a number.
        """
        width = new.shape[1]
        fed = width + len(branches)
        order = torch.ones(fed, fed, dtype=torch.bool).tril()
        order[:, width:] = False
        for i, branch in enumerate(branches, start=width):
            if branch.parent >= 0:
                order[i, width:] = order[width + branch.parent, width:]
            order[i, i] = True
        columns = torch.nn.functional.pad(new, (0, len(branches)), value=True)
        past = self.mask[:, None, :].expand(-1, fed, -1)
        present = order.to(self.device) & columns[:, None, :]
        return torch.cat([past, present], dim=2)[:, None]


def _depths(branches: Sequence[Branch]) -> list[int]:
    depths: list[int] = []
    for branch in branches:
        depths.append(1 if branch.parent < 0 else depths[branch.parent] + 1)
    return depths
