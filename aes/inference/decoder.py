"""Feeds tokens to the model behind a key-value cache, rows of unequal length side by side.

Bookkeeping only: masks, positions, stepping back. What is fed is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aes.data.collate import pad_prompts
from aes.data.processor import Encoded, Processor
from aes.model.forward import hidden_states, logits


class CachedRows:
    """A batch of sequences that grow together.

    Args:
        model: Transformers or PEFT model, in evaluation mode.
        processor: Gives the ids of placeholders and padding.
        encoded: Prompts.
        patches: Pixel patches of all their pages, in order, ``[patches, 1536]``.
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
        self.mask = batch["attention_mask"]
        self.next_position = batch["position_ids"].amax(dim=(0, 2)) + 1
        states = hidden_states(model, batch, cache=self.cache)
        last = self.mask.sum(dim=1) - 1
        rows = torch.arange(len(encoded), device=self.device)
        self.last_logits = logits(model, states[rows, last])

    def feed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to each row (at least one to some row); rows may get unequal numbers.

        Returns:
            Logits after each row's last token, ``[B, vocabulary]``; of no meaning for a row that
            got no token.
        """
        width = max(map(len, tokens))
        # Padding stands on the left, so that every row's last token is in the last column.
        ids = torch.full((len(tokens), width), self.pad_token, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(tokens):
            if row:
                ids[i, width - len(row) :] = torch.tensor(row)
                mask[i, width - len(row) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (self.next_position[:, None] + mask.cumsum(dim=1) - 1) * mask
        self.mask = torch.cat([self.mask, mask], dim=1)
        self.next_position = self.next_position + mask.sum(dim=1)
        states = hidden_states(
            self.model,
            {
                "input_ids": ids,
                "attention_mask": self.mask,
                "position_ids": positions.expand(3, -1, -1),
            },
            cache=self.cache,
        )
        self.last_logits = logits(self.model, states[:, -1])
        return self.last_logits

    def peek(self, tokens: Sequence[int]) -> Tensor:
        """Logits if ``tokens`` came next in every row; the rows stay as they are."""
        before = self.mask, self.next_position, self.last_logits
        seen = self.feed([list(tokens)] * len(self.mask))
        self.mask, self.next_position, self.last_logits = before
        self.cache.crop(-len(tokens))
        return seen
