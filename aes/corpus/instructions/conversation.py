"""A record -> who says what in which order, without images: alpaca and sharegpt alike.

Texts stay as they are to the letter, and read as LLaMA-Factory reads them. What cannot be a
conversation of user and assistant is refused with a reason. Knows no file and no image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aes.corpus.instructions.columns import AlpacaColumns, ShareGptColumns, ShareGptTags
from aes.corpus.instructions.rows import RowError, name_columns

Speaker = Literal["user", "assistant"]
_Values = Mapping[str, Any]
_LONGEST_ROLE = 20


@dataclass(frozen=True)
class Conversation:
    """A sample's texts.

    Attributes:
        system: System prompt; empty if it has none of its own.
        turns: The user's and the assistant's in turn; the last one is the answer.
        images: As the record names them.
    """

    system: str
    turns: tuple[tuple[Speaker, str], ...]
    images: tuple[Any, ...] = ()


Convert = Callable[[_Values], Conversation]
"""Makes a conversation of a record; raises RowError."""


def read_alpaca(values: _Values, columns: AlpacaColumns) -> Conversation:
    """Question and answer, with earlier turns before them.

    Raises:
        RowError: If it is none.
    """
    if columns.prompt is not None and columns.prompt not in values:
        raise RowError("other_format", f"has no {columns.prompt}, but {name_columns(values)}")
    _refuse_media(values, columns)
    turns = [turn for pair in _history(values, columns.history) for turn in pair]
    asked = [_text(values, column) for column in (columns.prompt, columns.query)]
    turns.append(("user", "\n".join(filter(None, asked))))
    if values.get(columns.response) is None:
        raise RowError("no_answer", f"has no {columns.response}")
    turns.append(("assistant", _text(values, columns.response)))
    return Conversation(
        _text(values, columns.system), tuple(turns), _listed(values, columns.images)
    )


def read_sharegpt(values: _Values, columns: ShareGptColumns, tags: ShareGptTags) -> Conversation:
    """Turns as they stand, the system prompt apart.

    Raises:
        RowError: If roles are out of turn or unknown, or nothing is answered.
    """
    if columns.messages not in values:
        raise RowError("other_format", f"has no {columns.messages}, but {name_columns(values)}")
    _refuse_media(values, columns)
    messages = values[columns.messages]
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise RowError("malformed_sample", f"has no list of turns in {columns.messages}")
    said = [_read_turn(number, turn, tags) for number, turn in enumerate(messages, start=1)]
    system = _text(values, columns.system)
    if said and tags.system_tag is not None and said[0][0] == tags.system_tag:
        system = said.pop(0)[1]
    return Conversation(system, _in_turn(said, tags), _listed(values, columns.images))


def answer_sharegpt(
    values: _Values, answer: str, *, columns: ShareGptColumns, tags: ShareGptTags
) -> _Values:
    """The conversation with this answer at its end, in the place of its own if it has one."""
    turns = values.get(columns.messages)
    if not isinstance(turns, list):
        return values
    last = turns[-1] if turns else None
    has_own = isinstance(last, Mapping) and last.get(tags.role_tag) == tags.assistant_tag
    said = {tags.role_tag: tags.assistant_tag, tags.content_tag: answer}
    return {**values, columns.messages: [*(turns[:-1] if has_own else turns), said]}


def _read_turn(number: int, turn: object, tags: ShareGptTags) -> tuple[str, str]:
    """Who speaks, and what."""
    if not isinstance(turn, Mapping):
        raise RowError("malformed_sample", f"has a turn {number} that is no object")
    for tag in (tags.role_tag, tags.content_tag):
        if tag not in turn:
            raise RowError(
                "malformed_sample", f"has no {tag} in turn {number}, but {name_columns(turn)}"
            )
    if turn.get("tool_calls"):
        raise RowError("tool_turns", f"calls a tool in turn {number}")
    role, content = turn[tags.role_tag], turn[tags.content_tag]
    if not isinstance(role, str) or not isinstance(content, str):
        raise RowError("malformed_sample", f"has no text in turn {number}")
    return role, content


def _in_turn(
    said: Sequence[tuple[str, str]], tags: ShareGptTags
) -> tuple[tuple[Speaker, str], ...]:
    """The turns with our names of who speaks."""
    speakers: dict[str, Speaker] = {tags.user_tag: "user", tags.assistant_tag: "assistant"}
    turns: list[tuple[Speaker, str]] = []
    for number, (role, content) in enumerate(said, start=1):
        if role in (tags.observation_tag, tags.function_tag):
            raise RowError("tool_turns", f"has a turn {number} of {role}")
        expected = tags.assistant_tag if number % 2 == 0 else tags.user_tag
        if role != expected:
            # Where tags are the wrong way round, what stands here is the text itself.
            is_name = role.isascii() and role.isidentifier() and len(role) <= _LONGEST_ROLE
            who = repr(role) if is_name else "another speaker"
            raise RowError(
                "roles_out_of_turn", f"has {who} in turn {number}, where {expected!r} must speak"
            )
        turns.append((speakers[role], content))
    if not turns:
        raise RowError("no_answer", "has no turns")
    if len(turns) % 2:
        raise RowError("no_answer", f"ends with turn {len(turns)}, which nobody answers")
    return tuple(turns)


def _history(
    values: _Values, column: str | None
) -> list[tuple[tuple[Speaker, str], tuple[Speaker, str]]]:
    """Earlier questions with their answers."""
    pairs = values.get(column) if column else None
    if pairs is None:
        return []
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise RowError("malformed_sample", f"has no pairs of question and answer in {column}")
    return [(("user", asked), ("assistant", answered)) for asked, answered in pairs]


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair)


def _text(values: _Values, column: str | None) -> str:
    """The text of a column that may be missing or null."""
    value = values.get(column) if column else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("malformed_sample", f"has a {type(value).__name__} for text in {column}")
    return value


def _listed(values: _Values, column: str | None) -> tuple[Any, ...]:
    """One value or a list of them, as a tuple."""
    value = values.get(column) if column else None
    if value is None or value == "":
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _refuse_media(values: _Values, columns: AlpacaColumns | ShareGptColumns) -> None:
    for column in (columns.videos, columns.audios):
        if column and values.get(column):
            raise RowError("unsupported_media", f"has {column}")
    if columns.tools and values.get(columns.tools) not in (None, "", "[]", []):
        raise RowError("tool_turns", f"has {columns.tools}")
