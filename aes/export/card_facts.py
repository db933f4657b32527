"""What a model card is about, and how Markdown is written. Knows no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = Iterable[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card is about.

    Attributes:
        name: Of the export.
        base: Public name of the base model.
        base_id: The same if it is one of the hub, else empty.
        is_merged: Whether the weights are whole; else an adapter.
        dtype: Of the weights, in words.
        run: The run's directory.
        choices: Which option of each group the run took.
        values: Its settings, as ``config.yaml`` has them.
        serve: Command that has vLLM serve it.
        obstacle: What vLLM would not do; empty if nothing.
    """

    name: str
    base: str
    base_id: str
    is_merged: bool
    dtype: str
    run: Path
    choices: Mapping[str, str]
    values: Mapping[str, Any]
    serve: str
    obstacle: str

    @property
    def is_random(self) -> bool:
        """Whether the base has random weights."""
        return self.values["model"].get("path") is None

    @property
    def has_adapter(self) -> bool:
        """Whether LoRA was trained; else every weight."""
        return self.values["adapter"].get("rank") is not None

    @property
    def grades(self) -> bool:
        """Whether it gives scores; else it answers in free text."""
        return bool(self.values.get("rubric", {}).get("traits"))

    @property
    def sees(self) -> bool:
        """Whether it reads pages."""
        return self.values["model"].get("vision") is not None


def table(head: Sequence[str], rows: Rows) -> str:
    """A table in Markdown."""
    lines = [list(map(_cell, head)), ["---"] * len(head), *(list(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).replace("|", "\\|").replace("\n", " ")


def fenced(language: str, lines: Sequence[str]) -> str:
    """Lines of code in Markdown."""
    return "\n".join([f"```{language}", *lines, "```"])
