"""DeepSpeed's settings, and models cut for ZeRO-3 while they are loaded.

transformers can load for ZeRO-3 too, but merges the whole checkpoint in one rank's memory and does
not say what was left over. Knows nothing of training.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from aes.hardware import StrategySpec
from aes.model.sharding import (
    build_empty,
    join_alone,
    own_device,
    parameter_places,
    require_fit,
)
from aes.model.weights_file import WeightsFile
from aes.ranks import Ranks


def deepspeed_config(spec: StrategySpec, *, micro_batch_size: int) -> dict[str, Any]:
    """Settings of DeepSpeed's engine, and of the shards that a model is loaded into.

    Neither bf16 nor fp16 is named: dtypes are the model's own.
    """
    stage = 2 if spec.name == "zero2" else 3
    zero: dict[str, Any] = {"stage": stage, "contiguous_gradients": True, "overlap_comm": True}
    if spec.name == "zero3_offload":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # Torch's AdamW also where states are in host memory: DeepSpeed's own must be compiled.
        "zero_force_ds_cpu_optimizer": False,
    }


def start_deepspeed(ranks: Ranks, accelerator: Literal["cpu", "cuda"]) -> None:
    """Make the connected ranks known to DeepSpeed; may be called again."""
    os.environ["DS_ACCELERATOR"] = accelerator  # before it is imported, which looks for a GPU
    # It reads them even where the ranks are connected already.
    os.environ["LOCAL_RANK"] = str(ranks.local_rank)
    join_alone(ranks, accelerator)
    import deepspeed

    # DeepSpeed's calls of torch, a line for each kind again and again.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated.*")

    # Only inference uses that op. On a CPU it is compiled at the first run: it takes a C++
    # compiler and a minute, and one that was killed leaves a lock that all later runs wait for.
    deepspeed.ops.__compatible_ops__.pop("deepspeed_shm_comm", None)
    deepspeed.init_distributed(
        dist_backend="gloo" if accelerator == "cpu" else "nccl",
        auto_mpi_discovery=False,
        dist_init_required=False,
    )


def load_zero3(
    folder: Path,
    strategy: StrategySpec,
    *,
    dtype: torch.dtype,
    accelerator: Literal["cpu", "cuda"],
    ranks: Ranks,
) -> Any:
    """A model cut for ZeRO-3; rank 0 reads the checkpoint.

    Raises:
        ValueError: If the checkpoint does not fit.
    """
    start_deepspeed(ranks, accelerator)
    import deepspeed

    settings = deepspeed_config(strategy, micro_batch_size=1)
    device = own_device(accelerator, ranks)
    model = build_empty(folder, dtype=dtype)
    first: Any = None
    with WeightsFile(folder) as file:
        require_fit(file, model)
        for name, places in parameter_places(model).items():
            empty = places[0][0]._parameters[places[0][1]]
            assert empty is not None
            shape = tuple(empty.shape)
            value = file.read(name, shape).contiguous() if ranks.is_first else torch.empty(shape)
            parameter = nn.Parameter(value.to(device, dtype), requires_grad=empty.requires_grad)
            for module, attribute in places:
                module._parameters[attribute] = parameter
            if first is None:
                first, holder = parameter, nn.Module()
                holder.register_parameter("weight", parameter)
                deepspeed.zero.Init(module=holder, config_dict_or_path=settings, dtype=dtype)
            else:
                first.convert_to_zero_parameters(param_list=[parameter])
    _mark_experts(model)
    return model


def _mark_experts(model: Any) -> None:
    """Gather a block of experts as one: which of them a rank needs differs from rank to rank."""
    from deepspeed.utils import set_z3_leaf_modules

    blocks = {type(m) for m in model.modules() if type(m).__name__.endswith("SparseMoeBlock")}
    assert bool(blocks) == bool(getattr(model.config.get_text_config(), "num_experts", 0))
    if blocks:
        set_z3_leaf_modules(model, list(blocks))
