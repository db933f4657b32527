"""A StrategySpec -> Lightning's strategy, for ranks that were started from outside.

All write the same checkpoint, one file with what is trained and its optimiser's states, so that a
run can go on under another strategy or on another number of ranks. Knows no model by name.
"""

from __future__ import annotations

import os

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from aes.hardware import HardwareSpec, StrategySpec
from aes.ranks import TIMEOUT, Ranks


def build_strategy(spec: StrategySpec, hardware: HardwareSpec, *, ranks: Ranks) -> Strategy:
    """The strategy of a Trainer whose devices and nodes are those of ``hardware``.

    The ranks are connected, and the model was loaded for the same ``spec``.

    Args:
        ranks: Where this process stands among them.
    """
    environment = RanksEnvironment(ranks)
    if spec.name == "single":
        is_cuda = hardware.accelerator == "cuda"
        return OneDevice(torch.device("cuda", 0) if is_cuda else torch.device("cpu"))
    if spec.name == "ddp":
        return Copies(cluster_environment=environment, timeout=TIMEOUT, broadcast_buffers=False)
    if spec.uses_deepspeed:
        from aes.training.deepspeed_strategy import build_deepspeed

        return build_deepspeed(spec, hardware, ranks=ranks, environment=environment)
    from aes.training.fsdp_strategy import build_fsdp

    return build_fsdp(hardware, environment=environment)


class RanksEnvironment(ClusterEnvironment):
    """Tells Lightning what Ranks says, so that it starts no processes of its own."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """They are there already."""
        return True

    @property
    def main_address(self) -> str:
        """Of the node of rank 0."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """On that node."""
        return int(os.environ.get("MASTER_PORT", "0"))  # the ranks have met already

    @staticmethod
    def detect() -> bool:
        """Never chosen by Lightning by itself."""
        return False

    def world_size(self) -> int:
        """Processes of the run."""
        return self._ranks.num_ranks

    def set_world_size(self, size: int) -> None:
        """Lightning's own count, which must be ours."""
        assert size == self._ranks.num_ranks, f"{size} devices, but {self._ranks}"

    def global_rank(self) -> int:
        """This process."""
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """Lightning's own count, which must be ours."""
        assert rank == self._ranks.rank, f"rank {rank}, but {self._ranks}"

    def local_rank(self) -> int:
        """This process among those of its node."""
        return self._ranks.local_rank

    def node_rank(self) -> int:
        """This node."""
        return self._ranks.rank // (self._ranks.num_ranks // self._ranks.num_nodes)


class StaysOnDevice(Strategy):
    """Leaves the model where it is when a fit ends; validation and samples come after it.

    Lightning would take it to host memory: 58 GiB and back, once for each call of the Trainer.
    """

    def teardown(self) -> None:
        """Let go of all but the model."""
        module = self._lightning_module
        self._lightning_module = None
        super().teardown()
        self._lightning_module = self.model = module


class OneDevice(StaysOnDevice, SingleDeviceStrategy):
    """One process."""


class Copies(StaysOnDevice, DDPStrategy):
    """The whole model on every rank; gradients are averaged."""
