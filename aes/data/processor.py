"""Tokenizer and image processor in one: Examples to token ids, page images to patches.

Pages come at their final size: one that the model's image processor would resize is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aes.corpus.instructions.making import STRUCTURAL_TOKENS
from aes.data.guide import ScoreGuide
from aes.data.patches import cut_patches, load_image_processor, refuse_resize
from aes.data.tokenizer import digest_tokenizer, load_tokenizer
from aes.records import FIXED, FREE, Example, Message

FREE_STEP, FIXED_STEP = -1, -2

NO_TOKEN = -1
"""In place of the page placeholder's id, where the model reads text alone."""

_HEADER_TOKENS = 3
"""Of a turn in ChatML: the start token, the role, and a line end."""


@dataclass(frozen=True)
class Encoded:
    """An Example as tokens; lengths are in tokens.

    Attributes:
        input_ids: Prompt, then answer and end token where there is an answer.
        num_prompt: Length of the prompt; the answer begins there.
        steps: For each token of the answer the row of ``ScoreGuide.table`` that it was chosen
            from; ``FREE_STEP`` where the whole vocabulary was open, ``FIXED_STEP`` where the
            answer's form left no choice.
        grids: Height and width of each page in patches of 16 px.
        num_image_tokens: Tokens of all pages.
        turns: Stretches of the prompt that are learned like the answer, as first place and place
            behind the last: earlier turns of the assistant, each with its end token.
    """

    input_ids: list[int]
    num_prompt: int
    steps: list[int]
    grids: list[tuple[int, int]]
    num_image_tokens: int
    turns: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_supervised(self) -> int:
        """Tokens that are learned."""
        return len(self.steps) + sum(end - start for start, end in self.turns)


