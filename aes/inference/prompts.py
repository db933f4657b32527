"""Examples to prompts: tokens at once, pixels when a batch of them is needed. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aes.data.processor import Encoded, Processor
from aes.page import PageRenderer
from aes.records import Example, PageLayout


@dataclass(frozen=True, eq=False)
class Prompt:
    """An Example without its answer, as tokens.

    Attributes:
        example: What is asked.
        encoded: Its tokens.
        pages: Those that came as files are open, since nobody knew their size before.
    """

    example: Example
    encoded: Encoded
    pages: tuple[PageLayout | Image.Image, ...]

    @property
    def num_tokens(self) -> int:
        """Length, pages included."""
        return len(self.encoded.input_ids)

    @property
    def num_open_pixels(self) -> int:
        """Of the pages that are open; three bytes of memory each."""
        opened = (page for page in self.pages if isinstance(page, Image.Image))
        return sum(page.width * page.height for page in opened)


def read_prompt(example: Example, *, processor: Processor, renderer: PageRenderer) -> Prompt:
    """Open and encode.

    Raises:
        ValueError: If a page cannot be opened.
    """
    pages = tuple(
        page if isinstance(page, PageLayout) else renderer.open(page) for page in example.pages
    )
    sizes = [
        (page.width_px, page.height_px) if isinstance(page, PageLayout) else page.size
        for page in pages
    ]
    encoded = processor.encode(replace(example, answer=()), sizes)
    return Prompt(example, encoded, pages)


def draw_prompts(
    prompts: Sequence[Prompt], *, processor: Processor, renderer: PageRenderer
) -> Tensor:
    """Pixel patches of all pages of all prompts, in order, float32 ``[patches, 1536]``."""
    drawn = [np.zeros((0, 1536), np.float32)]
    for prompt in prompts:
        images = [
            renderer.draw(page) if isinstance(page, PageLayout) else page for page in prompt.pages
        ]
        if images:
            drawn.append(processor.patches(images)[0])
    return torch.from_numpy(np.concatenate(drawn))
