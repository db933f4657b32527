"""Turns an image file (photo, scan) or a PDF page into a page: upright, trimmed, not too large.

A sheet of paper is never stretched and never enlarged; what is missing to a multiple of 32 px is
paper. A picture has no margins to cut or to add: its sides are rounded as the checkpoint's own
processor would round them. Does not read the text and straightens nothing but what EXIF says.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from aes.page.layout import round_up
from aes.page.margins import Box, find_written
from aes.page.pdf import render_pdf_page
from aes.page.spec import SIDE_STEP_PX, ImageKind
from aes.page.table import image_bytes, name_picture
from aes.records import PdfPage, Picture, TableImage

MAX_FILE_PIXELS = 80_000_000
"""Larger images are refused before they are decoded: a 300 dpi A2 sheet has 35 million."""

MAX_ASPECT_RATIO = 100
"""The image processor of Qwen3-VL refuses ratios over 200."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
"""By content, whatever the name says. Pillow knows more, among them EPS, which it would run."""

_UNREADABLE = (OSError, SyntaxError, EOFError, ValueError, TypeError, OverflowError, struct.error)

_MOST_REMEMBERED = 1 << 16

_crops: dict[tuple[object, ...], Box] = {}
"""What was written on of each file that this process opened, in px of the upright image."""


def open_page(source: Picture, *, min_pixels: int, max_pixels: int, kind: ImageKind) -> Image.Image:
    """Open an image file or a page of a PDF as a page.

    Where its margins end is looked for once a file and process.

    Args:
        source: An image in one of ``FORMATS``, or a page of a PDF.
        min_pixels: Smallest area of the page.
        max_pixels: Largest area of the page, at least twice ``min_pixels``.
        kind: Whether margins are cut and paper is added, or the whole image scaled.

    Returns:
        An RGB image with sides divisible by 32.

    Raises:
        ValueError: If the file is broken, too large, or holds several images.
    """
    key = _identify(source, kind)
    image = render_pdf_page(source) if isinstance(source, PdfPage) else _read(source)
    box = _crops.get(key) if key else None
    if box is None:
        box = find_written(image) if kind == "sheet" else (0, 0, *image.size)
    image = image.crop(box)
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        size = f"{image.width} x {image.height} px"
        raise ValueError(
            f"{name_picture(source)} is a strip of {size}, which is no page: crop it anew."
        )
    if key and len(_crops) < _MOST_REMEMBERED:
        _crops[key] = box
    if kind == "picture":
        sides = picture_size(image.size, min_pixels=min_pixels, max_pixels=max_pixels)
        return image.resize(sides, Image.Resampling.BICUBIC)
    return _fit(image, min_pixels=min_pixels, max_pixels=max_pixels)


def recall_size(
    source: Picture, *, min_pixels: int, max_pixels: int, kind: ImageKind
) -> tuple[int, int] | None:
    """Size of the page that ``open_page`` gives, if this process opened the file as it is now."""
    key = _identify(source, kind)
    box = _crops.get(key) if key else None
    if box is None:
        return None
    left, top, right, bottom = box
    whole = right - left, bottom - top
    if kind == "picture":
        return picture_size(whole, min_pixels=min_pixels, max_pixels=max_pixels)
    scaled = _scale_size(whole, max_pixels)
    return _round_up_size(scaled, min_pixels)


def _identify(source: Picture, kind: ImageKind) -> tuple[object, ...] | None:
    """Differs once the file was written anew; None if there is no such file."""
    try:
        status = (source if isinstance(source, Path) else source.path).stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    return source, status.st_size, status.st_mtime_ns, kind


