"""Which of a run's processes this one is, and what they tell each other.

Ranks are always started from outside: by torchrun, by Slurm, or by ``aes.cli.launch``; what they
are comes from the environment. With one rank everything here does nothing. Knows no model and no
settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

T = TypeVar("T")

TIMEOUT = timedelta(hours=6)
"""How long ranks wait for one that prepares data or writes; one that died is noticed at once."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the processes of a run.

    Attributes:
        rank: From 0; the first one prints, logs and writes.
        local_rank: Among those of this node, from 0; also the number of its device.
        num_ranks: Processes of the run.
        num_nodes: Machines of the run.
        from_outside: Somebody started this process as one of several; ``False``: nobody did, and
            a run on several devices still has to start its ranks.
    """

    rank: int
    local_rank: int
    num_ranks: int
    num_nodes: int
    from_outside: bool

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints, logs and writes."""
        return self.rank == 0

    def connect(self, accelerator: Literal["cpu", "cuda"]) -> None:
        """Join the others; to be called once, before anything is told.

        Host messages go over gloo, tensors on a GPU over NCCL.
        """
        import torch

        if self.num_ranks == 1 or torch.distributed.is_initialized():
            return
        if "MASTER_ADDR" not in os.environ:
            _take_meeting_point_from_slurm()
        if accelerator == "cuda":
            torch.cuda.set_device(self.local_rank)
        torch.distributed.init_process_group(
            backend="gloo" if accelerator == "cpu" else "cpu:gloo,cuda:nccl",
            rank=self.rank,
            world_size=self.num_ranks,
            timeout=TIMEOUT,
        )

    def broadcast(self, value: T) -> T:
        """What rank 0 gave, on every rank."""
        if self.num_ranks == 1:
            return value
        import torch

        held = [value]
        torch.distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: T) -> list[T]:
        """What each rank gave, by rank, on every rank."""
        if self.num_ranks == 1:
            return [value]
        import torch

        held: list[Any] = [None] * self.num_ranks
        torch.distributed.all_gather_object(held, value)
        return held

    def barrier(self) -> None:
        """Wait for all."""
        self.gather(None)

    def disconnect(self) -> None:
        """Leave the others in good order; nothing may be told afterwards."""
        import torch

        if self.num_ranks > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def leave_ranks() -> None:
    """Leave the others in the middle of things, before this process ends by a mistake.

    Gloo's threads would end it by SIGABRT. With NCCL nothing is done: to leave waits for its work.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_initialized():
        return
    if torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def _take_meeting_point_from_slurm() -> None:
    """The first node of the job, and a port that its number decides."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    slurm = SLURMEnvironment()
    os.environ["MASTER_ADDR"] = slurm.main_address
    os.environ["MASTER_PORT"] = str(slurm.main_port)


ALONE = Ranks(rank=0, local_rank=0, num_ranks=1, num_nodes=1, from_outside=False)


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Reads who this process is, as torchrun or Slurm's srun tell it.

    A process within a Slurm job that srun did not start as one of several is alone.

    Raises:
        ValueError: If the variables are there but make no sense.
    """
    if "TORCHELASTIC_RUN_ID" in environment or "AES_RANKS" in environment:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        started_by = "torchrun"
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # srun's own; sbatch has NTASKS
        names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE")
        started_by = "srun"
    else:
        return ALONE
    try:
        rank, local_rank, num_ranks, per_node = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{started_by} gave no usable {', '.join(names)} ({error}); start the run by torchrun "
            "or by srun with --ntasks-per-node, or without either"
        ) from error
    if not (0 <= local_rank < per_node and 0 <= rank < num_ranks and num_ranks % per_node == 0):
        raise ValueError(
            f"{started_by} says rank {rank} of {num_ranks}, {local_rank} of {per_node} on this "
            "node, which cannot be; start as many ranks on every node"
        )
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        num_ranks=num_ranks,
        num_nodes=num_ranks // per_node,
        from_outside=True,
    )
