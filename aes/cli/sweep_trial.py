"""One trial of a sweep: from Hydra's call to a record of what came of it.

The trial is ``train.py`` in a fresh process, which chooses its ranks itself: Lightning's own ranks
would repeat the command of the whole sweep. Called in this process by Hydra's own launcher, or on
another machine by submitit's; so it carries all it needs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from aes.cli.source import CONFIG_DIR, Source
from aes.cli.sweep_child import STOP_S, run_child
from aes.cli.sweep_folder import Record, SweepFolder, digest
from aes.cli.sweep_summary import read_metrics, summarise
from aes.cli.texts import find_monitor

_TRAIN = CONFIG_DIR.parent / "train.py"
_NO_PART_OF_THE_RESULT = ("check_only", "logger", "paths", "resume", "run_dir")


@dataclass(frozen=True, kw_only=True)
class RunTrial:
    """Hydra's task function.

    Attributes:
        folder: The sweep.
        source: Its command line.
        tags: W&B tags of every trial.
    """

    folder: SweepFolder
    source: Source
    tags: tuple[str, ...]

    def __call__(self, task: DictConfig) -> float | None:
        """Runs the trial unless it is finished already.

        Returns:
            The objective; ``None`` where there is none, also of a trial that failed.
        """
        hydra = HydraConfig.get()
        plain = OmegaConf.to_container(task, resolve=True)
        assert isinstance(plain, dict)
        values = {str(key): value for key, value in plain.items()}
        overrides = tuple(hydra.overrides.task)
        settings = digest({k: v for k, v in values.items() if k not in _NO_PART_OF_THE_RESULT})
        earlier = self.folder.find(overrides)
        if earlier is not None and earlier.settings == settings and earlier.state == "finished":
            return earlier.objective
        record = Record(
            name=earlier.name if earlier else self.folder.free_name(int(hydra.job.num)),
            overrides=overrides,
            varied=_varied(overrides, self.folder.varied),
            settings=settings,
            state="running",
            monitor=find_monitor(values),
            seconds=earlier.seconds if earlier and earlier.settings == settings else 0.0,
        )
        with closing(self._lock(record.name)) as lock:
            if earlier is not None and earlier.settings != settings:
                self.folder.put_aside(record.name)
            return self._run(record, values, lock).objective

    def _lock(self, name: str) -> IO[bytes]:
        """The trial's lock; the run of a sweep that was killed may need a moment to end."""
        deadline = time.monotonic() + STOP_S
        while (lock := self.folder.lock_trial(name)) is None:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"a process still works on {self.folder.run_dir(name)}; end it, and repeat the "
                    "command"
                )
            time.sleep(0.2)
        return lock

    def _run(self, record: Record, values: dict[str, Any], lock: IO[bytes]) -> Record:
        """Starts the trial, and records how it ended."""
        run_dir = self.folder.run_dir(record.name)
        self.folder.write(record)
        self._announce(record)
        before, start = record.seconds, time.monotonic()
        ended = replace(record, state="interrupted")
        try:
            result = run_child(self._command(record, values), keep_open=[lock.fileno()])
            ended = replace(
                record,
                state="failed" if result.status else "finished",
                objective=None if result.status else read_metrics(run_dir).get(record.monitor),
                status=result.status,
                error=result.error,
                stderr=result.stderr,
            )
        finally:
            ended = replace(ended, seconds=round(before + time.monotonic() - start, 1))
            self.folder.write(ended)
            summarise(self.folder)
        if ended.state == "failed":
            Console().print(Text(f"trial {ended.name} failed: {ended.error}"), soft_wrap=True)
        return ended

    def _announce(self, record: Record) -> None:
        place = f"trial {record.name} ({int(record.name) + 1} of {self.folder.num_trials})"
        line = f"{place}: {_label(record)}  ->  {self.folder.run_dir(record.name)}"
        Console().print(Text(f"\n{line}", style="bold"), soft_wrap=True)

    def _command(self, record: Record, values: dict[str, Any]) -> list[str]:
        run_dir = self.folder.run_dir(record.name)
        settings = [f"hydra.run.dir={quote(str(run_dir))}"]
        if run_dir.is_dir() and any(run_dir.iterdir()):
            settings.append("resume=auto")
        settings += self._logging(record, values["logger"])
        return trial_command(self.source, record.overrides, settings)

    def _logging(self, record: Record, logger: dict[str, Any]) -> list[str]:
        """Settings that keep the trials together in W&B; no other logger has them."""
        settings = []
        if "group" in logger and logger["group"] is None:
            settings.append(f"logger.group={quote(self.folder.group)}")
        if "name" in logger and logger["name"] is None:
            settings.append(f"logger.name={quote(_label(record))}")
        if "tags" in logger:
            tags = dict.fromkeys([*logger["tags"], *self.tags])
            settings.append(f"logger.tags=[{','.join(map(quote, tags))}]")
        return settings


def trial_command(source: Source, overrides: Sequence[str], more: Sequence[str]) -> list[str]:
    """The command line of one trial as a single run.

    Args:
        source: Command line of the sweep.
        overrides: Of the trial; Hydra's own among them are left out.
        more: Further settings, which win.
    """
    flags = []
    if source.config_dir != CONFIG_DIR:
        flags.append(f"--config-path={source.config_dir}")
    if source.config_name != "train":
        flags.append(f"--config-name={source.config_name}")
    elsewhere = [o for o in source.overrides if o.startswith("hydra.searchpath=")]
    settings = [*own_settings(overrides), *elsewhere, *more, "hydra.mode=RUN"]
    return [sys.executable, str(_TRAIN), *flags, *settings]


def own_settings(overrides: Sequence[str]) -> list[str]:
    """The settings among them that are ours and not Hydra's."""
    return [o for o in overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]


def quote(value: str) -> str:
    """A value as Hydra's grammar takes it, whatever characters it has."""
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"


def _varied(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    by_key = {one.get_key_element(): one.get_value_element_as_str() for one in parsed}
    return {key: by_key[key] for key in keys if key in by_key}


def _label(record: Record) -> str:
    return " ".join(f"{key}={value}" for key, value in record.varied.items()) or "as it stands"
