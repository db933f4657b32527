"""Says in plain words what is wrong with settings, within one value and between groups.

Turns pydantic's findings into one sentence, and refuses combinations that cannot run or that
would do nothing. Reads no data and no weights; looks at this machine only where a run needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from aes.cli.errors import nearest, one_line
from aes.cli.layout import check_batching, choose_kernels
from aes.hardware import accumulation_steps
from aes.inference import VllmSpec
from aes.model import LoraSpec
from aes.model.quantization import require_bitsandbytes, require_quantizable
from aes.ranks import find_ranks
from aes.training.requirements import check_strategy_requirements, require_possible

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from aes.cli.settings import Settings

_LONGEST_VALUE_SHOWN = 60
_UNKNOWN = "unexpected_keyword_argument"
_MISSING = "missing"

_WORDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "literal_error": "must be {expected}",
    "tuple_type": "must be a list, as in key=[a,b]",
    "list_type": "must be a list, as in key=[a,b]",
    "dict_type": "must be a group of settings",
    "dataclass_type": "must be a group of settings",
    "dataclass_exact_type": "must be a group of settings",
    "too_short": "must hold at least {min_length} values",
    "too_long": "must hold at most {max_length} values",
}


def invalid_sentence(error: ValidationError, *, path: str, values: Mapping[str, Any]) -> str:
    """One sentence for the first finding, with the number of further ones.

    Args:
        error: What pydantic found in ``values``.
        path: Key of the group, e.g. ``adapter``; empty at the top level.
        values: The plain values that were given.
    """
    # A misspelt key is also a missing one; only the first is news.
    findings = sorted(error.errors(), key=lambda e: (e["type"] != _UNKNOWN, e["type"] != _MISSING))
    first, names = findings[0], {f["loc"][-1] for f in findings if f["type"] == _UNKNOWN}
    rest = [f for f in findings[1:] if not names or f["type"] != _MISSING]
    more = f" ({len(rest)} more to correct)" if rest else ""
    return f"{_sentence(first, findings, path=path, values=values)}{more}"


def _sentence(
    finding: ErrorDetails,
    findings: Sequence[ErrorDetails],
    *,
    path: str,
    values: Mapping[str, Any],
) -> str:
    key = ".".join(filter(None, [path, *_location(finding, values)]))
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == _UNKNOWN:
        return unknown_key(key, _names_beside(finding, findings, values))
    if kind == _MISSING and isinstance(finding["loc"][-1], int):
        return f"{key}: must hold more values, got {_shown(finding['input'])}"
    if kind == _MISSING:
        return f"{key} is missing; give it a value"
    if kind in ("value_error", "assertion_error"):
        text = one_line(str(context["error"]))
        return text if key and text.startswith(f"{key}") else f"{key}: {text}".removeprefix(": ")
    words = _WORDS.get(kind, finding["msg"][0].lower() + finding["msg"][1:]).format(**context)
    sentence = f"{key}: {words}, got {_shown(finding['input'])}"
    if kind in ("string_type", "path_type") and isinstance(finding["input"], int | float):
        return f"{sentence}; quote it twice, as in {key}=\"'...'\""
    return sentence


def _location(finding: ErrorDetails, values: Mapping[str, Any]) -> list[str]:
    """The keys down to the finding, without the names of types that pydantic puts between."""
    here: Any = values
    keys: list[str] = []
    for part in finding["loc"]:
        if isinstance(here, Mapping) and (part in here or finding["type"] == _MISSING):
            here = here.get(part)
            keys.append(str(part))
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            here = here[part]
            keys.append(str(part))
    return keys


def _names_beside(
    finding: ErrorDetails, findings: Sequence[ErrorDetails], values: Mapping[str, Any]
) -> list[str]:
    """Right names beside a wrong one: those given and accepted, and those that are missing."""
    parent = finding["loc"][:-1]
    here: Any = values
    for part in _location(finding, values)[:-1]:
        here = here[int(part) if isinstance(here, list | tuple) else part]
    beside = {f["loc"][-1]: f["type"] for f in findings if f["loc"][:-1] == parent}
    missing = [str(name) for name, kind in beside.items() if kind == _MISSING]
    accepted = [str(name) for name in here if beside.get(name) != _UNKNOWN and name != "_target_"]
    return missing + accepted


def unknown_key(key: str, names: Sequence[str]) -> str:
    """The sentence about a key that does not exist; ``names`` are those it stands beside."""
    parent, _, name = key.rpartition(".")
    prefix = f"{parent}." if parent else ""
    alike = nearest(name, names)
    if alike is not None:
        return f"{key} is not a setting; did you mean {prefix}{alike}?"
    if not names:
        return f"{key} is not a setting; {parent} has none: remove it"
    return f"{key} is not a setting; remove it, or use one of {', '.join(sorted(names))}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE_SHOWN else f"{text[:_LONGEST_VALUE_SHOWN]}..."


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


_WITHOUT_EFFECT = ("adapter", "callbacks", "loss", "optim", "strategy", "trainer")
_KEYS_WITHOUT_EFFECT = ("check_only", "global_batch_size", "resume", "run_dir")


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

    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key in _KEYS_WITHOUT_EFFECT or key.partition(".")[0] in _WITHOUT_EFFECT:
            raise ValueError(f"{key} has no effect on a run that is trained; leave it out")
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
    if not spec.urls:
        _check_machine(settings, otherwise=", with engine=hf")


def _ranges(ranges: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {low}-{high}" for name, (low, high) in ranges.items())


def _check_monitor(settings: Settings) -> None:
    """What decides the best checkpoint must be measured, and higher must be better."""
    measured = [f"val/qwk/{name}" for name in ("total", *settings.rubric.traits)]
    measured += ["val/pearson/total", "val/spearman/total"]
    monitor = settings.checkpoint.monitor
    if monitor not in measured:
        raise ValueError(
            f"callbacks.checkpoint.monitor: must be one of {', '.join(measured)}, got {monitor}"
        )


def _check_adapter(settings: Settings) -> None:
    adapter = settings.adapter
    if not isinstance(adapter, LoraSpec) or "experts" not in adapter.targets:
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
    from aes.kernels.compiling import missing_compiler  # imports torch

    missing = None if settings.check_only else missing_compiler(accelerator)
    if missing is not None:
        raise ValueError(
            f"kernels.compile=layers needs {missing}, which is not here; install it, or use "
            "kernels.compile=none"
        )


def _check_quantization(settings: Settings) -> None:
    name = settings.model.quantization
    require_quantizable(
        settings.model, settings.adapter, settings.strategy, model=settings.choices["model"]
    )
    if name != "none" and settings.kernels.compile != "none":
        raise ValueError(
            f"kernels.compile={settings.kernels.compile} does not go with model.quantization="
            f"{name}, whose layers torch cannot compile; use kernels.compile=none"
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
