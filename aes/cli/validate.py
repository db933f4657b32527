"""Refuses settings that are fine one by one but cannot run together, or would do nothing.

Reads no data and no weights; looks at this machine only where a run needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aes.cli.layout import check_batching, choose_kernels
from aes.cli.texts import AUTO_MONITOR, check_texts, measured_in_validation
from aes.hardware import accumulation_steps
from aes.inference import VllmSpec
from aes.model import LoraSpec
from aes.model.quantization import require_bitsandbytes, require_quantizable
from aes.ranks import find_ranks
from aes.training.requirements import check_strategy_requirements, require_possible

if TYPE_CHECKING:
    from aes.cli.settings import Settings


def check_combination(settings: Settings) -> None:
    """Refuses settings that are fine one by one but not together or not on this machine.

    Raises:
        ValueError: If the run could not start, or a setting would do nothing.
    """
    hardware = settings.hardware
    accumulation_steps(
        global_batch_size=settings.global_batch_size,
        micro_batch_size=hardware.micro_batch_size,
        num_ranks=hardware.num_ranks,
    )
    if isinstance(settings.engine, VllmSpec):
        raise ValueError(
            f"engine={settings.choices['engine']} answers for evaluate.py and predict.py alone, "
            "since validation needs the weights that are being trained; leave it out"
        )
    check_texts(settings)
    _check_strategy(settings)
    _check_adapter(settings)
    _check_quantization(settings)
    check_batching(settings)
    _check_kernels(settings)
    _check_monitor(settings)
    if not settings.check_only:
        _check_machine(settings, otherwise=", or only plan the run with check_only=true")
        require_bitsandbytes(settings.model.quantization, hardware.accelerator)
        check_strategy_requirements(settings.strategy, hardware)


_WITHOUT_EFFECT = (
    *("adapter", "batching", "callbacks", "loss", "optim", "strategy", "trainer", "vision_cache"),
    *("check_only", "global_batch_size", "resume", "run_dir"),
    *("kernels.attention", "kernels.compile", "kernels.logit_rows"),
)
"""Groups and keys of training alone."""
_WITHOUT_EFFECT_ON_VLLM = ("kernels", "decoding.batch_size")


def check_grading(settings: Settings, run_dir: Path, *, overrides: Sequence[str]) -> None:
    """Refuses to grade with a run that cannot, or with settings that would do nothing.

    Args:
        settings: The run's own, with the changes of the command line.
        run_dir: The run.
        overrides: The command line.

    Raises:
        ValueError: If the run is incomplete or was trained for another rubric, this machine lacks
            the hardware, or a setting has no effect.
    """
    from aes.model.trained import read_grading_facts

    _check_effect(settings, overrides)
    facts = read_grading_facts(run_dir)
    trained = {name: tuple(ends) for name, ends in facts["ranges"].items()}
    if trained != settings.rubric.ranges:
        raise ValueError(
            f"{run_dir} was trained for {_ranges(trained)}, but rubric="
            f"{settings.choices['rubric']} asks for {_ranges(settings.rubric.ranges)}; leave "
            "rubric= out"
        )
    if settings.hardware.num_nodes > 1 and not find_ranks().from_outside:
        raise ValueError(
            f"hardware.num_nodes={settings.hardware.num_nodes}: set it to 1 to grade on this "
            "machine alone, or start on every node by torchrun or srun, as docs/scaling.md shows"
        )
    if isinstance(settings.engine, VllmSpec):
        _check_vllm(settings, settings.engine)
    else:
        _check_machine(settings, otherwise="")
        _check_quantization(settings)
        require_bitsandbytes(settings.model.quantization, settings.hardware.accelerator)


def _check_effect(settings: Settings, overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        names = {key, key.partition(".")[0]}
        if not names.isdisjoint(_WITHOUT_EFFECT):
            raise ValueError(f"{key} has no effect on a run that is trained; leave it out")
        is_vllm = isinstance(settings.engine, VllmSpec)
        if is_vllm and not names.isdisjoint(_WITHOUT_EFFECT_ON_VLLM):
            engine = settings.choices["engine"]
            raise ValueError(f"{key} has no effect on engine={engine}; leave it out")


def _check_vllm(settings: Settings, spec: VllmSpec) -> None:
    """One process asks; cards are the server's, or vLLM's own in this process."""
    hardware = settings.hardware
    if hardware.num_ranks > 1:
        cure = "hardware=cpu" if spec.urls else "hardware.devices=1 engine.tensor_parallel_size=N"
        raise ValueError(
            f"engine={settings.choices['engine']} is asked by one process, but hardware="
            f"{settings.choices['hardware']} starts {hardware.num_ranks}; add {cure}, and serve "
            "with vllm serve --data-parallel-size N or on several hosts for copies of the model"
        )
    if settings.model.quantization != "none" and not spec.urls:
        raise ValueError(
            f"model.quantization={settings.model.quantization} is what transformers does with the "
            "weights, not vLLM; use engine=hf, or model.quantization=none"
        )
    # Here, so that nothing is read for a run that cannot ask anybody.
    if spec.urls:
        from aes.inference.vllm_addresses import require_addresses

        require_addresses(spec.urls, allow_remote=spec.allow_remote)
    else:
        from aes.inference.vllm_offline import require_vllm

        require_vllm()
        _check_machine(settings, otherwise=", with engine=hf")


def _ranges(ranges: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {low}-{high}" for name, (low, high) in ranges.items())


def _check_monitor(settings: Settings) -> None:
    """What decides the best checkpoint must be measured."""
    measured, monitor = measured_in_validation(settings), settings.checkpoint.monitor
    if monitor not in (AUTO_MONITOR, *measured):
        choices = ", ".join((AUTO_MONITOR, *measured))
        raise ValueError(f"callbacks.checkpoint.monitor: must be one of {choices}, got {monitor}")


def _check_adapter(settings: Settings) -> None:
    adapter = settings.adapter
    if not isinstance(adapter, LoraSpec):
        if settings.trainer.max_steps == 0:
            raise ValueError("trainer.max_steps=0 would train nothing; raise it, or leave it out")
        return
    if "vision" in adapter.targets and settings.model.reads_text_alone:
        raise ValueError(
            f"adapter.targets names vision, but model={settings.choices['model']} reads text alone "
            "and has no tower; use adapter.targets=[attention]"
        )
    _check_beginning(settings, adapter)
    if "experts" not in adapter.targets:
        return
    if settings.model.text.num_experts == 0:
        raise ValueError(
            f"adapter.targets names experts, but model={settings.choices['model']} has none; use "
            "adapter=lora"
        )
    if adapter.dropout > 0:
        raise ValueError(
            f"adapter.dropout: must be 0 with experts among adapter.targets, got {adapter.dropout}"
        )


def _check_beginning(settings: Settings, adapter: LoraSpec) -> None:
    """What training begins with must be what the settings ask for."""
    if adapter.init_from is not None:
        from aes.model.adapter_file import read_adapter  # imports torch

        read_adapter(adapter.init_from.expanduser()).require_agreement(adapter)
    elif settings.trainer.max_steps == 0:
        raise ValueError(
            "trainer.max_steps=0 would train nothing; it is there to make a run of an adapter from "
            "elsewhere, so add adapter.init_from=DIR, or raise it"
        )


def _check_kernels(settings: Settings) -> None:
    choose_kernels(settings)  # refuses what does not go with the model or the adapter
    strategy, accelerator = settings.strategy, settings.hardware.accelerator
    if settings.kernels.compile == "none":
        return
    if strategy.shards_weights:
        raise ValueError(
            f"kernels.compile=layers does not go with strategy={strategy.name}, which gathers the "
            "weights of a layer within its pass; use kernels.compile=none"
        )
    if settings.model.quantization != "none":
        raise ValueError(
            "kernels.compile=layers does not go with model.quantization="
            f"{settings.model.quantization}, whose layers torch cannot compile; use "
            "kernels.compile=none"
        )
    from aes.kernels.compiling import missing_compiler  # imports torch

    missing = None if settings.check_only else missing_compiler(accelerator)
    if missing is not None:
        raise ValueError(
            f"kernels.compile=layers needs {missing}, which is not here; install it, or use "
            "kernels.compile=none"
        )


def _check_quantization(settings: Settings) -> None:
    require_quantizable(
        settings.model, settings.adapter, settings.strategy, model=settings.choices["model"]
    )


def _check_strategy(settings: Settings) -> None:
    strategy, num_ranks = settings.strategy.name, settings.hardware.num_ranks
    if strategy == "single" and num_ranks > 1:
        raise ValueError(
            f"strategy=single uses one device, but hardware={settings.choices['hardware']} has "
            f"{num_ranks}; choose strategy=ddp, zero2, zero3 or fsdp2, or hardware.devices=1"
        )
    if strategy not in ("single", "zero3_offload") and num_ranks == 1:
        raise ValueError(
            f"strategy={strategy} would do nothing on one device; use strategy=single, or hardware "
            "with several"
        )
    if settings.strategy.shards_weights and num_ranks > 1 and not settings.decoding.constrained:
        raise ValueError(
            f"strategy={strategy} needs ranks that compute in step, but with decoding.constrained="
            "false each writes answers of its own length in validation; leave that to evaluate.py"
        )
    require_possible(settings.strategy, settings.adapter)


def _check_machine(settings: Settings, *, otherwise: str) -> None:
    hardware, choice = settings.hardware, settings.choices["hardware"]
    if hardware.accelerator == "cuda":
        import torch  # slow to import, and only needed here

        found = torch.cuda.device_count()
        if not found:
            raise ValueError(
                f"hardware={choice} needs a CUDA device, but PyTorch finds none here; use "
                f"hardware=cpu{otherwise}"
            )
        if found < hardware.devices:
            raise ValueError(
                f"hardware={choice} has {hardware.devices} devices a node, but PyTorch finds "
                f"{found} here; set hardware.devices={found}{otherwise}"
            )
