"""Examples -> records and a registry entry in the sharegpt form that LLaMA-Factory reads.

Knows the form; opens and writes nothing, and leaves the wording as it is but for marks that would
be taken for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aes.records import Example, Message

if TYPE_CHECKING:
    from aes.data.processor import Processor

IMAGE_MARK = "<image>"
"""Stands where an image is read, in the order of the record's ``images``."""

_MARKS = (IMAGE_MARK, "<video>", "<audio>")


def registry_entry(file_name: str, *, has_images: bool) -> dict[str, Any]:
    """What ``dataset_info.json`` says of one file of records.

    Source: data/README.md of LLaMA-Factory 0.9.5, and its ``data/parser.py``.
    """
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages"} | ({"images": "images"} if has_images else {}),
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }


def record(
    example: Example, images: Sequence[str], *, processor: Processor
) -> tuple[dict[str, Any], int]:
    """One record, its texts as they are trained on.

    Args:
        images: File of each page, in order, as the record shall name it.
        processor: Breaks up special tokens that stand in a text, as it does when it tokenises.

    Returns:
        The record, and the number of marks in its texts that had to be broken up by a space, since
        an image, video or audio clip would be looked for in their place.
    """
    answer = "".join(text for text, _ in example.answer)
    whole = replace(example, messages=(*example.messages, Message("assistant", (answer,))))
    messages, num_broken = [], 0
    for turn in processor.turns(whole):
        parts = turn["content"]
        texts = [parts] if isinstance(parts, str) else [part.get("text") for part in parts]
        num_broken += sum(text.count(mark) for text in texts if text for mark in _MARKS)
        content = "".join(IMAGE_MARK if text is None else _break_marks(text) for text in texts)
        messages.append({"role": turn["role"], "content": content})
    return {"id": example.id, "messages": messages, "images": list(images)}, num_broken


def _break_marks(text: str) -> str:
    for mark in _MARKS:
        text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text
