"""States of sharded optimisers <-> the dictionary that torch's own AdamW would save.

So a checkpoint is the same whatever the strategy, and loads under any other and on any number of
ranks. All ranks must call these together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
Groups = Sequence[Sequence[torch.nn.Parameter]]


def gather_zero_states(optimizer: Any, groups: Groups, *, keep: bool) -> dict[str, Any]:
    """What AdamW under DeepSpeed knows, gathered from all ranks.

    Args:
        optimizer: DeepSpeed's.
        groups: The parameters of each group, which DeepSpeed has put flat pieces in place of.
        keep: Whether this rank wants them; if not, it helps and gets nothing.

    Returns:
        As ``torch.optim.AdamW.state_dict()``, on the CPU.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    step = next((s["step"] for s in optimizer.optimizer.state.values() if "step" in s), None)
    states: dict[int, dict[str, Tensor]] = {}
    if step is not None:
        _link_states(optimizer)
        for index, parameter in enumerate(p for group in groups for p in group):
            moments = {
                name: safe_get_full_optimizer_state(parameter, name).cpu() for name in MOMENTS
            }
            if keep:
                states[index] = {"step": torch.as_tensor(step).cpu().clone(), **moments}
    return {"state": states, "param_groups": _settings(optimizer.param_groups, groups)}


def restore_zero_states(optimizer: Any, groups: Groups, saved: Mapping[str, Any]) -> None:
    """Give DeepSpeed's AdamW what ``gather_zero_states`` or torch's AdamW saved."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    _restore_settings(optimizer.param_groups, saved)
    if not saved["state"]:
        return
    stage_3 = hasattr(optimizer, "fp32_partitioned_groups_flat")
    pieces = (
        optimizer.fp32_partitioned_groups_flat
        if stage_3
        else optimizer.single_partition_of_fp32_groups
    )
    # There is no state before the first step, and so nothing to copy into.
    for piece in pieces:
        optimizer.optimizer.state[piece] = {
            "step": next(iter(saved["state"].values()))["step"].clone(),
            **{name: torch.zeros_like(piece) for name in MOMENTS},
        }
    _link_states(optimizer)
    for index, parameter in enumerate(p for group in groups for p in group):
        for name in MOMENTS:
            value = saved["state"][index][name].to(pieces[0].device)
            if stage_3:
                safe_set_local_optimizer_state(parameter, own_piece(parameter, value), name)
            else:
                safe_set_full_optimizer_state(parameter, value, name)


def _link_states(optimizer: Any) -> None:
    """Let DeepSpeed find the states of all groups at stage 2.

    It looks for them once, behind the step of the first group, when others have none yet.
    """
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def restore_zero_weights(parameter: Any, value: Tensor) -> None:
    """Give a parameter under DeepSpeed a value, and its float32 original in the optimiser too."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    if not hasattr(parameter, "ds_id"):
        value = value.to(parameter.device)
        parameter.data.copy_(value)
        safe_set_full_fp32_param(parameter, value)
        return
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(value)
    safe_set_local_fp32_param(parameter, own_piece(parameter, value))


def own_piece(parameter: Any, value: Tensor) -> Tensor:
    """What this rank holds of a value under ZeRO-3, which cuts evenly and fills up with zeros."""
    size = parameter.ds_tensor.numel()
    flat = value.flatten()
    start = size * torch.distributed.get_rank()
    piece = flat[start : start + size]
    return torch.nn.functional.pad(piece, (0, size - len(piece)))


def gather_fsdp_states(optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """What AdamW knows of parameters under FSDP2, gathered from all ranks, on the CPU."""
    found = optimizer.state_dict()
    states: dict[int, dict[str, Tensor]] = {}
    for index, state in found["state"].items():
        whole = {name: _whole(value).cpu() for name, value in state.items()}
        if keep:
            states[index] = whole
    return {"state": states, "param_groups": found["param_groups"]}


def restore_fsdp_states(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Cut saved states as the parameters are cut, and give them to AdamW."""
    from torch.distributed.tensor import distribute_tensor

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = {
        index: {
            name: distribute_tensor(
                value.to(parameters[index].device),
                parameters[index].device_mesh,
                parameters[index].placements,
                src_data_rank=None,
            )
            if name in MOMENTS
            else value
            for name, value in state.items()
        }
        for index, state in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": states})


def _whole(value: Any) -> Tensor:
    whole: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole


def _settings(param_groups: Sequence[Mapping[str, Any]], groups: Groups) -> list[dict[str, Any]]:
    """Rates and the like of each group, its parameters numbered through."""
    found: list[dict[str, Any]] = []
    start = 0
    for settings, group in zip(param_groups, groups, strict=True):
        numbers = list(range(start, start + len(group)))
        found.append({k: v for k, v in settings.items() if k != "params"} | {"params": numbers})
        start += len(group)
    return found


def _restore_settings(param_groups: Sequence[dict[str, Any]], saved: Mapping[str, Any]) -> None:
    for group, settings in zip(param_groups, saved["param_groups"], strict=True):
        group.update({k: v for k, v in settings.items() if k != "params"})
