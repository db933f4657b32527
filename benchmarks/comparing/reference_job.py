"""The embedded essays -> the reference job's samples, the same for both sides of a comparison.

A page of 640 x 928 px (580 tokens) that is full, and an answer of 450 supervised tokens, as the
folder of an AES-Dataset for us and as a sharegpt file for LLaMA-Factory, which both read the same
PNG files. The text of pages and comments is mixed from the embedded essays. Knows no model but
its tokenizer.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aes.corpus import load_sample
from aes.page import PageRenderer
from aes.prompt import AnswerSchema

if TYPE_CHECKING:
    from aes.cli.settings import Settings

COMMENTS_FILE = "comments.json"
TYPED_FOLDER = "typed"
NUM_SUPERVISED = 450
"""Tokens of an answer, its end included."""

PAGE_SIZE_PX = (640, 928)
_MOST_CHARS = 1200
"""More than any comment of so many tokens has."""


def write_essays(folder: Path, settings: Settings, encode: Callable[[str], list[int]]) -> None:
    """Write the job's essays as images into ``folder``, and typed into ``typed`` beside it.

    Args:
        folder: Made here; becomes ``data.root``.
        settings: Of the run; tell page, rubric, and by ``data.max_samples`` how many essays.
        encode: Text to token ids.
    """
    typed = folder.parent / TYPED_FOLDER
    for root in (folder, typed):
        (root / "essays").mkdir(parents=True)
    schema = AnswerSchema(ranges=settings.rubric.ranges, feedback=True)
    (trait,) = settings.rubric.ranges
    comments: dict[str, str] = {}
    rows: list[str] = []
    renderer = PageRenderer(settings.page)
    for number, text in enumerate(_long_texts(settings.data.max_samples)):
        name, score = f"E{number:05d}", 60 + number * 7 % 40
        page_text = _save_page(text, folder / "essays" / f"{name}.png", renderer)
        # The first line is the title's, and these essays have none.
        (typed / "essays" / f"{name}.txt").write_text(f"\n{page_text}\n", encoding="utf-8")
        rows.append(f"{name}\t\t{score}\r\n")
        comments[name] = _comment(text[1500:], {trait: score}, schema, encode)
    for root in (folder, typed):
        (root / "scores.txt").write_text("".join(rows), encoding="gb18030", newline="")
        content = json.dumps(comments, ensure_ascii=False)
        (root / COMMENTS_FILE).write_text(content, encoding="utf-8")


def _long_texts(count: int) -> list[str]:
    """So many texts of some thousand characters: sentences of the embedded essays, mixed."""
    essays = "".join(essay.text.replace("\n", "") for essay in load_sample())
    sentences = [f"{part}。" for part in essays.split("。") if part]
    return ["".join(random.Random(i).sample(sentences, 200))[:3000] for i in range(count)]


def _save_page(text: str, path: Path, renderer: PageRenderer) -> str:
    """Save a page that is full of ``text`` so that reading the file changes no pixel.

    We trim the margins of an image file and fill up with paper to whole tokens; after one or two
    rounds of this a page stays as it is, and both sides see the same pixels.

    Returns:
        The beginning of ``text`` that stands on the page.
    """
    (first, *_) = renderer.layout("", text)
    page_text = text[: sum(len(line.text) for line in first.lines)]
    (page,) = renderer.layout("", page_text)
    image = renderer.draw(page)
    assert image.size == PAGE_SIZE_PX, f"a page of {image.size} is not the reference's"
    for _ in range(5):
        image.save(path)
        seen = renderer.open(path)
        if seen.size == PAGE_SIZE_PX and seen.tobytes() == image.tobytes():
            return page_text
        image = seen
    raise AssertionError("the page is another one each time that it is opened")


def _comment(
    text: str, scores: dict[str, int], schema: AnswerSchema, encode: Callable[[str], list[int]]
) -> str:
    """A stretch of ``text`` with which the answer has exactly ``NUM_SUPERVISED`` tokens."""

    def count(comment: str) -> int:
        return len(encode("".join(part for part, _ in schema.segments(scores, comment))))

    for start in range(100):
        rest = text[start:]
        guess = bisect_left(range(_MOST_CHARS), NUM_SUPERVISED - 1, key=lambda n: count(rest[:n]))
        for length in (guess, guess + 1, guess + 2):
            parts = [part for part, _ in schema.segments(scores, rest[:length])]
            ids = [token for part in parts for token in encode(part)]
            # We tokenise scores and comment apart, LLaMA-Factory the answer as a whole.
            if len(ids) + 1 == NUM_SUPERVISED and ids == encode("".join(parts)):
                return rest[:length]
    raise AssertionError("no comment has the length that is wanted")


@dataclass(frozen=True)
class Sample:
    """One sample as our side made it.

    Attributes:
        question: Text of the user's turn behind the page.
        answer: Gold answer.
        page: PNG file.
        input_ids: All tokens: prompt, page, answer, end.
        num_prompt: Tokens before the answer.
        num_image_tokens: Tokens of the page.
    """

    question: str
    answer: str
    page: str
    input_ids: list[int]
    num_prompt: int
    num_image_tokens: int


def write_sharegpt(folder: Path, samples: Sequence[Sample]) -> None:
    """Write the samples in this order as LLaMA-Factory's data set ``job``."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = [
        {
            "messages": [
                {"role": "user", "content": f"<image>{sample.question}"},
                {"role": "assistant", "content": sample.answer},
            ],
            "images": [sample.page],
        }
        for sample in samples
    ]
    info = {
        "job": {
            "file_name": "job.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
            },
        }
    }
    (folder / "job.json").write_text(json.dumps(turns, ensure_ascii=False), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
