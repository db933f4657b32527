"""``python -m aes.export``: a run to what other tools load, or a data set to what they train on.

Flags to plain arguments; wiring only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.text import Text

from aes.cli.compose import compose_again, resolve, without_hydra
from aes.cli.errors import nearest
from aes.cli.saved_run import read_run
from aes.cli.settings import Settings, bind_settings
from aes.cli.source import CONFIG_DIR, Source

if TYPE_CHECKING:
    from aes.export.model import RunToExport

_RUN_FLAGS = ("merged", "dtype", "shard_gib", "model_path", "base_name", "served_name")


def run(arguments: Sequence[str]) -> int:
    """Do what the command line asks for.

    Returns:
        Exit status 0.

    Raises:
        ValueError: For every mistake of the user's.
        SystemExit: After ``--help``.
    """
    options = _parser().parse_args(arguments)
    if options.check is not None:
        return _check(options)
    if not options.what:
        raise ValueError(
            "nothing to export; name a run as in python -m aes.export RUN_DIR --out DIR, or data "
            "as in python -m aes.export data=aes_dataset data.root=DIR --out DIR"
        )
    if options.out is None:
        raise ValueError("--out is not set; name a folder that does not exist yet")
    if "=" in options.what[0] and not Path(options.what[0]).is_dir():
        for flag in _RUN_FLAGS:
            if getattr(options, flag) not in (None, False):
                raise ValueError(
                    f"--{flag.replace('_', '-')} is about a run, but {options.what[0]} names data; "
                    "leave it out"
                )
        from aes.cli.export_data import run as export_data

        return export_data(list(options.what), options.out)
    if len(options.what) > 1:
        raise ValueError(
            f"{options.what[1]} comes after a run, which is all that can be exported at once; "
            "settings go with data alone"
        )
    return _export(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, as for every mistake, instead of the usage and status 2."""
        _, _, flag = message.partition("unrecognized arguments: ")
        alike = nearest(flag.split()[0], list(self._option_string_actions)) if flag else None
        hint = f"did you mean {alike}?" if alike else "python -m aes.export --help lists the flags"
        raise ValueError(f"{message}; {hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m aes.export",
        description="Export a run's adapter or merged weights, or a data set, for other tools.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("what", nargs="*", metavar="RUN_DIR | data=NAME ...", help="a run, or settings of data")
    add("--out", type=Path, metavar="DIR", help="a folder that does not exist yet, or is empty")
    add("--merged", action="store_true", help="whole weights in hub layout, not the adapter alone")
    add("--dtype", choices=("bf16", "fp32"), help="of merged weights (default: the base's)")
    add("--shard-gib", type=float, metavar="N", help="largest file of weights (default: 5)")
    add("--model-path", metavar="DIR", help="where the base lies, if not where it was trained from")
    add("--base-name", metavar="ID", help="what to call the base, such as a hub id")
    add("--served-name", metavar="NAME", help="under which vLLM serves it (default: aes)")
    add("--check", type=Path, metavar="DIR", help="compare an export with its digests, and stop")
    return parser


def _check(options: argparse.Namespace) -> int:
    from aes.export.digests import check_digests

    if options.what or options.out is not None:
        raise ValueError("--check looks at one folder and writes nothing; leave the rest out")
    num = check_digests(options.check.expanduser())
    _tell(f"{options.check} holds all {num} files as they were written")
    return 0


def _export(options: argparse.Namespace) -> int:
    from aes.export.model import export_model

    merged_only = {"--dtype": options.dtype, "--shard-gib": options.shard_gib}
    for flag, value in merged_only.items():
        if value is not None and not options.merged:
            raise ValueError(f"{flag} is about merged weights; add --merged, or leave it out")
    if options.shard_gib is not None and not 0 < options.shard_gib <= 1024:
        raise ValueError(f"--shard-gib must be above 0 and at most 1024, got {options.shard_gib:g}")
    export_model(_bind(options), options.out.expanduser().absolute(), _tell)
    return 0


def _bind(options: argparse.Namespace) -> RunToExport:
    """The run with its settings, as ``evaluate.py`` would read them."""
    from aes.export.model import RunToExport

    path = Path(options.what[0]).expanduser().absolute()
    settings = _settings(path)
    given = settings.model.path
    model = settings.model
    if options.model_path is not None:
        if given is None:
            raise ValueError(
                "--model-path has no effect on a run whose base has random weights; leave it out"
            )
        model = replace(model, path=options.model_path)
    longest = max(settings.decoding.max_feedback_tokens, settings.decoding.max_answer_tokens)
    return RunToExport(
        path=path,
        model=model,
        adapter=settings.adapter,
        base_name=options.base_name or given or settings.choices["model"],
        choices=settings.choices,
        values=settings.resolved,
        cache=settings.cache,
        max_tokens=settings.data.max_tokens + longest,
        served_name=options.served_name or "aes",
        is_merged=options.merged,
        dtype=options.dtype,
        shard_bytes=int((options.shard_gib or 5.0) * 2**30),
    )


def _settings(path: Path) -> Settings:
    source = Source(config_dir=CONFIG_DIR, config_name="base", overrides=())
    config = compose_again(source, read_run(path))
    return bind_settings(resolve(without_hydra(config), config.hydra, source))


def _tell(line: str) -> None:
    Console().print(Text(line), soft_wrap=True)
