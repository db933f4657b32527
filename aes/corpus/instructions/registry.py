"""A ``dataset_info.json``, as people bring it from LLaMA-Factory -> the data that it names.

Its names and defaults are read as LLaMA-Factory reads them: with ``columns`` given, a column that
is not named there does not exist. Nothing is fetched, so entries that only name a hub or a script
are refused. What is not used is noted and does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA
from aes.corpus.instructions.columns import AlpacaColumns, ShareGptColumns, ShareGptTags
from aes.corpus.instructions.file_data import SourcedData, alpaca_source, sharegpt_source
from aes.corpus.instructions.finding_files import find_files
from aes.corpus.instructions.json_file import read_object
from aes.corpus.instructions.reading import Source
from aes.corpus.instructions.rows import name_columns
from aes.corpus.instructions.spec import Finding

_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_PREFERENCES = ("chosen", "rejected", "kto_tag")
_MEDIA = ("system", "images", "tools", "videos", "audios")
_ALPACA = ("prompt", "query", "response", "history", *_MEDIA)
_SHAREGPT = ("messages", *_MEDIA)
_ALPACA_DEFAULTS = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "observation",
    "function_tag": "function_call",
}
_KEYS = ("file_name", "formatting", "ranking", "split", "folder", "num_samples", "columns", "tags")


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class RegistryData(SourcedData):
    """One of the sets of data that a registry names.

    Attributes:
        info: The registry; its folder holds the files that it names.
        name: Which of them.
    """

    info: Path
    name: Annotated[str, Field(min_length=1)]

    def files(self) -> tuple[Path, ...]:
        """See ``InstructionData``."""
        return (self._registry, *super().files())

    @property
    def _registry(self) -> Path:
        info = self.info.expanduser().absolute()
        return info / "dataset_info.json" if info.is_dir() else info

    def _source(self, path: Path | None = None) -> Source:
        info = self._registry
        entry = _Entry(info, self.name, _look_up(info, self.name))
        # Of other files than the registry's, images lie beside them.
        folder = info.parent if path is None else None
        source = entry.source(folder if self.root is None else self.root, path)
        return replace(source, seed=self.split_seed)


def _look_up(info: Path, name: str) -> Mapping[str, Any]:
    entries = read_object(info)
    if name not in entries:
        close = get_close_matches(name, entries, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"it names {name_columns(entries)}."
        raise ValueError(f"data.name {name} is not in {info}: {hint}")
    entry = entries[name]
    if not isinstance(entry, dict):
        raise ValueError(f"{info} says of {name} nothing that can be read: make it an object.")
    return entry


class _Entry:
    """What a registry says of one set of data."""

    def __init__(self, info: Path, name: str, values: Mapping[str, Any]) -> None:
        self._info, self._name, self._values = info, name, values
        self._notes: list[Finding] = []

    def source(self, root: Path | None, path: Path | None = None) -> Source:
        """The files, and how their records are understood.

        Args:
            root: Folder of images; ``None``: that of the files.
            path: Of other files than those that it names.
        """
        self._refuse_what_is_no_file()
        files = find_files(path or self._locate())
        root = files[0].parent if root is None else root
        formatting = self._values.get("formatting", "alpaca")
        if formatting == "alpaca":
            source = alpaca_source(files, root, self._alpaca_columns())
            self._note_unused("tags", self._table("tags"), ())
        elif formatting in ("sharegpt", "openai"):
            source = sharegpt_source(files, root, self._sharegpt_columns(), self._tags())
        else:
            raise self._refusal(f"has the formatting {formatting!r}", "alpaca or sharegpt is read")
        num_chosen = self._num_samples()
        self._note_unused("", self._values, _KEYS)
        required = source.required
        if "columns" in self._values:  # who names a column has it
            required = tuple(sorted(source.columns))
        return replace(source, required=required, num_chosen=num_chosen, notes=tuple(self._notes))

    def _refuse_what_is_no_file(self) -> None:
        for key in _ELSEWHERE:
            if key in self._values:
                raise self._refusal(
                    f"lies elsewhere ({key})", "nothing is fetched: download it and give file_name"
                )
        named = [key for key in _PREFERENCES if self._table("columns").get(key)]
        if self._values.get("ranking") or named:
            what = name_columns(named) if named else "ranking"
            raise self._refusal(
                f"holds preferences ({what})", "only questions with one answer each are trained"
            )
        if self._values.get("split", "train") not in ("train", None):
            raise self._refusal("names a part by split", "set data.max_samples, or cut the file")

    def _locate(self) -> Path:
        file_name = self._values.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise self._refusal("has no file_name", "add it")
        path, folder = self._info.parent / file_name, self._values.get("folder")
        if isinstance(folder, str) and not path.exists():
            path = self._info.parent / folder / file_name
        if not path.exists():
            raise self._refusal(f"names {file_name}, which is not there", "correct file_name")
        # Data from elsewhere must not choose what is read.
        if not path.resolve().is_relative_to(self._info.parent.resolve()):
            raise self._refusal(
                f"names {file_name}, which is outside {self._info.parent}", "put it into the folder"
            )
        return path

    def _alpaca_columns(self) -> AlpacaColumns:
        given = self._columns(_ALPACA) if "columns" in self._values else _ALPACA_DEFAULTS
        if given.get("response") is None:
            raise self._refusal("names no column for the response", "add it under columns")
        names: dict[str, Any] = {key: given.get(key) for key in _ALPACA}
        return AlpacaColumns(**names)

    def _sharegpt_columns(self) -> ShareGptColumns:
        given = self._columns(_SHAREGPT)
        names: dict[str, Any] = {key: given.get(key) for key in _SHAREGPT}
        return ShareGptColumns(**names | {"messages": given.get("messages") or "conversations"})

    def _columns(self, known: Iterable[str]) -> dict[str, Any]:
        columns = self._table("columns")
        self._note_unused("columns", columns, known)
        return columns

    def _tags(self) -> ShareGptTags:
        tags = self._table("tags")
        self._note_unused("tags", tags, _TAGS)
        return ShareGptTags(**{key: tags.get(key) or default for key, default in _TAGS.items()})

    def _table(self, key: str) -> dict[str, Any]:
        """``columns`` or ``tags``, where every value is a name."""
        table = self._values.get(key)
        if table is None:
            return {}
        if not isinstance(table, dict) or not all(
            name is None or isinstance(name, str) for name in table.values()
        ):
            raise self._refusal(
                f"has {key} that are not names", f"write {key} as an object of names"
            )
        return table

    def _num_samples(self) -> int | None:
        value = self._values.get("num_samples")
        if value is None or value == "":
            return None
        digits = str(value).strip()
        if digits.isdecimal() and int(digits) > 0:
            return int(digits)
        self._note("num_samples is no number above 0 and not used")
        return None

    def _note_unused(self, where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        unknown = [key for key in table if key not in set(known)]
        if unknown:
            self._note(
                f"{where or 'the entry'} has keys that are not used: {name_columns(unknown)}"
            )

    def _note(self, message: str) -> None:
        self._notes.append(
            Finding(
                code="unused_setting",
                message=f"In {self._name}, {message}.",
                file=self._info.name,
            )
        )

    def _refusal(self, what: str, cure: str) -> ValueError:
        return ValueError(f"{self._info}: {self._name} {what}: {cure}.")
