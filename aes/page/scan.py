"""Turns a clean page into what a scanner makes of it: turned, blurred, unevenly lit, noisy.

Works on grey levels; knows nothing of text. The same seed gives the same pixels.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

INK_LEVEL = 40
PAPER_LEVEL = 244
"""Scanned ink is never quite black, scanned paper never quite white."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=False))
class ScanNoise:
    """What a scanner does to a page.

    Attributes:
        rotation_deg: Largest turn to either side.
        blur_px: Standard deviation of the Gaussian blur.
        noise_sd: Standard deviation of each pixel's noise, in grey levels of 0-255.
        uneven_light: Share of its light that the darkest corner loses.
    """

    rotation_deg: Annotated[float, Field(ge=0, le=5)]
    blur_px: Annotated[float, Field(ge=0, le=5)]
    noise_sd: Annotated[float, Field(ge=0, le=64)]
    uneven_light: Annotated[float, Field(ge=0, le=0.5)]


def bleed_px(noise: ScanNoise, width_px: int, height_px: int) -> tuple[int, int]:
    """How far rotation and blur can move ink, (horizontally, vertically)."""
    angle = math.radians(noise.rotation_deg)
    sine, shrink = math.sin(angle), 1 - math.cos(angle)
    blur = 2 * noise.blur_px
    return (
        math.ceil(sine * height_px / 2 + shrink * width_px / 2 + blur),
        math.ceil(sine * width_px / 2 + shrink * height_px / 2 + blur),
    )


def scan_page(coverage: NDArray[np.uint8], noise: ScanNoise, *, seed: int) -> NDArray[np.uint8]:
    """Scan a page.

    Args:
        coverage: Ink at each pixel, 0 (paper) to 255 (ink), shape ``[height, width]``.
        noise: How much of everything.
        seed: At least 0.

    Returns:
        Grey levels, 0 (black) to 255 (white), of the same shape.
    """
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-noise.rotation_deg, noise.rotation_deg)
    ink = Image.fromarray(coverage).rotate(angle, Image.Resampling.BICUBIC)
    ink = ink.filter(ImageFilter.GaussianBlur(noise.blur_px))
    share = np.asarray(ink, dtype=np.float32) / 255
    grey = PAPER_LEVEL + share * (INK_LEVEL - PAPER_LEVEL)
    grey *= 1 - noise.uneven_light * _shade(grey.shape, direction=rng.uniform(0, 2 * math.pi))
    grey += noise.noise_sd * rng.standard_normal(grey.shape, dtype=np.float32)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _shade(shape: tuple[int, ...], *, direction: float) -> NDArray[np.float32]:
    """A ramp from 0 at the lit side to 1 at the dark one, running in ``direction`` (radians)."""
    ys = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    xs = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    ramp = math.cos(direction) * xs + math.sin(direction) * ys
    reach = abs(math.cos(direction)) + abs(math.sin(direction))
    return np.asarray((ramp / reach + 1) / 2, dtype=np.float32)
