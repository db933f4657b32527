"""A conversation and its images -> a Sample: an Example with what tells it from others.

``<image>`` marks where an image stands in a question; there are as many marks as images. Knows no
file format and no policy.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from aes.corpus.instructions.conversation import Conversation
from aes.corpus.instructions.pictures import DIGEST_BYTES, PictureFinder
from aes.corpus.instructions.rows import RowError
from aes.corpus.instructions.spec import Finding, Sample
from aes.records import FREE, Example, Message, Picture

MARKER = "<image>"
_MEDIA_MARKERS = ("<video>", "<audio>")
STRUCTURAL_TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
"""What the chat template marks turns and images with; no text of a sample may hold it."""

_STRUCTURAL = re.compile("|".join(map(re.escape, STRUCTURAL_TOKENS)))
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What samples shall be like.

    Attributes:
        system: System prompt of samples that have none; empty: they have none.
        labels: Texts of which each answer is one; empty: any text.
        train_on: See ``InstructionData``.
    """

    system: str
    labels: tuple[str, ...]
    train_on: Literal["last", "all"]


@dataclass(frozen=True)
class Place:
    """Where a sample was read: its number, its id, file and line."""

    number: int
    id: str
    file: str
    line: int

    def finding(self, code: str, message: str) -> Finding:
        """A finding about this sample; the message goes on after its number."""
        return Finding(
            code=code, message=f"Sample {self.number} {message}.", file=self.file, line=self.line
        )

    def refused(self, refusal: RowError) -> Sample:
        """A sample of which nothing can be made."""
        finding = self.finding(refusal.code, refusal.message)
        return Sample(
            number=self.number,
            id=self.id,
            example=None,
            findings=(finding,),
            blamed=refusal.path,
            file=self.file,
            line=self.line,
        )


def make_sample(
    conversation: Conversation, place: Place, *, wanted: Wanted, pictures: PictureFinder
) -> Sample:
    """The sample of a conversation, or what is wrong with it."""
    findings = []
    mended = _mend(conversation)
    if mended != conversation:
        findings.append(place.finding("lost_character", "has characters that are none in UTF-8"))
    try:
        _check_texts(mended, wanted)
        _check_markers(mended)
        found = [pictures.find(value) for value in mended.images]
    except RowError as refusal:
        return place.refused(refusal)
    messages = _messages(mended, wanted.system, iter([picture for picture, _ in found]))
    if not any(part for part in messages[-1].parts):
        findings.append(place.finding("empty_question", "asks nothing"))
    answer = _answer(mended, wanted.labels)
    digests = tuple(digest for _, digest in found)
    *beginnings, prompt = _question_keys(messages, digests)
    asked = _digest(*(f"{m.role}:{_texts(m).strip()}" for m in messages), *digests)
    example = Example(
        id=place.id,
        messages=messages,
        answer=((answer, FREE),),
        kind="text",
        choices=wanted.labels,
        learns_all_turns=wanted.train_on == "all",
        source=prompt.hex(),
    )
    return Sample(
        number=place.number,
        id=place.id,
        example=example,
        findings=tuple(findings),
        keys=(prompt, *dict.fromkeys(digests)),
        beginnings=tuple(beginnings),
        file=place.file,
        line=place.line,
        asked=asked,
        # Case and indentation may be all that tells answers apart, as in code: nothing is folded.
        twin=_digest(asked, answer.strip()),
    )


def _question_keys(messages: tuple[Message, ...], digests: tuple[bytes, ...]) -> Iterator[bytes]:
    """A digest of the conversation up to each question, the last of which is the whole prompt.

    The system prompt is no part of it: one question under two of them is one question.
    """
    key, images = b"", iter(digests)
    for message in messages:
        if message.role == "system":
            continue
        seen = [next(images) for part in message.parts if not isinstance(part, str)]
        key = _digest(key, f"{message.role}:{_fold(_texts(message))}", *seen)
        if message.role == "user":
            yield key


def _mend(conversation: Conversation) -> Conversation:
    """The same without halves of characters, which no file and no tokenizer takes."""
    return Conversation(
        _whole(conversation.system),
        tuple((speaker, _whole(text)) for speaker, text in conversation.turns),
        conversation.images,
    )


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_REPLACEMENT if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _check_texts(conversation: Conversation, wanted: Wanted) -> None:
    turns = conversation.turns
    for text in (conversation.system, *(text for _, text in turns)):
        if special := _STRUCTURAL.search(text):
            raise RowError("special_token", f"holds {special.group()} in its text")
    learned = turns[1::2] if wanted.train_on == "all" else turns[-1:]
    if not all(text.strip() for _, text in learned):
        raise RowError("empty_answer", "has an empty answer")
    if wanted.labels and turns[-1][1].strip() not in wanted.labels:
        raise RowError("unknown_label", "has an answer that is none of data.labels")


def _check_markers(conversation: Conversation) -> None:
    for speaker, text in conversation.turns:
        if speaker == "assistant" and MARKER in text:
            raise RowError("markers_and_images", f"has {MARKER} in an answer")
        if any(marker in text for marker in _MEDIA_MARKERS):
            raise RowError("unsupported_media", f"holds {' or '.join(_MEDIA_MARKERS)}")
    num_markers = sum(text.count(MARKER) for _, text in conversation.turns)
    num_images = len(conversation.images)
    if num_markers != num_images:
        raise RowError(
            "markers_and_images",
            f"has {num_images} image{'' if num_images == 1 else 's'} and {num_markers} times "
            f"{MARKER}",
        )


def _messages(
    conversation: Conversation, system: str, pictures: Iterator[Picture]
) -> tuple[Message, ...]:
    """The turns before the answer, each image where its mark stood."""
    system = conversation.system or system
    messages = [Message("system", (system,))] if system else []
    for speaker, text in conversation.turns[:-1]:
        first, *others = text.split(MARKER)
        parts: list[str | Picture] = [first]
        for after in others:
            parts += [next(pictures), after]
        kept = tuple(part for part in parts if part != "")
        messages.append(Message(speaker, kept or ("",)))
    return tuple(messages)


def _answer(conversation: Conversation, labels: tuple[str, ...]) -> str:
    """To the letter; of a label, white space around it does not count."""
    answer = conversation.turns[-1][1]
    return answer.strip() if labels else answer


def _texts(message: Message) -> str:
    return "".join(MARKER if not isinstance(part, str) else part for part in message.parts)


def _fold(text: str) -> str:
    """The text without what hardly counts: white space, case, width."""
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()


def _digest(*parts: str | bytes) -> bytes:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()
