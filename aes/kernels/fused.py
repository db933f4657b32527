"""Elementwise chains of a layer as one operation each: RMSNorm, rotary positions, SwiGLU.

Each keeps for the backward pass its inputs alone. On a CPU that saves passes over memory and what
autograd would keep; on a card ``torch.compile`` makes one kernel of each, forward and backward.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from aes.kernels.parts import language_model_of

RECOMPILE_LIMIT = 16
"""Compilations of one function, be it an operation here or a layer; torch tells when it is reached,
and runs what is unlike all of them as it is written."""

_log = logging.getLogger(__name__)


def fuse_ops(model: Any) -> None:
    """Have a model's decoder layers compute these three by the functions here; for good.

    Layers that an adapter wraps stay as they are, and so does the vision tower.
    """
    for layer in language_model_of(model).modules():
        kind = type(layer).__name__
        if kind.endswith("RMSNorm"):
            layer.forward = MethodType(_norm_forward, layer)
        elif kind.endswith("MLP") and isinstance(layer.act_fn, _SILU):
            layer.forward = MethodType(_mlp_forward, layer)
        elif kind.endswith("Attention"):
            layer.forward = MethodType(_with_own_rotary(layer.forward.__func__), layer)
        elif kind.endswith("Experts"):
            layer.fuses_swiglu = True  # which the frozen ones read


def _silu_classes() -> tuple[type[nn.Module], ...]:
    from transformers.activations import SiLUActivation

    return (SiLUActivation, nn.SiLU)


_SILU = _silu_classes()


def _norm_forward(module: Any, states: Tensor) -> Tensor:
    """A module of ``weight`` and ``variance_epsilon`` on ``[..., H]``."""
    if states.dtype != module.weight.dtype:  # autocast: let torch decide which it becomes
        return type(module).forward(module, states)  # type: ignore[no-any-return]
    out: Tensor = _apply(RMSNorm, states, module.weight, module.variance_epsilon)
    return out


def _mlp_forward(module: Any, states: Tensor) -> Tensor:
    activation = _apply(SwiGLU, module.gate_proj(states), module.up_proj(states))
    out: Tensor = module.down_proj(activation)
    return out


@functools.cache
def _with_own_rotary(forward: FunctionType) -> FunctionType:
    """The same forward, in whose eyes ``apply_rotary_pos_emb`` is ours; one for all layers.

    That name is one of transformers' module; replaced there, it would be so for every model. What
    is compiled of a code object is put among the names of the first function that has it: so this
    one has a code object of its own.
    """
    theirs = forward.__globals__["apply_rotary_pos_emb"]

    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if not query.dtype == key.dtype == cos.dtype == sin.dtype:
            return theirs(query, key, cos, sin)  # type: ignore[no-any-return]
        return _apply(Rotary, query, cos, sin), _apply(Rotary, key, cos, sin)

    names = {**forward.__globals__, "apply_rotary_pos_emb": rotate}
    code = forward.__code__.replace()
    own = FunctionType(code, names, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__ = forward.__kwdefaults__
    return own


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    return function.apply(*inputs)  # type: ignore[no-untyped-call]


class RMSNorm(torch.autograd.Function):
    """``weight * x / rms(x)`` over the last dimension; keeps ``x`` and ``1 / rms(x)``.

    Source: Zhang and Sennrich (2019), Root Mean Square Layer Normalization.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        """States ``[..., H]``, weight ``[H]``."""
        rows = states.reshape(-1, states.shape[-1])
        out, scales = compiled(norm, rows)(rows, weight, eps)
        ctx.save_for_backward(states, weight, scales)
        result: Tensor = out.view_as(states)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of the states, and of the weight where it is trained."""
        states, weight, scales = ctx.saved_tensors
        rows, grad = (t.reshape(-1, t.shape[-1]) for t in (states, grad))
        grad_weight = (grad * rows * scales).sum(0) if ctx.needs_input_grad[1] else None
        grad_rows: Tensor = compiled(norm_backward, rows)(grad, rows, weight, scales)
        return grad_rows.view_as(states), grad_weight, None


class Rotary(torch.autograd.Function):
    """Rotary positions of queries or keys; keeps the angles.

    Source: Su et al. (2021), RoFormer; the halves rotated as in GPT-NeoX.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """States ``[B, heads, T, D]``, angles ``[B, T, D]``."""
        ctx.save_for_backward(cos, sin)
        out: Tensor = compiled(rotate, states)(states, cos, sin)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of the states."""
        grad_states: Tensor = compiled(rotate_back, grad)(grad, *ctx.saved_tensors)
        return grad_states, None, None


class SwiGLU(torch.autograd.Function):
    """``silu(gate) * up``; keeps both. Source: Shazeer (2020), GLU Variants Improve Transformer."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Both ``[..., I]``."""
        ctx.save_for_backward(gate, up)
        out: Tensor = compiled(swiglu, gate)(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of both."""
        found: tuple[Tensor, Tensor] = compiled(swiglu_backward, grad)(grad, *ctx.saved_tensors)
        return found


def norm(rows: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Rows ``[N, H]`` -> normed rows, and what each was scaled by, ``[N, 1]``."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    squares = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=wide).square()
    scales = (squares / rows.shape[-1] + eps).rsqrt()
    return weight * (rows * scales).to(rows.dtype), scales


def norm_backward(grad: Tensor, rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """The gradient of ``norm``'s rows."""
    # In bfloat16 too the sums are of float32 numbers, as transformers has them.
    grad, rows, dtype = (grad * weight).to(scales.dtype), rows.to(scales.dtype), rows.dtype
    along = torch.linalg.vecdot(grad, rows).unsqueeze(-1) * scales**3 / rows.shape[-1]
    out: Tensor = (grad * scales - rows * along).to(dtype)
    return out


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of dimensions ``(i, i + D / 2)`` turned by its angle."""
    cos, sin, half = cos.unsqueeze(1), sin.unsqueeze(1), states.shape[-1] // 2
    out = states * cos
    out[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(states[..., :half], sin[..., half:])
    return out


def rotate_back(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of ``rotate``'s states."""
    cos, sin, half = cos.unsqueeze(1), sin.unsqueeze(1), grad.shape[-1] // 2
    out = grad * cos
    out[..., :half].addcmul_(grad[..., half:], sin[..., half:])
    out[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    return silu(gate) * up


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``gate`` and ``up``."""
    return torch.ops.aten.silu_backward(grad * up, gate), silu(gate) * grad


def expert_swiglu(before: Tensor) -> Tensor:
    """``swiglu`` of ``[S, 2I]``, whose halves are gate and up."""
    return swiglu(*before.chunk(2, -1))


def expert_swiglu_backward(before: Tensor, grad: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Back through ``share * swiglu(gate, up)``, a share each row.

    Args:
        before: ``[S, 2I]``.
        grad: ``[S, I]``.
        shares: ``[S, 1]``.

    Returns:
        Gradients of ``before``, and of ``shares`` as ``[S]``.
    """
    gate, up = before.chunk(2, -1)
    grad_up = silu(gate).mul_(grad)
    grad_shares = torch.linalg.vecdot(grad_up, up)
    grad_gate = torch.ops.aten.silu_backward((grad * up).mul_(shares), gate)
    return torch.cat((grad_gate, grad_up.mul_(shares)), -1), grad_shares


def compiled(function: Callable[..., Any], rows: Tensor) -> Callable[..., Any]:
    """``function`` as it is best called where ``rows`` are; their number may change freely."""
    if torch.compiler.is_compiling() or not rows.is_cuda or not _compiles_on_card():
        return function
    return _on_card(function)


# Dimensions of [N, H], [B, T, H] and [B, heads, T, H] that batches may change.
_LENGTHS = {2: (0,), 3: (0, 1), 4: (0, 2)}


@functools.cache
def _on_card(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    made = torch.compile(function, dynamic=False)  # widths are few, and kernels know them

    @functools.wraps(function)
    def call(*inputs: Any) -> Any:
        # Detached: whether an input wants a gradient, nobody here asks.
        tensors = [t.detach() if isinstance(t, Tensor) else t for t in inputs]
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.dim() in _LENGTHS:
                torch._dynamo.maybe_mark_dynamic(tensor, _LENGTHS[tensor.dim()])
        return made(*tensors)

    return call


@functools.cache
def _compiles_on_card() -> bool:
    """Whether Triton works here: it wants a C compiler and Python's headers."""
    try:
        torch.compile(lambda t: t * 2 + 1)(torch.ones(8, device="cuda"))
    except Exception as exc:
        _log.warning(
            "no kernels can be compiled for the card here (%s): fused operations run unfused",
            type(exc).__name__,
        )
        return False
    return True
