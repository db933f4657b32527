"""Models cut by PyTorch itself (FSDP2) while they are loaded.

Every rank reads its own rows of every tensor and nothing else. Knows nothing of training.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from aes.kernels.parts import language_model_of, tower_of, unwrap
from aes.model.adapters import add_adapter
from aes.model.sharding import (
    build_empty,
    join_alone,
    own_device,
    parameter_places,
    require_fit,
)
from aes.model.spec import AdapterSpec, LoraSpec
from aes.model.weights_file import WeightsFile
from aes.ranks import Ranks

_WRAPPINGS = re.compile(r"^base_model\.model\.|\b(?:base_layer|original_module)\.")
_COPIES = re.compile(r"\bmodules_to_save\.\w+\.")


def load_fsdp(
    folder: Path,
    adapter: AdapterSpec,
    *,
    dtype: torch.dtype,
    accelerator: Literal["cpu", "cuda"],
    ranks: Ranks,
    seed: int,
) -> Any:
    """A model with its adapter, cut for FSDP2.

    The adapter must be there before the cut, which each group of parameters gets as a whole.

    Raises:
        ValueError: If the checkpoint does not fit, or the adapter cannot be added.
    """
    join_alone(ranks, accelerator)
    device = own_device(accelerator, ranks)
    model = build_empty(folder, dtype=dtype)
    with WeightsFile(folder) as file:
        require_fit(file, model)
        shapes, sources = _untie(model, adapter)
        _put_placeholders(model, device)
        model = add_adapter(model, adapter, seed=seed)
        _take_placeholders(model, shapes)
        _cut(unwrap(model), device)
        _fill(model, file, shapes, sources, device)
    return model


def _untie(model: Any, adapter: AdapterSpec) -> tuple[dict[str, torch.Size], dict[str, str]]:
    """Give tied weights a place each: two groups cannot share one.

    Returns:
        Shapes by name, and the name that the checkpoint has for each.

    Raises:
        ValueError: If they are trained, which would make them differ.
    """
    shapes, sources = {}, {}
    names = {id(m): name for name, m in model.named_modules()}
    for source, places in parameter_places(model).items():
        if len(places) > 1 and not isinstance(adapter, LoraSpec):
            raise ValueError(
                f"this model shares {source} between two modules, which strategy=fsdp2 cannot "
                "train; choose strategy=zero3, or an adapter"
            )
        for module, attribute in places:
            tied = module._parameters[attribute]
            assert tied is not None
            module._parameters[attribute] = nn.Parameter(tied.data, tied.requires_grad)
            name = f"{names[id(module)]}.{attribute}"
            shapes[name], sources[name] = tied.shape, source
    return shapes, sources


def _put_placeholders(model: Any, device: torch.device) -> None:
    """Empty tensors on the device, where PEFT will put what it adds."""
    for places in parameter_places(model).values():
        for module, attribute in places:
            old = module._parameters[attribute]
            assert old is not None
            module._parameters[attribute] = nn.Parameter(
                torch.empty(0, dtype=old.dtype, device=device), old.requires_grad
            )


def _take_placeholders(model: Any, shapes: dict[str, torch.Size]) -> None:
    """Parameters of the right shapes in their place, still without weights."""
    for name, places in parameter_places(model).items():
        for module, attribute in places:
            old = module._parameters[attribute]
            assert old is not None
            shape = shapes.get(checkpoint_name(name))
            if shape is not None:
                module._parameters[attribute] = nn.Parameter(
                    torch.empty(shape, dtype=old.dtype, device="meta"), old.requires_grad
                )


def checkpoint_name(name: str) -> str:
    """Name of a parameter of a PEFT model in the base's checkpoint, if it has one there."""
    return _COPIES.sub("", _WRAPPINGS.sub("", name))


def _cut(base: Any, device: torch.device) -> None:
    """Group parameters by what is computed together, and cut each group among all ranks.

    Training calls the inner model and the head, never the whole, so these two are the roots.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    text, tower = language_model_of(base), tower_of(base)
    for module in (
        *(() if tower is None else (*tower.blocks, tower)),
        text.embed_tokens,
        *text.layers,
        base.model,
        base.lm_head,
    ):
        # Else the roots would stay whole behind a pass.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _fill(
    model: Any,
    file: WeightsFile,
    shapes: dict[str, torch.Size],
    sources: dict[str, str],
    device: torch.device,
) -> None:
    """Read this rank's rows of every tensor."""
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    filled = {}
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta":
            continue
        base_name = checkpoint_name(name)
        shape = shapes[base_name]
        # As torch.chunk cuts: the last ranks may get fewer rows, or none.
        start = min(rank * -(-shape[0] // num_ranks), shape[0])
        cut: Any = torch.empty_like(parameter, device=device, requires_grad=False)
        local = cut.to_local()
        rows = slice(start, start + len(local))
        local.copy_(file.read(sources[base_name], tuple(shape), rows=rows))
        filled[name] = cut
    model.load_state_dict(filled, strict=False, assign=True)
