"""One rank of a small training, for tests of strategies: reads a job, writes what it saw.

Run as ``python strategy_rank.py JOB``, a pickled dictionary; see ``test_strategies_alike.py``.
"""

import pickle
import sys
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from aes.cli.environment import prepare_environment
from aes.data import BatchingSpec
from aes.data.datamodule import EssayDataModule
from aes.data.processor import Processor
from aes.grading import Grader
from aes.inference.engine import Engine
from aes.kernels.parts import unwrap
from aes.model.adapters import trainable_lora_b, without_adapter
from aes.model.loading import load_model
from aes.model.sharding import full_tensor, trained_state_dict
from aes.ranks import Ranks, find_ranks
from aes.training.loss import summed_loss
from aes.training.module import TuningModule
from aes.training.progress import peak_memory_gib
from aes.training.saving import save_trained
from aes.training.strategies import build_strategy
from aes.training.validation import GradingValidation

PADDED = BatchingSpec(order="bucketed", pool_steps=8, layout="padded", max_tokens=None)


class Watch(Callback):
    """Notes every optimiser step, and saves where the job says so."""

    def __init__(self, job: dict[str, Any], ranks: Ranks) -> None:
        self.job, self.ranks = job, ranks
        self.losses: list[float] = []
        self.rates: list[list[float]] = []
        self.norms: list[float] = []
        self.times: list[float] = []
        self.lora_b_is_zero = False
        self.seen = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = trainer.global_step
        whole = [full_tensor(b) for b in trainable_lora_b(pl_module.model)]
        self.lora_b_is_zero = all(b.numel() > 0 and not b.any() for b in whole)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self.job["strategy"].name == "single":
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(grads)))

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.rate = [group["lr"] for group in trainer.optimizers[0].param_groups]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.seen:
            return
        self.seen = trainer.global_step
        self.losses.append(pl_module.step_report(stop_signal=0, waited_s=0.0).loss)
        self.rates.append(self.rate)
        self.times.append(time.perf_counter())
        if self.seen == self.job.get("save_at"):
            trainer.save_checkpoint(self.job["folder"] / "saved.ckpt")


def build(job: dict[str, Any], ranks: Ranks) -> tuple[TuningModule, EssayDataModule]:
    hardware = job["hardware"]
    processor = Processor(
        job["checkpoint"],
        ranges=job["builder"].rubric.ranges,
        min_pixels=job["model"].min_pixels,
        max_pixels=job["model"].max_pixels,
    )
    model = load_model(
        job["model"],
        job["adapter"],
        cache=job["folder"],
        precision=hardware.precision,
        accelerator=hardware.accelerator,
        gradient_checkpointing=job.get("gradient_checkpointing", "none"),
        gradient_checkpointing_every=2,
        seed=1,
        strategy=job["strategy"],
        attention=job.get("attention", "sdpa"),
        kernels=job.get("kernels"),
        ranks=ranks,
    )
    grader = Grader(
        engine=Engine(
            model=model,
            processor=processor,
            renderer=job["builder"].renderer,
            decoding=job["decoding"],
            precision=hardware.precision,
            spec=job["engine"],
        ),
        rubric=job["builder"].rubric,
    )
    data = EssayDataModule(
        train=job["train"],
        val=job["val"],
        renderer=job["builder"].renderer,
        processor=processor,
        global_batch_size=job["global_batch_size"],
        micro_batch_size=hardware.micro_batch_size,
        batching=job.get("batching", PADDED),
        decoding_batch_size=2,
        num_workers=0,
        seed=1,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
    )
    module = TuningModule(
        validation=GradingValidation(grader, ranks=ranks),
        loss=job["loss"],
        optim=job["optim"],
        precision=hardware.precision,
        accumulation=data.sampler.accumulation,
        num_steps=job["num_steps"],
        logit_rows=job.get("logit_rows"),
        ranks=ranks,
    )
    return module, data


def first_loss_of_base(module: TuningModule, data: EssayDataModule) -> float:
    """The loss of the first step as the base has it, without the adapter."""
    engine, total = module.validation.engine, 0.0
    batches = iter(data.train_dataloader())
    with torch.no_grad(), without_adapter(module.model):
        for batch in filter(None, islice(batches, module.accumulation)):
            loss = summed_loss(
                module.model,
                batch,
                spec=module.loss_spec,
                score_steps=engine.processor.guide.table,
            )
            total += float(loss / batch["num_supervised_in_step"])
    return total


def held_bytes(model: Any) -> int:
    """What this rank holds of the weights between two steps."""
    parts = [getattr(p, "ds_tensor", getattr(p, "_local_tensor", p)) for p in model.parameters()]
    return sum(part.numel() * part.element_size() for part in parts)


def main(job: dict[str, Any]) -> None:
    prepare_environment()
    warnings.filterwarnings("ignore")
    ranks = find_ranks()
    hardware = job["hardware"]
    ranks.connect(hardware.accelerator)
    seed_everything(1, verbose=False)
    module, data = build(job, ranks)
    watch = Watch(job, ranks)
    alone = job["strategy"].name == "single" and job.get("base_loss", False)
    base_loss = first_loss_of_base(module, data) if alone else None
    trainer = Trainer(
        accelerator=hardware.accelerator,
        strategy=build_strategy(job["strategy"], hardware, ranks=ranks),
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        use_distributed_sampler=False,
        precision="32-true",
        max_epochs=-1,
        max_steps=job.get("max_steps", job["num_steps"]),
        accumulate_grad_batches=module.accumulation,
        gradient_clip_val=job["clip"],
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=[watch],
    )
    trainer.fit(module, datamodule=data, ckpt_path=job.get("resume"), weights_only=False)
    trainer.limit_val_batches = 1.0
    trainer.validate(module, datamodule=data, verbose=False)
    trained = trained_state_dict(module.model)
    whole = sum(full_tensor(p).nbytes for p in module.model.parameters())
    found = {
        "losses": watch.losses,
        "base_loss": base_loss,
        "rates": watch.rates,
        "norms": watch.norms,
        "s_per_step": (watch.times[-1] - watch.times[1]) / max(1, len(watch.times) - 2),
        "sizes": [len(picks) for picks in data.sampler],
        "lora_b_is_zero": watch.lora_b_is_zero,
        "global_step": trainer.global_step,
        "trained": trained,
        "grades": {e.id: g.expected for e, g in module.validation.graded},
        "num_graded": len(module.validation.graded),
        "held": held_bytes(module.model),
        "whole": whole,
        "peak_gib": peak_memory_gib(torch.device("cpu")),
        "saved": str(
            save_trained(module.model, job["folder"], base="base", grading={}, ranks=ranks)
        ),
        "dtypes": sorted({str(p.dtype) for p in unwrap(module.model).parameters()}),
    }
    torch.save(found, job["folder"] / f"rank{ranks.rank}.pt")
    ranks.disconnect()


if __name__ == "__main__":
    main(pickle.loads(Path(sys.argv[1]).read_bytes()))
