"""Hidden states -> the likeliest word behind each, of all words or of those that are allowed.

The vocabulary is the widest product of a decoding step: 151,936 rows of ``lm_head`` for one word.
On a CPU with float32 weights a bfloat16 copy of them finds the few words that can be the likeliest
at all, and float32 decides among those: the same word, for half the bytes to read. Knows no
grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from aes.kernels.forward import logits
from aes.kernels.parts import is_sharded, unwrap

SearchName = Literal["auto", "full", "screened"]

NUM_CANDIDATES = 16
"""Words that are looked at again; where more are too close to call, all are."""

_ROUNDING = 2**-8
"""Greatest relative error of rounding to bfloat16, whose significand has 8 bits."""


class Likeliest(Protocol):
    """What may come next in each row."""

    @property
    def words(self) -> list[int]:
        """The likeliest of all, one a row."""

    def among(self, row: int, allowed: Tensor) -> int:
        """The likeliest of the allowed, bool ``[words]``; words beyond are not."""


class WordSearch:
    """Finds the likeliest words behind hidden states.

    Args:
        model: Transformers or PEFT model.
        name: ``full``: logits of all words; ``screened``: bfloat16 first, where that is possible;
            ``auto``: ``screened`` where it pays.
    """

    def __init__(self, model: Any, name: SearchName) -> None:
        self.model = model
        self._is_wanted = name == "screened" or (name == "auto" and _has_fast_bfloat16())
        self._screen: Screen | None = None

    def __call__(self, states: Tensor) -> Likeliest:
        """Of states ``[rows, hidden]``."""
        screen = self._fresh_screen()
        if screen is None:
            return FromLogits(logits(self.model, states))
        return Screened(self.model, screen, states)

    def begin(self) -> None:
        """Get ready for another call: a head that is trained may have changed without a trace."""
        # DeepSpeed writes weights by ``.data``, which counts no version.
        if any(parameter.requires_grad for parameter in unwrap(self.model).lm_head.parameters()):
            self._screen = None

    def _fresh_screen(self) -> Screen | None:
        """The copy, made anew where the weights have changed; ``None`` where there is none."""
        head = unwrap(self.model).lm_head
        if not self._is_wanted or not _can_be_screened(head):
            self._screen = None
        elif self._screen is None or not self._screen.is_of(head.weight):
            self._screen = Screen(head.weight)
        return self._screen


def _has_fast_bfloat16() -> bool:
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not torch's to keep
    return asked is not None and bool(asked())


def _can_be_screened(head: Any) -> bool:
    """Whether it is nothing but a float32 matrix, here and whole."""
    weight = getattr(head, "weight", None)
    return (
        type(head) is torch.nn.Linear
        and head.bias is None
        and not head._forward_hooks
        and isinstance(weight, Tensor)
        and not is_sharded(weight)
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and _has_packed_product()
    )


def _has_packed_product() -> bool:
    """Whether torch has the operations of ``Screen``, which are not public."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    is_available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_available and all(hasattr(torch.ops.mkldnn, name) for name in names)


@dataclass
class FromLogits:
    """The likeliest by logits of all words, ``[rows, vocabulary]``."""

    logits: Tensor
    found: Tensor | None = None

    @property
    def words(self) -> list[int]:
        """See ``Likeliest``."""
        found = self.logits.argmax(dim=1) if self.found is None else self.found
        return [int(word) for word in found.tolist()]

    def among(self, row: int, allowed: Tensor) -> int:
        """See ``Likeliest``."""
        num_words = min(len(allowed), self.logits.shape[1])
        allowed = allowed[:num_words].to(self.logits.device)
        return int(self.logits[row, :num_words].masked_fill(~allowed, -torch.inf).argmax())


class Screen:
    """A bfloat16 copy of ``lm_head``, laid out as the processor reads it.

    Args:
        weight: ``[vocabulary, hidden]``, float32.

    Attributes:
        longest: Greatest length of a row.
    """

    def __init__(self, weight: Tensor) -> None:
        self._key = _version(weight)
        self.weight = weight.detach()
        self.longest = float(torch.linalg.vector_norm(self.weight, dim=1).amax())
        # The layout is of this number of rows, and serves any.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.bfloat16(), 8)

    def is_of(self, weight: Tensor) -> bool:
        """Whether these weights are still what was copied."""
        return self._key == _version(weight)

    def product(self, states: Tensor) -> Tensor:
        """Roughly the logits, bfloat16 ``[rows, vocabulary]``."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            states.bfloat16(), self._packed, None, "none", [], ""
        )
        return out


def _version(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), weight._version


class Screened:
    """The likeliest among the few that bfloat16 cannot tell from the best.

    Rounding the weights ``w`` and the state ``x`` changes a logit by at most ``2 e |w| |x|``, and
    rounding the sum by ``e`` of itself: a word that lies further than twice this below the best is
    not the best.

    Args:
        model: Gives all logits where too many words are too close.
        screen: Of its ``lm_head``.
        states: ``[rows, hidden]``.
    """

    def __init__(self, model: Any, screen: Screen, states: Tensor) -> None:
        self._model, self._screen, self._states = model, screen, states
        self._rough = screen.product(states)
        self._words = self._decide(range(len(states)), self._rough)

    @property
    def words(self) -> list[int]:
        """See ``Likeliest``."""
        return self._words

    def among(self, row: int, allowed: Tensor) -> int:
        """See ``Likeliest``."""
        num_words = min(len(allowed), self._rough.shape[1])
        allowed = allowed[:num_words]
        rough = self._rough[row, :num_words].masked_fill(~allowed, -torch.inf)
        return self._decide([row], rough[None], allowed)[0]

    def _decide(
        self, rows: Sequence[int], rough: Tensor, allowed: Tensor | None = None
    ) -> list[int]:
        states = self._states[list(rows)]
        values, words = rough.topk(min(NUM_CANDIDATES, rough.shape[1]), dim=1)
        values = values.float()
        error = 2 * self._screen.longest * torch.linalg.vector_norm(states, dim=1)
        error = 1.01 * _ROUNDING * (error + values[:, 0].abs())[:, None]  # 1.01: what is squared
        is_close = values >= values[:, :1] - 2 * error
        exact = torch.einsum("rh,rkh->rk", states, self._screen.weight[words])
        exact = exact.masked_fill(~is_close, -torch.inf)
        # As argmax does, of equals the first.
        is_best = exact == exact.amax(dim=1, keepdim=True)
        found = words.masked_fill(~is_best, rough.shape[1]).amin(dim=1).tolist()
        for i in is_close[:, -1].nonzero().flatten().tolist():
            found[i] = self._decide_by_all(rows[i], allowed)
        return [int(word) for word in found]

    def _decide_by_all(self, row: int, allowed: Tensor | None) -> int:
        every = FromLogits(logits(self._model, self._states[row : row + 1]))
        return every.words[0] if allowed is None else every.among(0, allowed)
