"""The door: turns ``sys.argv`` into a run and an exit status.

Exit status 0 is success, 1 a mistake of the user (one sentence on stderr), 130 Ctrl-C. A bug
shows its traceback, and so does everything with ``AES_TRACEBACK=1`` in the environment.
Only names and wiring stand here; what a run does comes in as a function.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.environment import prepare_environment
from aes.cli.errors import explain, lost_contact
from aes.cli.hydra_errors import errors_in_plain_words
from aes.cli.launch import STATUS_LOST_CONTACT, end_with_parent, is_launched
from aes.cli.source import CONFIG_DIR, VERSION_BASE, Source
from aes.ranks import leave_ranks

if TYPE_CHECKING:
    from aes.cli.settings import Settings

Command = Literal["train", "evaluate", "predict", "system_prompt"]
Run = Callable[["Settings"], int]
RunOnRun = Callable[[Source], int]

STATUS_MISTAKE = 1
STATUS_INTERRUPTED = 130

_HYDRA_KEYS_OF_ONE_RUN = ("hydra.run.dir", "hydra.searchpath", "hydra.mode")


def train() -> NoReturn:
    """``python train.py``."""
    main("train", _train)


def _train(settings: Settings) -> int:
    from aes.cli.train import run  # here, since --help must not wait for torch

    return run(settings)


def evaluate() -> NoReturn:
    """``python evaluate.py``."""
    main_on_run("evaluate", _evaluate)


def _evaluate(source: Source) -> int:
    from aes.cli.evaluate import run
    from aes.cli.requests import bind_evaluation

    return run(bind_evaluation(source))


def predict() -> NoReturn:
    """``python predict.py``."""
    main_on_run("predict", _predict)


def _predict(source: Source) -> int:
    from aes.cli.predict import run
    from aes.cli.requests import bind_prediction

    return run(bind_prediction(source))


def export() -> NoReturn:
    """``python -m aes.export``."""
    prepare_environment()
    sys.exit(_guarded(lambda: _export(sys.argv[1:])))


def _export(arguments: Sequence[str]) -> int:
    from aes.cli.export import run

    return run(arguments)


def main(command: Command, run: Run) -> NoReturn:
    """Composes, checks and runs what the command line asks for, and exits.

    Args:
        command: Names ``conf/<command>.yaml``.
        run: Does the work and returns the exit status. Nothing exists on disk before it is called.
    """
    prepare_environment()
    end_with_parent()
    sys.exit(_guarded(lambda: _dispatch(command, run, sys.argv[1:])))


def main_on_run(command: Command, run: RunOnRun) -> NoReturn:
    """The same for a command that binds its command line itself, as those on a finished run do.

    Args:
        command: Names ``conf/<command>.yaml``.
        run: Binds the command line, does the work and returns the exit status.
    """
    prepare_environment()
    end_with_parent()
    sys.exit(_guarded(lambda: _dispatch_on_run(command, run, sys.argv[1:])))


def _guarded(action: Callable[[], int]) -> int:
    try:
        return action()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped by Ctrl-C.\n")
        return STATUS_INTERRUPTED
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STATUS_MISTAKE
    except Exception as error:
        if lost_contact(error):
            if not is_launched():  # else the parent says what became of the other
                sys.stderr.write("Another rank is gone, so this one stops.\n")
            return STATUS_LOST_CONTACT
        leave_ranks()
        sentence = explain(error)
        if sentence is None or os.environ.get("AES_TRACEBACK") == "1":
            raise
        sys.stderr.write(f"Error: {sentence}\n")
        return STATUS_MISTAKE


def _dispatch(command: Command, run: Run, argv: Sequence[str]) -> int:
    args = _parse(argv, command)
    source = _source(args, command)
    if _only_shows(args):
        return _show(source)
    if not (args.multirun or _asks_for_sweep(source)):
        config = compose(source)
        if config.hydra.mode != RunMode.MULTIRUN:
            return _run_once(config, source, run)
    from aes.cli.sweep import run_sweep  # here, since a single run has no use for it

    return run_sweep(source)


def _asks_for_sweep(source: Source) -> bool:
    """Whether the command line says so; a file that says so is found by composing."""
    # A sweep's trials are told to run once, whatever conf/sweep/NAME.yaml says.
    sweeps = ("hydra.mode=MULTIRUN", "sweep=")
    asks = any(o.startswith(sweeps) and o != "sweep=null" for o in source.overrides)
    return asks and "hydra.mode=RUN" not in source.overrides


def _dispatch_on_run(command: Command, run: RunOnRun, argv: Sequence[str]) -> int:
    args = _parse(argv, command)
    source = _source(args, command)
    if _only_shows(args):
        return _show(source)
    if args.multirun or "hydra.mode=MULTIRUN" in source.overrides:
        raise ValueError(f"{command}.py runs once; leave -m out")
    for override in source.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith("hydra.") and key != "hydra.searchpath":
            raise ValueError(f"{override} has no effect on {command}.py; leave it out")
    return run(source)


def _only_shows(args: argparse.Namespace) -> bool:
    shows = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion
    return bool(shows)


def _show(source: Source) -> int:
    """Lets Hydra show what was asked for."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, and leave the printing to us
    show = hydra.main(
        version_base=VERSION_BASE,
        config_path=str(source.config_dir),
        config_name=source.config_name,
    )
    try:
        with errors_in_plain_words(source):
            show(lambda _: None)()
    finally:
        sys.stdout.flush()  # here, where a reader that has gone away is no surprise
    return 0