def _read(source: Path | TableImage) -> Image.Image:
    """The image, upright and in RGB."""
    Image.init()  # without this, Pillow takes no format by name that it has not met before
    name = name_picture(source)
    encoded = source if isinstance(source, Path) else BytesIO(image_bytes(source))
    with _naming(name):
        file = Image.open(encoded, formats=FORMATS)
    with file:
        _check_header(file, name)
        with _naming(name):
            file.load()
            ImageOps.exif_transpose(file, in_place=True)
            return _to_rgb(file)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Names the image in whatever Pillow raises; its formats fail each in their own way."""
    try:
        with warnings.catch_warnings():
            # Odd tags are no concern here, and sizes that Pillow warns of are refused.
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(name)) from error
    except FileNotFoundError as error:
        raise ValueError(f"{name} does not exist: correct the path.") from error
    except _UNREADABLE as error:
        raise ValueError(
            f"{name} cannot be read as an image; it may be cut short or of another format: save "
            "it anew as PNG or JPEG."
        ) from error


def _check_header(file: Image.Image, name: str) -> None:
    """Refuses before anything is decoded."""
    if file.width * file.height > MAX_FILE_PIXELS:
        raise ValueError(_too_large(name))
    with _naming(name):
        num_frames = getattr(file, "n_frames", 1)
    # A phone's .mpo holds previews besides the photo; the pages of a .tif are all meant.
    if num_frames > 1 and file.format != "MPO":
        raise ValueError(f"{name} holds {num_frames} images: save each page as a file of its own.")


def _too_large(name: str) -> str:
    return f"{name} has over {MAX_FILE_PIXELS // 10**6} million pixels: scale it down."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: a plain conversion would clip at 255 instead of scaling.
        levels = np.clip(np.asarray(image, dtype=np.float32) / 257, 0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def picture_size(size: tuple[int, int], *, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Sides that a picture is scaled to: multiples of 32 px near its proportions.

    Args:
        size: Its own, in px.

    Source: ``smart_resize`` of transformers' Qwen2-VL image processor, which leaves the result as
        it is.
    """
    rounded = [round(side / SIDE_STEP_PX) * SIDE_STEP_PX for side in size]
    area, pixels = size[0] * size[1], rounded[0] * rounded[1]
    if pixels > max_pixels:
        shrink = math.sqrt(area / max_pixels)
        rounded = [math.floor(side / shrink / SIDE_STEP_PX) * SIDE_STEP_PX for side in size]
    elif pixels < min_pixels:
        grow = math.sqrt(min_pixels / area)
        rounded = [math.ceil(side * grow / SIDE_STEP_PX) * SIDE_STEP_PX for side in size]
    width_px, height_px = (max(side, SIDE_STEP_PX) for side in rounded)
    return width_px, height_px


def _fit(image: Image.Image, *, min_pixels: int, max_pixels: int) -> Image.Image:
    """Scales down to the largest size that fits, pads with paper to whole tokens."""
    size = _scale_size(image.size, max_pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    width_px, height_px = _round_up_size(size, min_pixels)
    page = Image.new("RGB", (width_px, height_px), _paper_colour(image))
    page.paste(image, ((width_px - image.width) // 2, (height_px - image.height) // 2))
    return page


def _scale_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The largest size of the same proportions that fits, never larger."""
    scale = _scale(size, max_pixels)
    if scale >= 1:
        return size
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _round_up_size(size: tuple[int, int], min_pixels: int) -> tuple[int, int]:
    """Whole tokens, by blank paper below where the area would be too small."""
    width_px, height_px = map(round_up, size)
    if width_px * height_px < min_pixels:
        height_px = round_up(-(-min_pixels // width_px))
    return width_px, height_px


def _scale(size: tuple[int, int], max_pixels: int) -> float:
    """The largest scale, at most 1, at which the sides rounded up stay within the area."""
    width, height = size
    if round_up(width) * round_up(height) <= max_pixels:
        return 1.0
    best = 0.0
    for width_px in range(SIDE_STEP_PX, max_pixels // SIDE_STEP_PX + 1, SIDE_STEP_PX):
        height_px = max_pixels // width_px // SIDE_STEP_PX * SIDE_STEP_PX
        best = max(best, min(width_px / width, height_px / height, 1.0))
    return best


def _paper_colour(image: Image.Image) -> tuple[int, int, int]:
    """The median colour: most of a page is paper."""
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).reshape(-1, 3)
    red, green, blue = (int(value) for value in np.median(pixels, axis=0))
    return red, green, blue
