"""The machine that a run uses and how the model is spread over it.

Plain numbers for plans and trainers; nothing here looks at the real machine.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class HardwareSpec:
    """Devices and what they can do.

    Attributes:
        accelerator: Kind of device.
        devices: Devices per node.
        num_nodes: Machines.
        precision: ``bf16`` holds the base in bfloat16 and trains adapters in float32.
        micro_batch_size: Examples per device and forward pass.
        num_workers: Loader processes per device; 0 draws pages in the training process.
        memory_gib: Memory per device in GiB; ``None``: what the machine of the run has.
        peak_tflops: Dense matrix throughput per device at ``precision``, in TFLOP/s.
        memory_bandwidth_tb_s: Memory bandwidth per device in TB/s.
        link_gb_s: Bandwidth between two devices of a node, a direction, in GB/s.
        node_link_gb_s: Bandwidth between two nodes, per device and direction, in GB/s.
        price_per_hour: Of one node, in the user's currency; 0: not known.
    """

    accelerator: Literal["cpu", "cuda"]
    devices: Annotated[int, Field(ge=1)]
    num_nodes: Annotated[int, Field(ge=1)]
    precision: Literal["fp32", "bf16"]
    micro_batch_size: Annotated[int, Field(ge=1)]
    num_workers: Annotated[int, Field(ge=0)]
    memory_gib: Annotated[float, Field(gt=0)] | None
    peak_tflops: Annotated[float, Field(gt=0)]
    memory_bandwidth_tb_s: Annotated[float, Field(gt=0)]
    link_gb_s: Annotated[float, Field(gt=0)]
    node_link_gb_s: Annotated[float, Field(gt=0)]
    price_per_hour: Annotated[float, Field(ge=0)]

    @property
    def num_ranks(self) -> int:
        """Processes of a run, one per device."""
        return self.devices * self.num_nodes


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StrategySpec:
    """How weights, gradients and optimiser states are spread over the ranks.

    Attributes:
        name: ``single``: one process. ``ddp``: a copy on every rank. ``zero2``: optimiser states
            and gradients sharded (DeepSpeed). ``zero3``: weights sharded too. ``zero3_offload``:
            their shards wait in host memory. ``fsdp2``: as ``zero3``, by PyTorch itself.
    """

    name: Literal["single", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2"]

    @property
    def shards_weights(self) -> bool:
        """Whether a rank holds only a part of the model, so that all must compute in step."""
        return self.name in ("zero3", "zero3_offload", "fsdp2")

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed runs it."""
        return self.name in ("zero2", "zero3", "zero3_offload")


def accumulation_steps(*, global_batch_size: int, micro_batch_size: int, num_ranks: int) -> int:
    """Micro-batches that each rank accumulates before an optimiser step.

    Raises:
        ValueError: If the global batch cannot be cut into equal micro-batches.
    """
    per_pass = micro_batch_size * num_ranks
    if global_batch_size < 1 or global_batch_size % per_pass:
        raise ValueError(
            f"global_batch_size={global_batch_size} does not divide into micro-batches of "
            f"{micro_batch_size} on {num_ranks} device(s); make it a multiple of {per_pass}, or "
            "change hardware.micro_batch_size"
        )
    return global_batch_size // per_pass
