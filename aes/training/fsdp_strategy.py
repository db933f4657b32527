"""FSDP2 by Lightning's ModelParallelStrategy, with checkpoints as every other strategy writes."""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch.distributed.tensor import distribute_tensor
from torch.optim import Optimizer

from aes.hardware import HardwareSpec
from aes.model.sharding import trained_state_dict
from aes.ranks import TIMEOUT
from aes.training.optimizer_states import gather_fsdp_states, restore_fsdp_states


def build_fsdp(hardware: HardwareSpec, *, environment: ClusterEnvironment) -> ModelParallelStrategy:
    """FSDP2 over all ranks, for a model that was cut when it was loaded."""
    strategy = Fsdp(
        data_parallel_size=hardware.num_ranks,
        tensor_parallel_size=1,
        process_group_backend="gloo" if hardware.accelerator == "cpu" else "nccl",
        timeout=TIMEOUT,
    )
    strategy.cluster_environment = environment
    return strategy


class Fsdp(ModelParallelStrategy):
    """A model whose parameters are DTensors."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, whole, on rank 0."""
        assert self.lightning_module is not None
        return trained_state_dict(self.lightning_module, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The states of all ranks, on rank 0."""
        inner = getattr(optimizer, "_optimizer", optimizer)
        return gather_fsdp_states(inner, keep=self.is_global_zero)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """One file, written by rank 0."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """The file, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every rank its part of what was trained."""
        assert self.lightning_module is not None
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                cut: Any = parameter.detach()
                saved = checkpoint["state_dict"][name].to(cut.device, cut.dtype)
                cut.copy_(
                    distribute_tensor(saved, cut.device_mesh, cut.placements, src_data_rank=None)
                )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Through ``load_optimizer_state_dict``."""
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every rank its part of the states."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            restore_fsdp_states(optimizer, saved)
