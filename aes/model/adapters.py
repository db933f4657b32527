"""Adds what is trained to a model: LoRA on named sets of matrices, or nothing beside the model.

Knows the names of Qwen3's and Qwen3-VL's modules; knows nothing of data or optimisers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aes.kernels.parts import tower_of
from aes.model.adapter_file import AdapterFile, LoraUpdate, read_adapter, sort_weights
from aes.model.adapter_names import SETS
from aes.model.spec import AdapterSpec, LoraSpec

# Patterns over full module names; all models share the language model's, whether its layers stand
# in `model.language_model` or, where text alone is read, in `model`.
_OF_SETS = {
    "attention": r".*model\.layers\.\d+\.self_attn\.",
    "mlp": r".*model\.layers\.\d+\.mlp\.",
}
_VISION = r".*visual\..*(?:attn\.(?:qkv|proj)|linear_fc[12])"
_FUSED_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def add_adapter(model: Any, adapter: AdapterSpec, *, seed: int = 0) -> Any:
    """Make ``model`` trainable as ``adapter`` says.

    With LoRA every other weight is frozen and a PEFT model comes back. Unless the adapter begins
    with another one, its ``B`` matrices are zero, so it answers as the model did. Trained weights
    beside it are float32 whatever it is.

    Args:
        seed: Of the random ``A`` matrices.

    Raises:
        ValueError: If a set or module named by the adapter does not exist in the model, or what it
            begins with does not fit.
    """
    if not isinstance(adapter, LoraSpec):
        model.requires_grad_(True)
        return model
    import torch
    from peft import LoraConfig, get_peft_model

    experts = "experts" in adapter.targets
    num_experts = getattr(model.config.get_text_config(), "num_experts", 0)
    if experts and not num_experts:
        raise ValueError(
            "adapter.targets names experts, but this model is dense and has none; use attention"
        )
    if experts and adapter.dropout:
        raise ValueError(
            f"adapter.dropout={adapter.dropout} cannot act on fused experts; set adapter.dropout=0 "
            "or take experts out of adapter.targets"
        )
    if "vision" in adapter.targets and tower_of(model) is None:
        raise ValueError(
            "adapter.targets names vision, but this model reads text alone; use attention"
        )
    if num_experts and not {"mlp", *SETS["mlp"]}.isdisjoint(adapter.targets):
        raise ValueError(
            "adapter.targets names matrices of an MLP, but this model has experts in its place; "
            "use experts"
        )
    _require_modules(model, adapter.modules_to_save)
    patterns = _patterns(adapter)
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
    if adapter.init_from is not None and next(peft_model.parameters()).device.type != "meta":
        file = read_adapter(adapter.init_from.expanduser())
        file.require_agreement(adapter)
        fill_adapter(peft_model, file)
    return peft_model


def _patterns(adapter: LoraSpec) -> list[str]:
    """Of the linear layers that the adapter reaches."""
    found = [_VISION] if "vision" in adapter.targets else []
    for name, start in _OF_SETS.items():
        members = [one for one in SETS[name] if not {name, one}.isdisjoint(adapter.targets)]
        if members:
            found.append(f"{start}(?:{'|'.join(members)})")
    return found


def fill_adapter(model: Any, file: AdapterFile) -> None:
    """Give a PEFT model's adapter the weights of a file.

    Matrices that the file does not change begin as those of a new adapter do.

    Raises:
        ValueError: If the file's weights have no place in it.
    """
    import torch
    from peft import get_peft_model_state_dict

    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    places, whole = sort_weights(saved, file.folder)
    num_experts = getattr(model.config.get_text_config(), "num_experts", 0)
    with torch.no_grad():
        for module, updates in file.updates.items():
            for update in updates:
                place, update = _find_place(update, places.get(module, []), num_experts)
                if place is None:
                    raise _misfit(file, module)
                place.a.copy_(update.a)
                place.b.copy_(update.b)
        if file.whole.keys() != whole.keys():
            raise _misfit(file, min(file.whole.keys() ^ whole.keys()))
        for name, tensor in file.whole.items():
            if tensor.shape != whole[name].shape:
                raise _misfit(file, name)
            whole[name].copy_(tensor)


def _find_place(
    update: LoraUpdate, places: list[LoraUpdate], num_experts: int
) -> tuple[LoraUpdate | None, LoraUpdate]:
    """Where an update belongs by its sizes, and the update as it is put there."""
    turned = [update.turned(num_experts)] if num_experts and len(places) > 1 else []
    for one in (update, *turned):
        for place in places:
            if place.a.shape == one.a.shape and place.b.shape == one.b.shape:
                return place, one
    return None, update


def _misfit(file: AdapterFile, name: str) -> ValueError:
    return ValueError(
        f"the adapter in {file.folder} does not fit this base model: {name} has no place of its "
        "size; use the model= that it was trained on"
    )


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
