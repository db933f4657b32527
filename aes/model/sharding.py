"""Models that no rank holds whole: what their two kinds have in common.

Such a model is built without weights, and each tensor of the checkpoint is cut when it is read, so
that no rank ever holds more than its part and one tensor. What is trained can be gathered again.
Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aes.model.config import model_class
from aes.model.weights_file import WeightsFile, refuse_misfits
from aes.ranks import Ranks

Places = list[tuple[nn.Module, str]]


def own_device(accelerator: Literal["cpu", "cuda"], ranks: Ranks) -> torch.device:
    """The device of this rank."""
    return torch.device("cpu") if accelerator == "cpu" else torch.device("cuda", ranks.local_rank)


def build_empty(folder: Path, *, dtype: torch.dtype) -> Any:
    """A checkpoint's model without weights: parameters on meta, buffers as they must be."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    with _parameters_on_meta():
        model = model_class(config).from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Within this context modules keep their parameters' shapes only.

    Unlike ``torch.device("meta")`` it leaves buffers real, which no checkpoint holds.
    """
    register = nn.Module.register_parameter

    def register_shape(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # else it may be tied
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_shape  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def parameter_places(model: Any) -> Mapping[str, Places]:
    """Where each parameter stands, by its first name; tied ones stand in several places."""
    first: dict[int, str] = {}
    places: dict[str, Places] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = first.setdefault(id(parameter), f"{prefix}.{attribute}".lstrip("."))
            places.setdefault(name, []).append((module, attribute))
    return places


def require_fit(file: WeightsFile, model: Any) -> None:
    """Every weight must be there and find its place.

    Raises:
        ValueError: If not.
    """
    names = {id(p): name for name, p in reversed(list(model.named_parameters()))}
    expected = {name: tuple(p.shape) for name, p in model.named_parameters() if id(p) in names}
    refuse_misfits(file.folder, file.misfits(expected))


def join_alone(ranks: Ranks, accelerator: Literal["cpu", "cuda"]) -> None:
    """Sharding wants a process group, also of one."""
    if ranks.num_ranks == 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            backend="gloo" if accelerator == "cpu" else "cpu:gloo,cuda:nccl",
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )


def full_tensor(parameter: Any) -> Tensor:
    """The whole of a parameter on every rank, detached; all ranks must ask for it together."""
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            whole: Tensor = parameter.detach().clone()
    elif hasattr(parameter, "full_tensor"):  # FSDP2
        whole = parameter.detach().full_tensor()
    else:
        whole = parameter.detach()
    return whole


def trained_state_dict(module: Any, *, keep: bool = True) -> dict[str, Tensor]:
    """Trained parameters by name, whole, on the CPU; all ranks must ask together.

    Args:
        keep: Whether this rank wants them; if not, it helps and gets nothing.
    """
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            whole = full_tensor(parameter)
            if keep:
                found[name] = whole.cpu().clone()
    return found
