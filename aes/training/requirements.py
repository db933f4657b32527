"""What a strategy needs of the machine and of the run, looked at before anything is started.

Knows sentences, not strategies' insides.
"""

from __future__ import annotations

import os

from aes.hardware import HardwareSpec, StrategySpec
from aes.model import LoraSpec
from aes.model.spec import AdapterSpec


def require_possible(strategy: StrategySpec, adapter: AdapterSpec) -> None:
    """Refuse an adapter that a strategy cannot train; looks at no machine.

    Raises:
        ValueError: If so.
    """
    if strategy.shards_weights and isinstance(adapter, LoraSpec) and "experts" in adapter.targets:
        raise ValueError(
            f"strategy={strategy.name} cannot train adapter.targets=experts: LoRA on fused experts "
            "is added to whole matrices, of which a rank holds a part; use strategy=zero2 or ddp, "
            "or take experts out of adapter.targets"
        )
    if strategy.shards_weights and isinstance(adapter, LoraSpec) and adapter.init_from is not None:
        raise ValueError(
            f"strategy={strategy.name} cannot begin with adapter.init_from, since no rank holds a "
            "whole matrix to put it in; use strategy=zero2 or ddp"
        )


def check_strategy_requirements(strategy: StrategySpec, hardware: HardwareSpec) -> None:
    """Refuse a strategy whose library does not work on this machine.

    A compiler is not needed: the one op that DeepSpeed compiles by itself is left out.

    Raises:
        ValueError: If so.
    """
    if not strategy.uses_deepspeed:
        return
    os.environ["DS_ACCELERATOR"] = hardware.accelerator  # before it is imported and looks around
    try:
        import deepspeed  # noqa: F401
    # It fails in many ways: without itself, without CUDA's toolkit, with another torch.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"strategy={strategy.name} needs DeepSpeed, which cannot be loaded here ({reason}); "
            "install it as pyproject.toml says, on a GPU with CUDA's toolkit and CUDA_HOME, or use "
            "strategy=ddp or fsdp2"
        ) from error
