"""What ``data.path`` names -> the files that hold samples, all of one kind. Opens none of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from aes.corpus.instructions.rows import name_columns
from aes.corpus.instructions.tables import TABLE_SUFFIXES

JSON_SUFFIXES = (".json", ".jsonl")
_STATE_FILE, _PARTS_FILE = "state.json", "dataset_dict.json"
"""What ``save_to_disk`` of ``datasets`` leaves beside tables, or beside folders of them."""

_NOT_SAMPLES = frozenset({"dataset_info.json", "dataset_infos.json", _STATE_FILE})
_PART = re.compile(r"(\w+)-\d+-of-\d+")


def find_files(path: Path) -> tuple[Path, ...]:
    """The files in the order in which they are read.

    Args:
        path: A file, a folder of files, or a pattern such as ``train-*.parquet``.

    Raises:
        ValueError: If there are none, or they are of several kinds.
    """
    path = path.expanduser().absolute()
    if "*" in path.name:
        found = sorted(path.parent.glob(path.name))
    elif path.is_dir():
        found = _list_folder(path)
    elif path.is_file():
        found = [path]
    else:
        raise ValueError(f"{path} does not exist: correct the path.")
    known = [file for file in found if file.suffix in JSON_SUFFIXES + TABLE_SUFFIXES]
    if not known:
        raise ValueError(
            f"{path} is or holds no .json, .jsonl, .parquet or .arrow file: correct the path."
        )
    suffixes = sorted({file.suffix for file in known})
    if len(suffixes) > 1:
        raise ValueError(
            f"{path} holds files of several kinds ({', '.join(suffixes)}): name one file or a "
            f"pattern such as *{suffixes[0]} by data.path."
        )
    _refuse_several_parts(path, known)
    return tuple(known)


def _list_folder(folder: Path) -> list[Path]:
    if (folder / _PARTS_FILE).is_file():
        parts = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise ValueError(f"{folder} holds {name_columns(parts)}: name one of them by data.path.")
    if (folder / _STATE_FILE).is_file():
        return _list_saved(folder)
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(
        path for path in files if path.name not in _NOT_SAMPLES and not path.name.startswith(".")
    )


def _list_saved(folder: Path) -> list[Path]:
    """The tables that ``datasets`` says it saved, none of them elsewhere."""
    state_file, real_folder = folder / _STATE_FILE, folder.resolve()
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        found = [folder / file["filename"] for file in state["_data_files"]]
        strays = [
            path
            for path in found
            if not path.resolve().is_relative_to(real_folder) or not path.is_file()
        ]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # a loop of links
        raise ValueError(
            f"{state_file} is not as datasets writes it: save the data anew, or name its tables by "
            "data.path."
        ) from error
    if strays:
        raise ValueError(
            f"{state_file} names {strays[0]}, which is not in its folder: save the data anew."
        )
    return found


def _refuse_several_parts(path: Path, files: list[Path]) -> None:
    """Training and test files of one folder are not one set of data."""
    parts = {match.group(1) for file in files if (match := _PART.match(file.name))}
    if len(parts) > 1:
        raise ValueError(
            f"{path} holds {name_columns(sorted(parts))}: name one by data.path, as in "
            f"{min(parts)}-*{files[0].suffix}."
        )