def _parse(argv: Sequence[str], command: Command) -> argparse.Namespace:
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; python {command}.py --help lists the flags") from error
    if unknown and unknown[0].startswith("-"):
        raise ValueError(f"{unknown[0]} is not a flag; python {command}.py --help lists the flags")
    if unknown:
        raise ValueError(f"{unknown[0]} comes after a flag; write flags such as -m first")
    if args.multirun and (args.cfg or args.info):
        raise ValueError("--cfg and --info show one configuration; leave -m out")
    if args.experimental_rerun:
        raise ValueError("--experimental-rerun is not supported; repeat the command of the run")
    return args


def _source(args: argparse.Namespace, command: Command) -> Source:
    config_dir = Path(args.config_path) if args.config_path else CONFIG_DIR
    if not config_dir.is_absolute():
        raise ValueError(f"--config-path {config_dir} must be absolute; write the whole path")
    if not config_dir.is_dir():
        raise ValueError(
            f"there is no folder {config_dir}; work in a checkout installed with pip install -e ."
        )
    overrides = [quote_value(override) for override in args.overrides]
    if args.config_dir:
        extra_dir = Path(args.config_dir).absolute()
        if not extra_dir.is_dir():
            raise ValueError(f"--config-dir {extra_dir} does not exist; correct the path")
        overrides.append(f"hydra.searchpath=['file://{extra_dir}']")
    return Source(
        config_dir=config_dir,
        config_name=args.config_name or command,
        overrides=tuple(overrides),
    )


def quote_value(override: str) -> str:
    """The override, its value in quotes where Hydra's grammar does not take it bare.

    Paths with Chinese characters, tildes or brackets are such values.
    """
    parser = OverridesParser.create()
    try:
        parser.parse_override(override)
        return override
    except HydraException:
        key, _, value = override.partition("=")
        taken = _quote(value)
        quoted = f"{key}={taken}"
        try:
            parser.parse_override(quoted)
        except HydraException:
            return override  # not the value's fault; the error will say what it is
        return quoted if taken[0] == "[" or value[:1] not in ("", *"[{'\"$") else override


def _quote(value: str) -> str:
    """The value in quotes; of a list of plain words, such as labels, each word."""
    words = value[1:-1]
    if value[:1] == "[" and value[-1:] == "]" and words and not set(words) & set("[]{}'\"$\\"):
        return f"[{','.join(_quote(word.strip()) for word in words.split(','))}]"
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"


def _run_once(config: DictConfig, source: Source, run: Run) -> int:
    """One run without ``hydra.main``, which makes a directory before anything is checked."""
    for override in config.hydra.overrides.hydra:
        if override.lstrip("+~").partition("=")[0] not in _HYDRA_KEYS_OF_ONE_RUN:
            raise ValueError(f"{override} has no effect on a single run; leave it out")
    return run(_settings(config, source))


def _settings(config: DictConfig, source: Source) -> Settings:
    from aes.cli.settings import bind_settings  # here, since --help needs no settings
    from aes.cli.validate import check_combination

    settings = bind_settings(resolve(without_hydra(config), config.hydra, source))
    check_combination(settings)
    return settings
