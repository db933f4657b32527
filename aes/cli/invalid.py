"""What pydantic finds in one group of settings -> one sentence in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from aes.cli.errors import nearest, one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LONGEST_VALUE_SHOWN = 60
_UNKNOWN = "unexpected_keyword_argument"
_MISSING = "missing"

_WORDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "literal_error": "must be {expected}",
    "tuple_type": "must be a list, as in key=[a,b]",
    "list_type": "must be a list, as in key=[a,b]",
    "dict_type": "must be a group of settings",
    "dataclass_type": "must be a group of settings",
    "dataclass_exact_type": "must be a group of settings",
    "too_short": "must hold at least {min_length} values",
    "too_long": "must hold at most {max_length} values",
}


def invalid_sentence(error: ValidationError, *, path: str, values: Mapping[str, Any]) -> str:
    """One sentence for the first finding, with the number of further ones.

    Args:
        error: What pydantic found in ``values``.
        path: Key of the group, e.g. ``adapter``; empty at the top level.
        values: The plain values that were given.
    """
    # A misspelt key is also a missing one; only the first is news.
    findings = sorted(error.errors(), key=lambda e: (e["type"] != _UNKNOWN, e["type"] != _MISSING))
    first, names = findings[0], {f["loc"][-1] for f in findings if f["type"] == _UNKNOWN}
    at_first = _location(first, values)  # where a union of types has a finding for each
    rest = [
        f
        for f in findings[1:]
        if (not names or f["type"] != _MISSING) and _location(f, values) != at_first
    ]
    more = f" ({len(rest)} more to correct)" if rest else ""
    return f"{_sentence(first, findings, path=path, values=values)}{more}"


def _sentence(
    finding: ErrorDetails,
    findings: Sequence[ErrorDetails],
    *,
    path: str,
    values: Mapping[str, Any],
) -> str:
    key = ".".join(filter(None, [path, *_location(finding, values)]))
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == _UNKNOWN:
        return unknown_key(key, _names_beside(finding, findings, values))
    if kind == _MISSING and isinstance(finding["loc"][-1], int):
        return f"{key}: must hold more values, got {_shown(finding['input'])}"
    if kind == _MISSING:
        return f"{key} is missing; give it a value"
    if kind in ("value_error", "assertion_error"):
        text = one_line(str(context["error"]))
        return text if key and text.startswith(f"{key}") else f"{key}: {text}".removeprefix(": ")
    here = [f for f in findings if _location(f, values) == _location(finding, values)]
    words = " or ".join(dict.fromkeys(map(_words, here)))
    sentence = f"{key}: {words}, got {_shown(finding['input'])}"
    if kind in ("string_type", "path_type") and isinstance(finding["input"], int | float):
        *whole, last = key.rsplit(".", 1)
        if last.isdecimal():  # a list is given whole
            return f"{sentence}; quote each twice, as in \"{whole[0]}=['...','...']\""
        return f"{sentence}; quote it twice, as in {key}=\"'...'\""
    return sentence


def _words(finding: ErrorDetails) -> str:
    """What the value must be."""
    message = finding["msg"][0].lower() + finding["msg"][1:]
    return _WORDS.get(finding["type"], message).format(**finding.get("ctx", {}))


def _location(finding: ErrorDetails, values: Mapping[str, Any]) -> list[str]:
    """The keys down to the finding, without the names of types that pydantic puts between."""
    here: Any = values
    keys: list[str] = []
    for part in finding["loc"]:
        if isinstance(here, Mapping) and (part in here or finding["type"] == _MISSING):
            here = here.get(part)
            keys.append(str(part))
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            here = here[part]
            keys.append(str(part))
    return keys


def _names_beside(
    finding: ErrorDetails, findings: Sequence[ErrorDetails], values: Mapping[str, Any]
) -> list[str]:
    """Right names beside a wrong one: those given and accepted, and those that are missing."""
    parent = finding["loc"][:-1]
    here: Any = values
    for part in _location(finding, values)[:-1]:
        here = here[int(part) if isinstance(here, list | tuple) else part]
    beside = {f["loc"][-1]: f["type"] for f in findings if f["loc"][:-1] == parent}
    missing = [str(name) for name, kind in beside.items() if kind == _MISSING]
    accepted = [str(name) for name in here if beside.get(name) != _UNKNOWN and name != "_target_"]
    return missing + accepted


def unknown_key(key: str, names: Sequence[str]) -> str:
    """The sentence about a key that does not exist; ``names`` are those it stands beside."""
    parent, _, name = key.rpartition(".")
    prefix = f"{parent}." if parent else ""
    alike = nearest(name, names)
    if alike is not None:
        return f"{key} is not a setting; did you mean {prefix}{alike}?"
    if not names:
        return f"{key} is not a setting; {parent} has none: remove it"
    return f"{key} is not a setting; remove it, or use one of {', '.join(sorted(names))}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE_SHOWN else f"{text[:_LONGEST_VALUE_SHOWN]}..."
