"""Feeds tokens to the model behind a key-value cache, rows of unequal length side by side.

Bookkeeping only: masks, positions, branches that are looked at and forgotten, rows that leave.
What is fed is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aes.data.collate import pad_prompts
from aes.data.processor import Encoded, Processor
from aes.inference.memory import Memory
from aes.kernels.cached import cached_states
from aes.kernels.forward import hidden_states
from aes.kernels.parts import unwrap
from aes.kernels.prefill import last_tokens_only
from aes.kernels.words import Likeliest


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
        memory: Where keys and values are kept, and how steps are taken.
        room: About so many columns will follow.

    Attributes:
        states: Hidden states behind each row's last token, ``[B, hidden]``; of no meaning behind
            ``advance``.
    """

    def __init__(
        self,
        model: Any,
        processor: Processor,
        encoded: Sequence[Encoded],
        patches: Tensor,
        *,
        memory: Memory,
        room: int = 0,
    ) -> None:
        self.model = model
        self.pad_token = processor.pad_token
        self.device = next(model.parameters()).device
        batch = pad_prompts(
            encoded, image_token=processor.image_token, pad_token=processor.pad_token
        )
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        self.mask = batch["attention_mask"].bool()
        self.next_position = batch["position_ids"].amax(dim=(0, 2)) + 1
        self.cache = memory.begin(len(encoded), self.mask.shape[1] + room)
        self._search, self._steps = memory.search, memory.steps
        self._found: Likeliest | None = None
        self._is_recorded = False
        self.states = self._prefill(batch | {"pixel_values": patches.to(self.device)})

    def _prefill(self, batch: dict[str, Any]) -> Tensor:
        # Padding stands on the right, where nobody who counts sees it: no mask is needed.
        batch["attention_mask"] = None
        last = self.mask.sum(dim=1) - 1
        with last_tokens_only(self.model, last) as is_shortened:
            states = hidden_states(self.model, batch, cache=self.cache)
        if is_shortened:
            return states[:, 0]
        return states[torch.arange(len(last), device=self.device), last]

    def likeliest(self) -> Likeliest:
        """The words that the model would have next."""
        if self._found is None:
            self._found = self._search(self.states)
        return self._found

    def begin_steps(self, num_steps: int) -> None:
        """From here on one token a row follows, by ``advance``, at most so many times."""
        if self._steps is not None:
            self._is_recorded = self._steps.begin(
                self.cache, self.mask, self.next_position, num_steps
            )

    def advance(self, tokens: Sequence[int]) -> None:
        """Append a token to each row."""
        if self._is_recorded:
            assert self._steps is not None
            self._found = self._steps.advance(tokens)
        else:
            self.feed([[token] for token in tokens])

    def feed(self, tokens: Sequence[Sequence[int]], branches: Sequence[Branch] = ()) -> Tensor:
        """Append tokens to each row, at least one and not equally many, and look ahead.

        Args:
            tokens: Of each row; where no row has any, nothing is appended.
            branches: Looked at behind the tokens in every row, in the same pass, and forgotten.

        Returns:
            Hidden states behind each branch, ``[B, len(branches), hidden]``; those behind the
            rows' last tokens are in ``states``.
        """
        assert not self._is_recorded, "what is recorded takes one token a row"
        ids, new = self._pad(tokens)
        width, num_branches = ids.shape[1], len(branches)
        last = self.next_position + new.sum(dim=1) - 1
        positions = self.next_position[:, None] + new.cumsum(dim=1) - 1
        if branches:
            tried = torch.tensor([branch.token for branch in branches], device=self.device)
            ids = torch.cat([ids, tried.expand(len(ids), -1)], dim=1)
            depths = torch.tensor(_depths(branches), device=self.device)
            positions = torch.cat([positions, last[:, None] + depths], dim=1)
        states = cached_states(
            self.model,
            {
                "input_ids": ids,
                "attention_mask": self._sight(new, branches),
                "position_ids": positions.expand(3, -1, -1),
            },
            self.cache,
        )
        if branches:
            self.cache.crop(-num_branches)
        self.mask = torch.cat([self.mask, new], dim=1)
        self.next_position = last + 1
        if width:
            self.states, self._found = states[:, width - 1], None
        return states[:, width:]

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with these rows alone; as few as possible change places.

        Returns:
            The same in the order in which they now stand.
        """
        order = _with_few_moves(rows)
        index = torch.tensor(order, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask, self.next_position = self.mask[index], self.next_position[index]
        self.states, self._found = self.states[index], None
        if self._is_recorded:
            assert self._steps is not None
            self._steps.select(index)
        return order

    def _pad(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids, and which of them are real; on the left, so that last tokens share a column."""
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), self.pad_token, dtype=torch.int64)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(tokens):
            assert row or not width, "every row is fed, or none"
            ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.int64)
            real[i, width - len(row) :] = True
        return ids.to(self.device), real.to(self.device)

    def _sight(self, new: Tensor, branches: Sequence[Branch]) -> Tensor:
        """Which tokens each token of a pass may look at, ``[B, 1, fed, cached + fed]``.

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
        seen = torch.cat([past, present], dim=2)[:, None]
        if unwrap(self.model).config.get_text_config()._attn_implementation != "eager":
            return seen
        hidden = torch.finfo(self.states.dtype).min  # eager attention adds its mask
        return torch.zeros_like(seen, dtype=self.states.dtype).masked_fill(~seen, hidden)


def _depths(branches: Sequence[Branch]) -> list[int]:
    depths: list[int] = []
    for branch in branches:
        depths.append(1 if branch.parent < 0 else depths[branch.parent] + 1)
    return depths


def _with_few_moves(rows: Sequence[int]) -> list[int]:
    """The rows in an order that leaves in place whatever can stay."""
    order = list(range(len(rows)))
    holes = sorted(set(order) - set(rows))
    for hole, row in zip(holes, sorted(row for row in rows if row >= len(rows)), strict=True):
        order[hole] = row
    return order
