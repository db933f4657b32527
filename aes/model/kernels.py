"""Settings of a pass through the model -> a model that computes so.

What ``auto`` means is decided here; how each is computed, in ``aes.kernels``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aes.model.spec import AdapterSpec, KernelSpec, LoraSpec, ModelSpec


def resolve_kernels(spec: KernelSpec, model: ModelSpec, adapter: AdapterSpec | None) -> KernelSpec:
    """The settings with a name in place of ``auto`` for the experts.

    Args:
        adapter: What is trained; ``None``: nothing is.

    Raises:
        ValueError: If a choice does not go with what is trained, or would do nothing.
    """
    is_dense = model.text.num_experts == 0
    if is_dense and spec.experts not in ("auto", "eager"):
        raise ValueError(
            f"kernels.experts={spec.experts} would do nothing, since this model is dense and has "
            "no experts; use kernels.experts=auto"
        )
    trains = adapter is not None and _trains_experts(adapter)
    if trains and spec.experts == "frozen":
        raise ValueError(
            "kernels.experts=frozen computes no gradient of the experts, but this adapter trains "
            "them; use kernels.experts=auto"
        )
    if spec.experts != "auto":
        return spec
    return replace(spec, experts="eager" if is_dense else "grouped_mm" if trains else "frozen")


def _trains_experts(adapter: AdapterSpec) -> bool:
    return not isinstance(adapter, LoraSpec) or "experts" in adapter.targets


def apply_kernels(model: Any, spec: KernelSpec) -> None:
    """Have a model compute its experts and its elementwise chains as a resolved ``spec`` says.

    Attention, logits and compiling are chosen where batches are known.
    """
    from aes.kernels.experts import use_experts
    from aes.kernels.fused import fuse_ops
    from aes.kernels.patches import linear_patches

    assert spec.experts != "auto"
    use_experts(model, spec.experts)
    if spec.fused_ops == "all":
        fuse_ops(model)
        linear_patches(model)
