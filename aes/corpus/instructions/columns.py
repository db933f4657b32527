"""Where in a record its parts stand: columns and tags, as LLaMA-Factory names them.

Every column is a name in the data; ``None`` where the data has no such column. A sample with
something in ``tools``, ``videos`` or ``audios`` is refused, for none of it would be seen.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class AlpacaColumns:
    """Columns of a question and its answer.

    Attributes:
        prompt: The question.
        query: What the question is about; set below it.
        response: The answer.
        system: System prompt.
        history: Earlier turns, as pairs of question and answer.
        images: One path or several.
        tools: Tools to call.
        videos: Paths of videos.
        audios: Paths of sounds.
    """

    prompt: str | None
    query: str | None
    response: str
    system: str | None
    history: str | None
    images: str | None
    tools: str | None
    videos: str | None
    audios: str | None


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class ShareGptColumns:
    """Columns of a conversation.

    Attributes:
        messages: The turns.
        system: System prompt, where it is not the first turn.
        images: One path or several.
        tools: Tools to call.
        videos: Paths of videos.
        audios: Paths of sounds.
    """

    messages: str
    system: str | None
    images: str | None
    tools: str | None
    videos: str | None
    audios: str | None


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class ShareGptTags:
    """Names within a turn, and of who speaks.

    Attributes:
        role_tag: Key of who speaks.
        content_tag: Key of what is said.
        user_tag: The user, as in ``human``.
        assistant_tag: The model, as in ``gpt``.
        system_tag: The system prompt as the first turn; ``None``: it never is one.
        observation_tag: What a tool gave.
        function_tag: A call of a tool.
    """

    role_tag: str
    content_tag: str
    user_tag: str
    assistant_tag: str
    system_tag: str | None
    observation_tag: str | None
    function_tag: str | None


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class CaptionColumns:
    """Columns of an image and what is to be said of it.

    Attributes:
        id: The sample's id; ``None``: its number.
        image: The image, or several.
        answer: What is to be said.
    """

    id: str | None
    image: str
    answer: str
