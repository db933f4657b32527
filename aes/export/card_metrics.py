"""``evaluation/<split>/metrics.json`` of a run -> the tables of its card.

Takes numbers by their names and computes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aes.export.run_facts import read_json
from aes.model.trained import trained_digest

_SPLITS = ("test", "val", "all", "train")
_OF_SCORES = ("qwk", "pearson", "mae", "rmse", "exact", "adjacent")
_HEADS = {"qwk": "QWK", "pearson": "Pearson", "mae": "MAE", "rmse": "RMSE"}
_OF_BASELINES = ("qwk", "pearson", "mae", "rmse")
_COUNTS = ("num", "num_sources", "threshold")

_SETTINGS_FILE = "predictions.settings.json"
"""Beside the grades: what they were made under."""

Values = Mapping[str, float | None]
Table = tuple[str, Sequence[str], list[tuple[str, ...]]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation of a run found.

    Attributes:
        values: By name, without the split in front.
        is_stale: Whether other weights were measured than the run holds now.
    """

    split: str
    values: Values
    is_stale: bool

    @property
    def described(self) -> str:
        """How much was measured."""
        num, sources = self.values.get("num"), self.values.get("num_sources")
        told = f"{num:.0f} samples" if num is not None else "an unknown number of samples"
        return told + (f" from {sources:.0f} sources" if sources is not None else "")


def find_evaluation(run: Path) -> Measured | None:
    """The most telling evaluation of a run: of its test part, else another; ``None``: none."""
    for split in _SPLITS:
        file = run / "evaluation" / split / "metrics.json"
        prefix = f"{split}/"
        values = {
            key.removeprefix(prefix): value
            for key, value in read_json(file).items()
            if key.startswith(prefix) and (value is None or isinstance(value, int | float))
        }
        if values:
            measured = read_json(file.with_name(_SETTINGS_FILE)).get("adapter")
            is_stale = measured is not None and measured != trained_digest(run)
            return Measured(split=split, values=values, is_stale=is_stale)
    return None


def metric_tables(found: Measured) -> Iterator[Table]:
    """Heading, columns and rows of each table."""
    values = found.values
    scores = (key.split("/") for key in values if key.startswith("qwk/"))
    parts = [rest[0] for _, *rest in scores if len(rest) == 1]
    if parts:
        heads = ["score", *(_HEADS.get(name, name) for name in _OF_SCORES)]
        rows = [
            (part, *(_number(values, f"{name}/{part}") for name in _OF_SCORES)) for part in parts
        ]
        yield "Agreement with the gold scores:", heads, rows
    names = list(dict.fromkeys(key.split("/")[1] for key in values if key.startswith("baseline/")))
    if parts and names:
        rows = [
            (name, *(_number(values, f"baseline/{name}/{m}/total") for m in _OF_BASELINES))
            for name in names
        ]
        yield "Baselines, of the total:", ["grader", *(_HEADS[m] for m in _OF_BASELINES)], rows
    others = _others(values)
    if others:
        bases = [n for n in names if any(f"baseline/{n}/{key}" in values for key in others)]
        rows = [
            (key, _number(values, key), *(_number(values, f"baseline/{n}/{key}") for n in bases))
            for key in others
        ]
        yield "Other numbers:", ["metric", "this model", *bases], rows


def _others(values: Values) -> list[str]:
    """Metrics of whole answers: text, classes, and the share that could be read."""
    return [key for key in values if "/" not in key and key not in _COUNTS]


def _number(values: Values, key: str) -> str:
    value = values.get(key)
    if value is None:
        return "—"
    low, high = values.get(f"{key}/low"), values.get(f"{key}/high")
    ends = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"{value:.3f}{ends}"
