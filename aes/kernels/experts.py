"""How the fused experts of a mixture are computed: transformers' ways, and one of our own.

Ours is for experts that are not trained. It needs no gradient of their weights, so neither what
went into their products nor what came out must be kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from aes.kernels.fused import compiled, expert_swiglu, expert_swiglu_backward
from aes.kernels.parts import unwrap

ExpertsName = Literal["eager", "batched_mm", "grouped_mm", "frozen"]

# `generate` replaces transformers' own name by batched_mm on a card, which copies the weights of
# every expert that a token goes to; a name of ours it leaves alone.
_REGISTERED = {"grouped_mm": "aes_grouped_mm", "frozen": "aes_frozen"}
_GROUPED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def use_experts(model: Any, name: ExpertsName) -> None:
    """Have the experts of a model computed by ``name``; a dense model has none and stays as it is.

    Args:
        model: Transformers or PEFT model.
        name: ``eager`` (a loop), ``batched_mm`` (copies weights; for few tokens), ``grouped_mm``
            (one product over all experts), or ``frozen``, the same with a backward pass that keeps
            the pre-activation alone.

    Raises:
        ValueError: If ``frozen`` cannot be, since experts are trained or not gated by SiLU.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

    base = unwrap(model)
    text = base.config.get_text_config()
    if not getattr(text, "num_experts", 0):
        return
    if name == "frozen":
        if trains_experts(model):
            raise ValueError(
                "kernels.experts=frozen computes no gradient of the experts, but this adapter "
                "trains them; use kernels.experts=grouped_mm"
            )
        if text.hidden_act != "silu":
            raise ValueError(
                f"kernels.experts=frozen is for experts gated by silu, but this model's are gated "
                f"by {text.hidden_act}; use kernels.experts=grouped_mm"
            )
    ALL_EXPERTS_FUNCTIONS.register("aes_grouped_mm", grouped_mm_experts_forward)
    ALL_EXPERTS_FUNCTIONS.register("aes_frozen", frozen_experts_forward)
    base.set_experts_implementation(_REGISTERED.get(name, name))


def trains_experts(model: Any) -> bool:
    """Whether any weight of the experts, or of an adapter on them, is trained."""
    return any(".experts." in name and p.requires_grad for name, p in model.named_parameters())


