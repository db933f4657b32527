"""A key -> the report's words, from ``evaluation.yaml``, so that a translation is another file.

Keys that begin with ``answers.`` stand in ``text_evaluation.yaml``. Knows no HTML.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml


def say(key: str, **values: object) -> str:
    """The text of a key, its names in braces filled in.

    Args:
        key: Path in the file, joined by dots, e.g. ``verdict.heading``.
        values: For the names in braces.
    """
    return words()[key].format(**values)


def say_or(key: str, otherwise: str) -> str:
    """The text of a key that need not exist, such as the name of a baseline."""
    return words().get(key, otherwise)


@cache
def words() -> dict[str, str]:
    """Every text by its dotted key."""
    folder = resources.files("aes.report")
    return {
        key: text
        for name, path in (("evaluation.yaml", ""), ("text_evaluation.yaml", "answers."))
        for key, text in _flatten(yaml.safe_load(folder.joinpath(name).read_text("utf-8")), path)
    }


def _flatten(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        else:
            assert isinstance(value, str), f"{path}{key} is no text: quote it"
            yield f"{path}{key}", value
