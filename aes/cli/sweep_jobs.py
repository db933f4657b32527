"""The command line of a sweep -> what varies, and its trials, each checked before the first starts.

Composes and binds; starts nothing and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.hydra_errors import errors_in_plain_words
from aes.cli.source import Source

_GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep is going to do.

    Attributes:
        source: The command line, without what only says where the sweep is kept.
        name: The option of the group ``sweep``; ``sweep`` where ``-m`` asked for it.
        varied: Keys and groups that differ between trials.
        num_trials: How many there will be.
        jobs: The command line of each; of a sampling search, that of one possible trial.
        is_grid: All trials are known beforehand; otherwise each follows from those before it.
        check_only: The trials are planned, and none is run.
        sweep_dir: Where Hydra would keep it.
        dir_is_chosen: The user chose ``sweep_dir``; otherwise its name is the time.
    """

    source: Source
    name: str
    varied: tuple[str, ...]
    num_trials: int
    jobs: tuple[tuple[str, ...], ...]
    is_grid: bool
    check_only: bool
    sweep_dir: Path
    dir_is_chosen: bool


def plan_sweep(source: Source) -> SweepPlan:
    """Reads the command line and checks every trial that can be known.

    Raises:
        ValueError: If it cannot be understood, or a trial could not start.
    """
    with errors_in_plain_words(source):
        given = OverridesParser.create().parse_overrides(list(source.overrides))
        config = compose(replace(source, overrides=_one_job(given)))
        params = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create())
        assert isinstance(params, dict)
        # As Hydra does it: of two settings of a key the later counts, so the command line wins.
        asked = OverridesParser.create().parse_overrides([f"{k!s}={v}" for k, v in params.items()])
        final = {o.get_key_element(): o for o in (*asked, *given)}
        is_grid = config.hydra.sweeper._target_ == _GRID
        jobs = _grid(list(final.values())) if is_grid else [_one_job(list(final.values()))]
    _check_places(given)
    choices = config.hydra.runtime.choices
    if choices.get("hydra/launcher") == "submitit_slurm" and which("srun") is None:
        raise ValueError(
            "hydra/launcher=submitit_slurm needs Slurm, but there is no srun here; start the sweep "
            "on a machine of the cluster, or leave the launcher out"
        )
    check_only = [_check_job(replace(source, overrides=job), is_grid=is_grid) for job in jobs]
    return SweepPlan(
        source=source,
        name=str(choices.get("sweep") or "sweep"),
        varied=tuple(key for key, override in final.items() if override.is_sweep_override()),
        num_trials=len(jobs) if is_grid else int(config.hydra.sweeper.n_trials),
        jobs=tuple(jobs),
        is_grid=is_grid,
        check_only=any(check_only),
        sweep_dir=Path(config.hydra.sweep.dir).expanduser().absolute(),
        dir_is_chosen=any(o.key_or_group == "hydra.sweep.dir" for o in given),
    )


def _grid(overrides: list[Override]) -> list[tuple[str, ...]]:
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [tuple(job) for job in batch]


def _one_job(overrides: list[Override]) -> tuple[str, ...]:
    """A trial that the sweep may contain: the first value of whatever varies."""
    return tuple(f"{o.get_key_element()}={_first_value(o)}" for o in overrides)


def _first_value(override: Override) -> str:
    if not override.is_sweep_override():
        return override.get_value_element_as_str()
    if override.is_discrete_sweep():
        return next(iter(override.sweep_string_iterator()))
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    return str(interval.start)


def _check_places(given: list[Override]) -> None:
    for override in given:
        if override.key_or_group in ("hydra.sweep.subdir", "hydra.run.dir"):
            raise ValueError(
                f"{override.key_or_group} has no effect on a sweep, whose trials are numbered; "
                "move the whole sweep with hydra.sweep.dir=DIR"
            )


def _check_job(job: Source, *, is_grid: bool) -> bool:
    """Binds one trial as it will be bound when it starts; returns its ``check_only``."""
    from aes.cli.settings import bind_settings  # here, since --help needs no settings
    from aes.cli.validate import check_combination

    config = compose(job)
    composed = resolve(without_hydra(config), config.hydra, job)
    settings = bind_settings(replace(composed, output_dir_is_fixed=True))
    check_combination(settings)
    if settings.hardware.num_nodes > 1:
        raise ValueError(
            f"hardware.num_nodes: the trials of a sweep work on one node each, got "
            f"{settings.hardware.num_nodes}; set hardware.num_nodes=1"
        )
    data = composed.values["data"]
    if not is_grid and data.get("val_fraction") == 0:
        raise ValueError(
            "a search learns from validation, but data.val_fraction is 0; hold essays out, e.g. "
            "data.val_fraction=0.1"
        )
    return settings.check_only