class Processor:
    """Encodes Examples for one model and rubric.

    Args:
        folder: Checkpoint folder, or any folder with a tokenizer.
        ranges: Lowest and highest score by trait.
        min_pixels: Least page area, where the folder has no image processor settings; ``None`` for
            a model that reads text alone.
        max_pixels: Greatest page area, likewise.

    Attributes:
        image_processor: ``None`` for a model that reads text alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ranges: Mapping[str, tuple[int, int]],
        min_pixels: int | None,
        max_pixels: int | None,
    ) -> None:
        reads_pages = min_pixels is not None and max_pixels is not None
        self.tokenizer = load_tokenizer(folder, reads_pages=reads_pages)
        self.image_processor: Any = None
        if min_pixels is not None and max_pixels is not None:
            self.image_processor = load_image_processor(folder, min_pixels, max_pixels)
        self.tokenizer_digest = digest_tokenizer(folder)
        self.guide = ScoreGuide(self.tokenizer, ranges)
        image_token = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.image_token = int(image_token) if reads_pages else NO_TOKEN
        self._start_token = int(self.tokenizer.convert_tokens_to_ids("<|im_start|>"))
        self._assistant_token = self.tokenizer.encode("assistant", add_special_tokens=False)[0]
        self.end_token = int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))
        self.pad_token = int(self.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
        self._special = sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)

    def require_page_area(self, *, min_pixels: int, max_pixels: int) -> None:
        """Refuse pages, of the areas given, that the image processor would resize.

        Raises:
            ValueError: If the smallest is below the model's least area, or the largest above its
                greatest.
        """
        size = self.image_processor.size
        if min_pixels < size["shortest_edge"]:
            raise ValueError(
                f"page.min_pixels={min_pixels} is below the {size['shortest_edge']} px that this "
                "model's image processor enlarges a page to; set model.min_pixels="
                f"{size['shortest_edge']}"
            )
        if max_pixels > size["longest_edge"]:
            raise ValueError(
                f"a page of {max_pixels} px is more than the {size['longest_edge']} px that this "
                "model's image processor takes; lower page.max_height_px"
            )

    def encode(self, example: Example, sizes: Sequence[tuple[int, int]]) -> Encoded:
        """Tokens of ``example``.

        Args:
            sizes: Width and height in px of each of its pages, multiples of 32.

        Raises:
            ValueError: If it has pages, and the model reads text alone.
        """
        if sizes and self.image_processor is None:
            raise ValueError(
                f"{example.id} has {len(sizes)} images, but this model reads text alone; choose a "
                "model that reads pages, such as model=qwen3_vl_4b, or leave it out"
            )
        grids = [(height // 16, width // 16) for width, height in sizes]
        prompt = self._expand(self._encode_prompt(example), grids)
        answer: list[int] = []
        steps: list[int] = []
        previous, score = FREE, ""
        for text, slot in example.answer:
            ids = self.tokenizer.encode(self._defuse(text, example), add_special_tokens=False)
            answer += ids
            if slot in (FIXED, FREE):
                kind = FREE_STEP if slot == FREE else FIXED_STEP
                # What follows a score ends it, and is one of its choices.
                after_score = previous not in (FIXED, FREE)
                first = self._step(previous, score, example) if after_score else kind
                steps += [first] + [kind] * (len(ids) - 1)
            else:
                steps += [self._step(slot, text[:k], example) for k in range(len(text))]
            previous, score = slot, text
        if answer:
            answer.append(self.end_token)
            steps.append(FREE_STEP if previous == FREE else FIXED_STEP)
        assert len(answer) == len(steps)
        return Encoded(
            input_ids=prompt + answer,
            num_prompt=len(prompt),
            steps=steps,
            grids=grids,
            num_image_tokens=sum(h * w // 4 for h, w in grids),
            turns=self._find_turns(prompt) if example.learns_all_turns else [],
        )

    def _find_turns(self, prompt: Sequence[int]) -> list[tuple[int, int]]:
        """What the assistant says in a prompt, each time up to and with its end token.

        A turn begins behind its header: the start token, the role, a line end. Special tokens that
        a text writes out are broken, so what looks like a header is one.
        """
        found: list[tuple[int, int]] = []
        start: int | None = None
        for place, token in enumerate(prompt):
            if token == self.end_token and start is not None:
                found.append((start, place + 1))
                start = None
            elif token == self._start_token:
                speaks = tuple(prompt[place + 1 : place + 2]) == (self._assistant_token,)
                start = place + _HEADER_TOKENS if speaks else None
        return found

    def _step(self, trait: str, prefix: str, example: Example) -> int:
        return self.guide.step(trait, prefix, feedback=example.asks_feedback).index

    def _encode_prompt(self, example: Example) -> list[int]:
        return list(self.tokenizer.encode(self.prompt_text(example), add_special_tokens=False))

    def prompt_text(self, example: Example) -> str:
        """Prompt in the checkpoint's own chat format, one placeholder a page.

        Where a template can be told not to have the model think first, it is: nobody learns to.
        """
        return str(
            self.tokenizer.apply_chat_template(
                self.turns(example),
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )

    def turns(self, example: Example) -> list[dict[str, Any]]:
        """The messages as chat templates take them, ``{"type": "image"}`` for each page.

        Templates of models that read text alone take no parts, but a text.
        """
        if self.image_processor is None:
            return [
                {"role": message.role, "content": self._join(message, example)}
                for message in example.messages
            ]
        return [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": self._defuse(part, example)}
                    if isinstance(part, str)
                    else {"type": "image"}
                    for part in message.parts
                ],
            }
            for message in example.messages
        ]

    def _join(self, message: Message, example: Example) -> str:
        texts = [part for part in message.parts if isinstance(part, str)]
        assert len(texts) == len(message.parts), "pages are refused before"
        return "".join(self._defuse(text, example) for text in texts)

    def _defuse(self, text: str, example: Example) -> str:
        """Special tokens written out in an essay must not act as such: a space breaks them.

        In instruction data those that mark turns and images are broken; others, such as those
        around a thought or a call of a tool, are what the model is to learn.
        """
        for token in STRUCTURAL_TOKENS if example.kind == "text" else self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _expand(self, ids: list[int], grids: Sequence[tuple[int, int]]) -> list[int]:
        counts = iter(h * w // 4 for h, w in grids)
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * next(counts) if token == self.image_token else [token]
        assert next(counts, None) is None, "the chat template left a page out"
        return expanded

    def patches(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Pixel patches of pages.

        Returns:
            Patches, float32 ``[patches, 3 * 2 * 16 * 16]`` in ``[-1, 1]``, and the pages' grids
            in patches, int64 ``[pages, 3]`` as (1, height, width).

        Raises:
            ValueError: If the image processor would resize a page.
        """
        for image in images:
            refuse_resize(image, self.image_processor.size)
        patches = [cut_patches(image) for image in images]
        grids = [(1, image.height // 16, image.width // 16) for image in images]
        # A page's patches are 14 MB: a lone page's are not copied.
        joined = patches[0] if len(patches) == 1 else np.concatenate(patches)
        return joined, np.array(grids, dtype=np.int64)
