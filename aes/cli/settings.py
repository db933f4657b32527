"""Turns plain values into the settings of a run: every group bound to its class.

Knows which class belongs to which group; knows neither Hydra nor what a run does with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as schema
from pydantic.dataclasses import is_pydantic_dataclass

from aes.cli.compose import Composed
from aes.cli.errors import nearest
from aes.cli.hydra_errors import no_such_key
from aes.cli.invalid import invalid_sentence, unknown_key
from aes.cli.source import dotted_keys
from aes.corpus import Corpus
from aes.corpus.base import DataSpec
from aes.corpus.instructions import InstructionData
from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, StrategySpec
from aes.inference import DecodingSpec, EngineSpec
from aes.model import AdapterSpec, KernelSpec, ModelSpec, VisionCacheSpec
from aes.page import PageSpec
from aes.prompt import PromptSpec
from aes.rubric import NoRubric, Rubric
from aes.training import (
    CheckpointSpec,
    LoggerSpec,
    LossSpec,
    OptimSpec,
    SampleTableSpec,
    TrainerSpec,
)

TARGET = "_target_"
T = TypeVar("T")
_SCHEMA = ConfigDict(extra="forbid")
_SEED_LIMIT = 2**32
"""NumPy takes seeds below this."""

_CALLBACKS = ("checkpoint", "sample_table")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a run is told.

    Attributes:
        resume: ``never``, ``auto``, or the path of a run or a checkpoint.
        check_only: Plan, print, and stop; needs neither the hardware nor the weights.
        run_dir: Absolute; not created yet.
        run_dir_is_fixed: Somebody chose ``run_dir``; otherwise its name is only the time.
        cache: Folder for what can be computed again.
        resolved: The same as plain values, with ``_target_``, for ``config.yaml``.
        choices: Which option of each group was taken.
    """

    model: ModelSpec
    adapter: AdapterSpec
    data: DataSpec
    page: PageSpec
    rubric: Rubric | NoRubric
    prompt: PromptSpec
    loss: LossSpec
    decoding: DecodingSpec
    optim: OptimSpec
    trainer: TrainerSpec
    checkpoint: CheckpointSpec
    sample_table: SampleTableSpec
    logger: LoggerSpec
    kernels: KernelSpec
    batching: BatchingSpec
    vision_cache: VisionCacheSpec
    engine: EngineSpec
    hardware: HardwareSpec
    strategy: StrategySpec
    seed: int
    global_batch_size: int
    resume: str
    check_only: bool
    run_dir: Path
    run_dir_is_fixed: bool
    cache: Path
    resolved: dict[str, Any]
    choices: dict[str, str]

    @property
    def has_texts(self) -> bool:
        """Whether answers are texts or labels, and nothing is scored."""
        return isinstance(self.data, InstructionData)

    @property
    def corpus(self) -> Corpus:
        """The data of a run that grades essays."""
        assert isinstance(self.data, Corpus), "refused where essays are needed"
        return self.data

    @property
    def essay_rubric(self) -> Rubric:
        """What a run that grades essays grades by."""
        assert isinstance(self.rubric, Rubric), "refused where essays are needed"
        return self.rubric


@schema(frozen=True, kw_only=True, config=_SCHEMA)
class _RunValues:
    """The keys of ``train.yaml`` that belong to no group."""

    seed: Annotated[int, Field(ge=0, lt=_SEED_LIMIT)]
    global_batch_size: Annotated[int, Field(ge=1)]
    resume: Annotated[str, Field(min_length=1)]
    check_only: bool
    run_dir: Path | None


@schema(frozen=True, kw_only=True, config=_SCHEMA)
class _Paths:
    outputs: Path
    cache: Path


GROUPS = (
    "model",
    "adapter",
    "data",
    "page",
    "rubric",
    "prompt",
    "loss",
    "decoding",
    "optim",
    "trainer",
    "logger",
    "kernels",
    "batching",
    "vision_cache",
    "engine",
    "hardware",
    "strategy",
)
RUN_KEYS = ("seed", "global_batch_size", "resume", "check_only", "run_dir")


