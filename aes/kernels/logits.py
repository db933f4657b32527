"""Hidden states -> cross-entropy, without the logits of all rows ever being there at once.

Logits are the largest tensor of a step: 151,936 numbers a row. They are made for some rows at a
time, turned into gradients while they are there, and forgotten; on a CPU for a few rows and words
at a time, in the caches of its cores. Knows no model but its head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from aes.kernels.forward import logits
from aes.kernels.parts import is_sharded, unwrap

ATTENDED = 0
"""Rows of logits that are there at once where the head is computed as attention."""

_ROWS = {"cpu": ATTENDED, "cuda": 1024}
"""By arithmetic on a GPU: reading the head's weights takes less time than multiplying so many rows
with them."""

ROWS_OF_OTHER_HEADS = 256
"""Where attention was asked for and the head is trained, or not computed in its own float32."""


def choose_rows(
    rows: int | Literal["auto"] | None, accelerator: Literal["cpu", "cuda"]
) -> int | None:
    """What ``auto`` stands for on a device.

    Raises:
        ValueError: If attention over the vocabulary is asked for on a card.
    """
    if rows == ATTENDED and accelerator != "cpu":
        raise ValueError(
            "kernels.logit_rows=0 has a CPU compute the head as attention over the vocabulary, "
            "for whose width cards have no kernel; use kernels.logit_rows=1024, or auto"
        )
    return _ROWS[accelerator] if rows == "auto" else rows


def summed_cross_entropy(
    model: Any,
    states: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    rows: int | None,
) -> Tensor:
    """Cross-entropy of rows over the whole vocabulary, summed.

    Args:
        model: Transformers or PEFT model.
        states: Hidden states ``[N, hidden]``; ``N`` may be 0, and may differ between ranks.
        targets: Token ids, int64 ``[N]``.
        weights: Factor on each row's loss, ``[N]``; ``None``: 1.
        rows: Rows whose logits are there at once; ``None``: all, the plain way; ``ATTENDED``: none,
            for a frozen head that a CPU computes in its own dtype, and 256 for others.

    Returns:
        Scalar, float32.
    """
    if rows is None:
        return _plain(model, states, targets, weights)
    head = unwrap(model).lm_head
    linear = _linear(head)
    if linear is not None:
        # Through the head's own call: where ranks hold parts of it, its hooks gather them, once
        # on every rank, however many chunks there are.
        with _computing(linear, lambda s: _cross_entropy(s, linear.weight, targets, weights, rows)):
            loss: Tensor = head(states)
        return loss
    if is_sharded(next(head.parameters())):  # ranks differ in chunks, but gather in step
        return _plain(model, states, targets, weights)
    return _recomputed(model, states, targets, weights, rows)


def _plain(model: Any, states: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    losses = functional.cross_entropy(logits(model, states), targets, reduction="none")
    return (losses if weights is None else losses * weights).sum()


def _recomputed(
    model: Any, states: Tensor, targets: Tensor, weights: Tensor | None, rows: int
) -> Tensor:
    """Chunks of a head of any kind, each computed again in the backward pass."""
    rows = rows or ROWS_OF_OTHER_HEADS
    starts = range(0, max(1, len(states)), rows)
    losses = []
    for cut in (slice(start, start + rows) for start in starts):
        weight = None if weights is None else weights[cut]
        losses.append(
            checkpoint(_plain, model, states[cut], targets[cut], weight, use_reentrant=False)
        )
    return torch.stack(losses).sum()


def _linear(head: Any) -> nn.Linear | None:
    """The one matrix product that the head is, if that is all it is."""
    if hasattr(head, "modules_to_save"):  # trained whole: PEFT keeps the copies by name
        is_off = head.disable_adapters
        head = head.original_module if is_off else head.modules_to_save[head.active_adapters[0]]
    # FSDP2 makes a class of its own of each module's; LoRA and quantised ones have theirs too.
    is_plain = head.__class__.forward is nn.Linear.forward and "forward" not in vars(head)
    return head if is_plain and head.bias is None else None


@contextmanager
def _computing(module: nn.Module, compute: Any) -> Iterator[None]:
    """Within this context the module computes something else of its input and its weights."""
    module.forward = compute
    try:
        yield
    finally:
        del module.forward


def _cross_entropy(
    states: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None, rows: int
) -> Tensor:
    if rows == ATTENDED and len(states) and _can_attend(states, weight):
        attend: Callable[..., Tensor] = _AttendedCrossEntropy.apply
        return attend(states, weight, targets, weights)
    rows = rows or ROWS_OF_OTHER_HEADS
    cut: Callable[..., Tensor] = _ChunkedCrossEntropy.apply
    return cut(states, weight, targets, weights, rows, torch.is_grad_enabled())


def _can_attend(states: Tensor, weight: Tensor) -> bool:
    """Whether nothing is trained in the head, and nothing narrower than float32 is computed."""
    is_exact = states.dtype == weight.dtype and weight.dtype in (torch.float32, torch.float64)
    is_frozen = not (weight.requires_grad and torch.is_grad_enabled())
    on_cpu = weight.device.type == "cpu"
    return on_cpu and is_exact and is_frozen and not torch.is_autocast_enabled("cpu")


class _AttendedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a frozen matrix product as attention of the rows over all words.

    With the words' weights ``W`` as keys and as values, attention gives ``softmax(x W^T) W``, which
    is the gradient of a row's log-sum-exp, and the log-sum-exp itself beside it: all that the loss
    and its gradient need, from a kernel that keeps its logits in the caches.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None
    ) -> Tensor:
        words = weight.detach()[None, None]
        mean, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            states[None, None], words, words, scale=1.0
        )
        gold = weight[targets]
        losses = log_sum[0, 0] - (states * gold).sum(dim=1)
        of_states = mean[0, 0] - gold
        if weights is not None:
            losses, of_states = losses * weights, of_states * weights[:, None]
        ctx.save_for_backward(of_states)
        total: Tensor = losses.sum()
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (of_states,) = ctx.saved_tensors
        return of_states * grad, None, None, None


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a matrix product, its gradients made in the forward pass.

    A chunk's logits become its probabilities and then its gradient in place: two matrix products
    for frozen weights, three for trained ones, and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        rows: int,
        with_grad: bool,
    ) -> Tensor:
        kind, device = states.device.type, states.device
        casts = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if casts else weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        wants_states, wants_weight = (with_grad and need for need in ctx.needs_input_grad[:2])
        of_states = torch.zeros_like(states) if wants_states else None
        of_weight = torch.zeros_like(weight) if wants_weight else None
        factors = states.new_ones(len(states), dtype=wide) if weights is None else weights.to(wide)
        head, loss = weight.to(dtype), torch.zeros((), dtype=wide, device=device)
        scores = torch.empty(min(rows, len(states)), len(weight), dtype=wide, device=device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(states), rows):
                cut = slice(start, start + rows)
                part, factor = states[cut].to(dtype), factors[cut]
                some = _product(part, head, scores[: len(part)])
                loss += _to_gradients(some, targets[cut]) @ factor
                some = some.to(dtype)
                if of_states is not None:
                    of_states[cut] = (some @ head) * factor[:, None]
                if of_weight is not None:
                    _add_product(of_weight, some, (part * factor[:, None]).to(dtype))
        ctx.save_for_backward(of_states, of_weight)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_weight = ctx.saved_tensors
        scaled = [None if t is None else (t * grad).to(t.dtype) for t in (of_states, of_weight)]
        return (*scaled, None, None, None, None)


def _product(part: Tensor, head: Tensor, out: Tensor) -> Tensor:
    """Logits of some rows, wide enough for their softmax, in ``out``."""
    if out.dtype == part.dtype:
        return torch.mm(part, head.t(), out=out)
    return out.copy_(torch.mm(part, head.t()))


def _to_gradients(scores: Tensor, targets: Tensor) -> Tensor:
    """Losses of rows of logits, which become their gradients in place."""
    at = targets[:, None]
    gold = scores.gather(1, at)
    top = scores.amax(dim=1, keepdim=True)
    torch.softmax(scores, dim=1, out=scores)
    # The greatest probability is 1 over the sum of exponentials: it cannot underflow.
    losses = top - scores.amax(dim=1, keepdim=True).log() - gold
    scores.scatter_add_(1, at, torch.full_like(gold, -1.0))
    return losses.squeeze(1)


def _add_product(total: Tensor, some: Tensor, part: Tensor) -> None:
    if total.dtype == some.dtype:
        total.addmm_(some.t(), part)
    else:
        total += some.t() @ part