def frozen_experts_forward(module: Any, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """The forward of a module of fused experts, as transformers calls it.

    Args:
        module: Has ``gate_up_proj`` ``[E, 2I, H]`` and ``down_proj`` ``[E, H, I]``, and
            ``fuses_swiglu`` if its activation may be compiled.
        hidden: ``[N, H]``.
        experts: Which experts each token goes to, int64 ``[N, K]``.
        weights: Their shares ``[N, K]``.

    Returns:
        ``[N, H]``, in the dtype of ``hidden``.
    """
    gate_up, down = module.gate_up_proj, module.down_proj
    assert not (gate_up.requires_grad or down.requires_grad), "these experts are trained"
    fuses = getattr(module, "fuses_swiglu", False)
    out: Tensor = FrozenExperts.apply(hidden, experts, weights, gate_up, down, fuses)  # type: ignore[no-untyped-call]
    return out


class FrozenExperts(torch.autograd.Function):
    """Tokens through their experts and back, without a gradient for the experts' weights.

    A token's output is the sum over its experts of ``weight * down @ (silu(gate) * up)``. Kept for
    the backward pass are ``gate`` and ``up`` (the pre-activation), and the routing. With ``d`` the
    gradient of the output, that of a weight is ``d @ down`` times the activation, so the output of
    a single expert is not needed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        experts: Tensor,
        weights: Tensor,
        gate_up: Tensor,
        down: Tensor,
        fuses: bool,
    ) -> Tensor:
        """See ``frozen_experts_forward``."""
        order, places, ends = _route(experts, num_experts=len(gate_up))
        tokens = order // experts.shape[1]
        before = grouped_product(hidden.to(gate_up.dtype)[tokens], gate_up.mT, ends)
        activate = compiled(expert_swiglu, before) if fuses else expert_swiglu
        after = activate(before)
        rows = grouped_product(after, down.mT, ends)
        out = _sum_back(rows, places, weights)
        ctx.save_for_backward(before, order, ends, weights, gate_up, down)
        ctx.fuses, ctx.dtype = fuses, hidden.dtype
        return out.to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``hidden`` and ``weights``."""
        before, order, ends, weights, gate_up, down = ctx.saved_tensors
        num_choices = weights.shape[1]
        grad_rows = grad.to(down.dtype)[order // num_choices]
        grad_after = grouped_product(grad_rows, down, ends)
        shares = weights.reshape(-1, 1)[order].to(before.dtype)
        back = expert_swiglu_backward
        back = compiled(back, before) if ctx.fuses else back
        grad_before, grad_shares = back(before, grad_after, shares)
        places = _inverse(order).view(-1, num_choices)
        grad_weights = grad_shares[places].to(weights.dtype)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_weights, None, None, None
        grad_rows = grouped_product(grad_before, gate_up, ends)
        grad_hidden = _sum_back(grad_rows, places, None).to(ctx.dtype)
        return grad_hidden, None, grad_weights, None, None, None


def _route(experts: Tensor, *, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort all choices by expert.

    Args:
        experts: ``[N, K]``.

    Returns:
        The choices in order of their experts, ``[N * K]``; the place of each choice in that order,
        ``[N, K]``; and where each expert's choices end in it, int32 ``[E]``.
    """
    sorted_experts, order = torch.sort(experts.reshape(-1), stable=True)
    numbers = torch.arange(num_experts, device=experts.device)
    ends = torch.searchsorted(sorted_experts, numbers, right=True, out_int32=True)
    return order, _inverse(order).view(experts.shape), ends


def _inverse(order: Tensor) -> Tensor:
    places = torch.empty_like(order)
    return places.scatter_(0, order, torch.arange(len(order), device=order.device))


def _sum_back(rows: Tensor, places: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of each token's rows, weighted: in one pass, and always in the same order.

    Args:
        rows: ``[N * K, H]``.
        places: Rows of each token, ``[N, K]``.
        weights: ``[N, K]``.

    Returns:
        ``[N, H]``.
    """
    shares = None if weights is None else weights.to(rows.dtype)
    return embedding_bag(places, rows, mode="sum", per_sample_weights=shares)


def grouped_product(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Each group of rows times the matrix of its own.

    Args:
        rows: ``[S, A]``, group after group.
        weight: ``[E, A, B]``; may be a transposed view.
        ends: Where each group ends, int32 ``[E]``; a group may be empty.

    Returns:
        ``[S, B]``.
    """
    # Inductor takes torch's own product of bfloat16 alone.
    is_known = rows.dtype == torch.bfloat16 or not torch.compiler.is_compiling()
    if rows.dtype in _GROUPED_DTYPES and is_known:
        return torch.nn.functional.grouped_mm(rows, weight, offs=ends)
    out: Tensor = _product_by_loop(rows, weight, ends)
    return out


def _loop(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    out = rows.new_empty(len(rows), weight.shape[2])
    start = 0
    for matrix, end in zip(weight, ends.tolist(), strict=True):
        if end > start:
            torch.mm(rows[start:end], matrix, out=out[start:end])
        start = end
    return out


def _shape_of_loop(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:  # noqa: ARG001
    return rows.new_empty(rows.shape[0], weight.shape[2])


# An operator of its own, so that torch.compile does not look into the loop.
_product_by_loop: Callable[..., Tensor] = torch.library.custom_op(
    "aes::grouped_product",
    _loop,
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor ends) -> Tensor",
)
torch.library.register_fake("aes::grouped_product", _shape_of_loop)
