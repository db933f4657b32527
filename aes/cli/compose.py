"""Turns the command line and ``conf/`` into plain values.

Nothing is written and nothing is built; what the values mean is for ``settings`` to check. The one
thing that files of ``conf/`` may compute is ``times``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from aes.cli.hydra_errors import errors_in_plain_words
from aes.cli.saved_run import SavedRun
from aes.cli.source import Source

# ${times:2,${adapter.rank}} in conf/: a setting that follows another one.
OmegaConf.register_new_resolver("times", lambda factor, value: factor * value, replace=True)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A configuration as plain values.

    Attributes:
        values: All keys with their final values.
        choices: Which option of each group was taken.
        output_dir: The run directory that Hydra would take.
        output_dir_is_fixed: Whether the user, or a sweep, chose ``output_dir``.
    """

    values: dict[str, Any]
    choices: dict[str, str]
    output_dir: Path
    output_dir_is_fixed: bool


def compose(source: Source) -> DictConfig:
    """The configuration with Hydra's own part under ``hydra``.

    Raises:
        ValueError: If the command line or a file of ``conf/`` cannot be understood.
    """
    with errors_in_plain_words(source):
        return source.load(source.overrides)


def compose_again(source: Source, saved: SavedRun) -> DictConfig:
    """The configuration of a command that works on a finished run: what trained is what evaluates.

    Every group is the run's own, with the values that the run had, unless the command line chooses
    another option of it; ``paths`` alone is this machine's. Keys that the run did not know yet keep
    what ``conf/`` says. Settings on the command line win over all.

    Raises:
        ValueError: If the command line cannot be understood, or chooses what the run has not.
    """
    with errors_in_plain_words(source):
        overrides = OverridesParser.create().parse_overrides(list(source.overrides))
        groups = set(source.groups)
        chosen = {o.key_or_group for o in overrides if o.key_or_group in groups}
        known = {g for g in groups if g in saved.choices and g not in chosen} - {
            "experiment",
            "paths",
            "sweep",
        }
        choices = [f"{group}={saved.choices[group]}" for group in sorted(known)]
        first = [o.input_line for o in overrides if o.key_or_group in chosen and o.input_line]
        config = source.load([*choices, *first])
        OmegaConf.set_struct(config, False)
        for key, value in saved.values.items():
            if key in known and isinstance(value, dict):
                # Whole values, not merged deeper: a trait that was taken out stays out.
                for name, inner in value.items():
                    config[key][name] = _with_new_keys(inner, config[key].get(name))
            elif key not in groups and key in config and key != "run_dir":
                config[key] = value
        OmegaConf.set_struct(config, True)
        rest = [o for o in overrides if o.key_or_group not in chosen]
        ConfigLoaderImpl._apply_overrides_to_config(rest, config)
    HydraConfig.instance().set_config(config)
    return config


def _with_new_keys(saved: Any, shipped: Any) -> Any:
    """Settings as a run saved them, and as shipped the keys that their class did not have then."""
    if not isinstance(saved, dict) or not isinstance(shipped, DictConfig):
        return saved
    if "_target_" not in saved or saved["_target_"] != shipped.get("_target_"):
        return saved
    return OmegaConf.merge(shipped, saved)


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy that holds only what is ours."""
    task = config.copy()
    with open_dict(task):
        del task["hydra"]
    return task


def resolve(task: DictConfig, hydra: DictConfig, source: Source) -> Composed:
    """Plain values of a composed configuration.

    Args:
        task: Our part of it.
        hydra: Hydra's part.
        source: What it was composed from.

    Raises:
        ValueError: If a value is missing or refers to something that does not exist.
    """
    # Jobs of a sweep find it set; a single run takes it from hydra.run.dir.
    in_sweep = not OmegaConf.is_missing(hydra.runtime, "output_dir")
    is_fixed = in_sweep or any(o.startswith("hydra.run.dir=") for o in hydra.overrides.hydra)
    with errors_in_plain_words(source):
        # An unset value explains itself better than the interpolations that need it.
        missing = sorted(OmegaConf.missing_keys(task))
        if missing:
            raise ValueError(f"{missing[0]} is not set; give it as {missing[0]}=...")
        values = OmegaConf.to_container(task, resolve=True)
        output_dir = hydra.runtime.output_dir if in_sweep else hydra.run.dir
    assert isinstance(values, dict)
    return Composed(
        values={str(key): value for key, value in values.items()},
        choices=_choices(hydra),
        output_dir=Path(output_dir),
        output_dir_is_fixed=is_fixed,
    )


def _choices(hydra: DictConfig) -> dict[str, str]:
    return {
        str(group): str(option)
        for group, option in hydra.runtime.choices.items()
        if option is not None and not str(group).startswith("hydra/")
    }
