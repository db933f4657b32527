"""Adds what is trained to a model: LoRA on named sets of matrices, or nothing beside the model.

Knows the names of Qwen3-VL's modules; knows nothing of data or optimisers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aes.model.spec import AdapterSpec, LoraSpec

# Patterns over full module names; dense and MoE models share the attention's.
_ATTENTION = r".*language_model\.layers\.\d+\.self_attn\.(?:q|k|v|o)_proj"
_VISION = r".*visual\..*(?:attn\.(?:qkv|proj)|linear_fc[12])"
_FUSED_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def add_adapter(model: Any, adapter: AdapterSpec, *, seed: int = 0) -> Any:
    """Make ``model`` trainable as ``adapter`` says.

    With LoRA every other weight is frozen and a PEFT model comes back; its ``B`` matrices are
    zero, so it answers as the model did. Trained weights beside it are float32 whatever it is.

    Args:
        seed: Of the random ``A`` matrices.

    Raises:
        ValueError: If a set or module named by the adapter does not exist in the model.
    """
    if not isinstance(adapter, LoraSpec):
        model.requires_grad_(True)
        return model
    import torch
    from peft import LoraConfig, get_peft_model

    experts = "experts" in adapter.targets
    if experts and not getattr(model.config.get_text_config(), "num_experts", 0):
        raise ValueError(
            "adapter.targets names experts, but this model is dense and has none; use attention"
        )
    if experts and adapter.dropout:
        raise ValueError(
            f"adapter.dropout={adapter.dropout} cannot act on fused experts; set adapter.dropout=0 "
            "or take experts out of adapter.targets"
        )
    _require_modules(model, adapter.modules_to_save)
    patterns = [
        *([_ATTENTION] if "attention" in adapter.targets else []),
        *([_VISION] if "vision" in adapter.targets else []),
    ]
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules="|".join(f"(?:{p})" for p in patterns) if patterns else [],
        target_parameters=_FUSED_EXPERTS if experts else None,
        modules_to_save=list(adapter.modules_to_save) or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return peft_model


def _require_modules(model: Any, names: tuple[str, ...]) -> None:
    modules = [name for name, _ in model.named_modules()]
    for wanted in names:
        if not any(name == wanted or name.endswith("." + wanted) for name in modules):
            raise ValueError(
                f"adapter.modules_to_save names {wanted}, which this model does not have; "
                "names such as visual.merger or lm_head are meant"
            )


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Within this context ``model`` is the base that it was made from.

    Raises:
        ValueError: If it has no adapter.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise ValueError(
            "this model has no adapter that could be switched off, since all of it was trained; "
            "to compare it with its base, evaluate the base checkpoint by itself"
        )
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        with model.disable_adapter():
            yield
    finally:  # PEFT would have all of the adapter trained afterwards
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


def trainable_lora_b(model: Any) -> list[Any]:
    """All ``B`` matrices of LoRA, which must be zero before the first step."""
    return [p for name, p in model.named_parameters() if "lora_B" in name]