def bind_settings(composed: Composed, *, other_keys: Collection[str] = ()) -> Settings:
    """Checks every value and binds every group to its class.

    Args:
        composed: All values.
        other_keys: Further keys and groups at the top, which are bound elsewhere.

    Raises:
        ValueError: If a key is unknown or missing, or a value has the wrong type or range.
    """
    values = composed.values
    _check_keys(composed, other_keys)
    run = bind(_RunValues, {key: values[key] for key in RUN_KEYS}, path="")
    paths = bind(_Paths, values["paths"], path="paths")
    hints = get_type_hints(Settings)
    groups = {group: bind_target(values[group], path=group) for group in GROUPS}
    for name in _CALLBACKS:
        groups[name] = bind_target(values["callbacks"][name], path=f"callbacks.{name}")
    for name, group in groups.items():
        if not isinstance(group, hints[name]):
            raise ValueError(f"{name}._target_: {type(group).__name__} does not belong there")
    groups["data"] = _with_own_prompt(groups["data"], values)
    if run.run_dir == Path():
        raise ValueError("run_dir: must name a folder of its own, got nothing")
    if run.run_dir is not None and composed.output_dir_is_fixed:
        raise ValueError(
            "run_dir cannot be combined with hydra.run.dir or -m; leave it out, and use "
            "hydra.sweep.dir=DIR to move a sweep"
        )
    return Settings(
        **groups,
        seed=run.seed,
        global_batch_size=run.global_batch_size,
        resume=run.resume,
        check_only=run.check_only,
        run_dir=(run.run_dir or composed.output_dir).expanduser().absolute(),
        run_dir_is_fixed=run.run_dir is not None or composed.output_dir_is_fixed,
        cache=paths.cache.expanduser().absolute(),
        resolved=values,
        choices=composed.choices,
    )


def _with_own_prompt(data: DataSpec, values: dict[str, Any]) -> DataSpec:
    """The data with the text of ``system_file``, which a run keeps: the file may change."""
    if not isinstance(data, InstructionData) or data.system_file is None:
        return data
    text = data.system_prompt()
    values["data"] = values["data"] | {"system": text, "system_file": None}
    return replace(data, system=text, system_file=None)


def _check_keys(composed: Composed, other_keys: Collection[str]) -> None:
    values = composed.values
    allowed = [*GROUPS, *RUN_KEYS, *other_keys, "callbacks", "paths"]
    for key in values:
        if key not in allowed:
            right = {name: values[name] for name in allowed if name in values}
            raise ValueError(no_such_key(key, [*allowed, *dotted_keys(right)]))
    for key in allowed:
        if key not in values:
            raise ValueError(f"{key} is missing; every run needs it, so do not take it away")
    for key in ("callbacks", "paths", *GROUPS):
        if key not in composed.choices:
            raise ValueError(f"{key} must name one option; write {key}=NAME without brackets")
        if not isinstance(values[key], Mapping):
            raise ValueError(f"{key}: must be a group of settings, got {values[key]!r}")
    for key in values["callbacks"]:
        if key not in _CALLBACKS:
            raise ValueError(unknown_key(f"callbacks.{key}", _CALLBACKS))
    for key in _CALLBACKS:
        if not isinstance(values["callbacks"].get(key), Mapping):
            raise ValueError(f"callbacks.{key} is missing; every run needs it")


def bind_target(values: Mapping[str, Any], *, path: str) -> Any:
    """Builds the class that ``_target_`` names out of the keys beside it.

    Args:
        values: Plain values, possibly with groups of their own inside.
        path: Key of the group in the configuration.

    Raises:
        ValueError: If the class is not ours or does not take these values.
    """
    built = bind(_target_class(values, path=path), values, path=path)
    _check_inner_targets(built, values, path=path)
    return built


def bind(cls: type[T], values: Mapping[str, Any], *, path: str) -> T:
    """Builds a pydantic dataclass, strictly: no text for a number, no true for 1."""
    plain = _without_targets(values, path=path)
    try:
        # As JSON, where a list may be a tuple and text a path although types are strict.
        return TypeAdapter(cls).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        raise ValueError(invalid_sentence(error, path=path, values=plain)) from error


def _target_class(values: Mapping[str, Any], *, path: str) -> type[Any]:
    target = values.get(TARGET)
    if not isinstance(target, str) or not target.startswith("aes."):
        raise ValueError(f"{path}.{TARGET}: must name a class of aes, got {target!r}")
    module_name, _, name = target.rpartition(".")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or "?"):
            raise
        raise ValueError(
            f"{path}.{TARGET}: there is no module {module_name}; correct it"
        ) from error
    cls = getattr(module, name, None)
    if not isinstance(cls, type) or not is_pydantic_dataclass(cls):
        alike = nearest(name, vars(module))
        hint = f"did you mean {module_name}.{alike}?" if alike else "correct it"
        raise ValueError(f"{path}.{TARGET}: there is no settings class {target}; {hint}")
    return cls


def _check_inner_targets(built: object, values: Mapping[str, Any], *, path: str) -> None:
    for key, inner in values.items():
        if isinstance(inner, Mapping) and TARGET in inner:
            cls = _target_class(inner, path=f"{path}.{key}")
            if type(getattr(built, key)) is not cls:
                raise ValueError(f"{path}.{key}.{TARGET}: {cls.__name__} does not belong there")
            _check_inner_targets(getattr(built, key), inner, path=f"{path}.{key}")


def _without_targets(value: Any, *, path: str) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without_targets(inner, path=f"{path}.{key}")
            for key, inner in value.items()
            if key != TARGET
        }
    if isinstance(value, list):
        return [_without_targets(inner, path=path) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path}: must be a finite number, got {value}")
    return value
