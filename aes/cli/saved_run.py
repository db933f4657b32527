"""A run directory -> what it was told, to compose it again for evaluation and prediction.

Reads ``config.yaml``; knows neither weights nor data. Nothing in that file is executed: its values
go through the same classes and checks as a command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aes.cli.run_directory import CONFIG_FILE


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What a run was told.

    Attributes:
        path: The run directory, absolute.
        choices: Which option of each group was taken.
        values: All keys with their final values.
    """

    path: Path
    choices: dict[str, str]
    values: dict[str, Any]


def read_run(path: Path) -> SavedRun:
    """Reads a run directory's configuration.

    Raises:
        ValueError: If there is none, or it cannot be read.
    """
    file = path / CONFIG_FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        choices, values = dict(content["choices"]), dict(content["config"])
    except OSError as error:
        raise ValueError(_no_run(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} is not the configuration of a run; restore it, or train again"
        ) from error
    return SavedRun(
        path=path.absolute(),
        choices={str(group): str(option) for group, option in choices.items()},
        values={str(key): value for key, value in values.items()},
    )


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run directories meant: those given, or those in a folder of runs, as a sweep makes it.

    Raises:
        ValueError: If a path is neither.
    """
    found: list[Path] = []
    for path in paths:
        path = path.expanduser()
        if (path / CONFIG_FILE).is_file():
            found.append(path)
            continue
        # Hydra names the jobs of a sweep 0, 1 ... 10.
        inner = sorted(
            (file.parent for file in path.glob(f"*/{CONFIG_FILE}")),
            key=lambda folder: (len(folder.name), folder.name),
        )
        if not inner:
            raise ValueError(_no_run(path))
        found += inner
    return found


def _no_run(path: Path) -> str:
    if not path.is_dir():
        return f"there is no run directory {path}; correct run=, or train one: python train.py"
    return (
        f"{path} is not a run directory: it holds no {CONFIG_FILE}, and neither does a folder in "
        "it; give the folder that train.py named at its end"
    )
