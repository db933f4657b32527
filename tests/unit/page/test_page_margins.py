"""Margins found strip by strip are those that the whole image would give."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from aes.page.margins import INK_CONTRAST, Box, find_written


def find_in_whole(image: Image.Image) -> Box:
    """By definition: every pixel against its surroundings."""
    grey = image.convert("L").filter(ImageFilter.BoxBlur(1))
    around = grey.filter(ImageFilter.BoxBlur(max(image.size) // 50 + 2))
    contrast = np.abs(np.asarray(grey, np.int16) - np.asarray(around, np.int16))
    rows, columns = np.nonzero(contrast >= INK_CONTRAST)
    if not rows.size:
        return 0, 0, *image.size
    pad = max(image.size) // 200 + 2
    left, top = max(0, columns.min() - pad), max(0, rows.min() - pad)
    right = min(image.width, columns.max() + pad + 1)
    bottom = min(image.height, rows.max() + pad + 1)
    return int(left), int(top), int(right), int(bottom)


def draw(generator: np.random.Generator, *, longest_px: int) -> Image.Image:
    """Paper under a light from the side, with up to four strokes of any grey, or only grain."""
    height, width = generator.integers(1, longest_px, 2)
    levels = np.full((height, width), 190.0) + np.linspace(0, generator.integers(50), width)
    for _ in range(generator.integers(5)):
        y, x, tall, wide = generator.integers((height, width, 9, 40))
        levels[y : y + tall + 1, x : x + wide + 1] = generator.integers(256)
    if generator.random() < 0.1:
        levels = generator.integers(0, 256, levels.shape)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("longest_px", [24, 300, 1100])
def test_strips_find_what_the_whole_has(longest_px: int) -> None:
    generator = np.random.default_rng(longest_px)
    images = [draw(generator, longest_px=longest_px) for _ in range(30)]
    found = [find_written(image) for image in images]
    assert found == [find_in_whole(image) for image in images]
    num_trimmed = sum(box != (0, 0, *image.size) for box, image in zip(found, images, strict=True))
    assert num_trimmed > 5, "hardly an image had a margin"
