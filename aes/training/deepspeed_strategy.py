"""ZeRO by DeepSpeed, on CPUs as on GPUs.

Differs from Lightning's strategy where that would train another model than one process does: it
divides the accumulated gradient once, steps at the end of an epoch, and leaves a bfloat16 base as
it is.
"""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer

from aes.hardware import HardwareSpec, StrategySpec
from aes.model.sharding import trained_state_dict
from aes.model.zero import deepspeed_config, start_deepspeed
from aes.ranks import TIMEOUT, Ranks
from aes.training.optimizer_states import (
    gather_zero_states,
    restore_zero_states,
    restore_zero_weights,
)

_LARGEST_BUCKET = 200_000_000
"""Gradients that are reduced together, at most; 0.8 GB."""


def build_deepspeed(
    spec: StrategySpec, hardware: HardwareSpec, *, ranks: Ranks, environment: ClusterEnvironment
) -> DeepSpeedStrategy:
    """ZeRO of the stage that ``spec`` names."""
    start_deepspeed(ranks, hardware.accelerator)
    return Zero(
        config=deepspeed_config(spec, micro_batch_size=hardware.micro_batch_size),
        cluster_environment=environment,
        precision_plugin=ZeroPrecision("32-true"),
        process_group_backend="gloo" if hardware.accelerator == "cpu" else "nccl",
        timeout=TIMEOUT,
    )


class ZeroPrecision(DeepSpeedPrecision):
    """Dtypes are the model's own; losses are divided by Lightning alone."""

    def convert_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """Lightning would make the frozen bfloat16 base float32, twice its size."""
        return module

    def convert_input(self, data: Any) -> Any:
        """As it is."""
        return data

    def tensor_init_context(self) -> AbstractContextManager[Any]:
        """As it is."""
        return nullcontext()

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """DeepSpeed would divide by the accumulation once more."""
        engine: Any = model.trainer.strategy.model
        engine.backward(tensor, *args, scale_wrt_gas=False, **kwargs)


class Zero(DeepSpeedStrategy):
    """DeepSpeed's engine around the module."""

    _engine: Any = None

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Lightning counts micro-batches, since it alone knows where an epoch ends."""
        return False

    def block_backward_sync(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Gradients are cut after every pass: to keep them whole would cost what ZeRO saves."""
        return nullcontext()

    def setup_environment(self) -> None:
        """As for other strategies; Lightning's own would refuse all but CUDA."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """The ranks are connected already, and known to DeepSpeed."""
        self.set_world_ranks()

    def model_sharded_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """The model is sharded while it is loaded; see ``aes.model.sharding``."""
        return nullcontext()

    def _setup_model_and_optimizer(
        self, model: Any, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Optimizer]:
        import deepspeed

        assert optimizer is not None
        # DeepSpeed puts flat pieces in their place, which say no more what they belong to.
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        num_trained = sum(getattr(p, "ds_numel", p.numel()) for g in self._groups for p in g)
        assert isinstance(self.config, dict)
        # Two buffers of this size are held whole, however little there is to reduce.
        bucket = min(_LARGEST_BUCKET, num_trained)
        self.config["zero_optimization"]["reduce_bucket_size"] = bucket
        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[p for group in self._groups for p in group],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,  # handed back to Lightning, which steps it
            dist_init_required=False,
        )
        self._engine = engine
        return engine, wrapped

    def _initialize_deepspeed_inference(self, model: torch.nn.Module) -> None:
        # A validation of its own comes after a fit, whose engine still holds the shards.
        if self._engine is not None:
            self.model = self._engine

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Say before the pass whether an optimiser step follows it."""
        assert self.lightning_module is not None
        accumulates = self.lightning_module.trainer.fit_loop._should_accumulate()
        self._engine.set_gradient_accumulation_boundary(not accumulates)
        return super().training_step(*args, **kwargs)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, whole, on rank 0."""
        assert self.lightning_module is not None
        return trained_state_dict(self.lightning_module, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The states of all ranks, on rank 0."""
        return gather_zero_states(self._engine.optimizer, self._groups, keep=self.is_global_zero)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """One file, written by rank 0; DeepSpeed's folder would fit this number of ranks only."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """The file, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every rank its part of what was trained."""
        assert self.lightning_module is not None
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                restore_zero_weights(parameter, checkpoint["state_dict"][name])

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Through ``load_optimizer_state_dict``."""
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every rank its part of the states."""
        (saved,) = checkpoint["optimizer_states"]
        restore_zero_states(self._engine.optimizer, self._groups, saved)

    def teardown(self) -> None:
        """Leave model and engine where they are; validation and samples come after a fit."""
        assert self.cluster_environment is not None and self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
