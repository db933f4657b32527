"""Turns characters into glyphs: advance widths and ink masks, rasterised once a size and process.

Judges which characters a font lacks by its character map, not by the looks of a glyph. Knows
nothing of lines or pages.
"""

from __future__ import annotations

import struct
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pylopdf_fonts_zh_cn
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

IDEOGRAPHIC_ASCENT = 0.88
"""Baseline below the top of an ideograph's square, in em.

Source: OpenType 1.9, BASE table: the ideographic em-box reaches from -0.12 to 0.88 em.
"""

FULL_WIDTH_SPACES = "\u3000\u2003\u2001"

_UNICODE_MAPS = {(0, 3), (0, 4), (0, 6), (3, 1), (3, 10)}
"""(platform, encoding) of the character maps that are keyed by Unicode code points."""


@dataclass(frozen=True, slots=True)
class Glyph:
    """A rasterised character.

    Attributes:
        advance_px: How far the pen moves.
        left_px: Left edge of the ink, from the pen.
        top_px: Top edge of the ink, from the top of the line's em box.
        ink: Coverage 0-255, uint8, shape ``[height, width]``; ``[0, 0]`` for white space.
    """

    advance_px: int
    left_px: int
    top_px: int
    ink: NDArray[np.uint8]


class Face:
    """A font at one size; measures and rasterises each character once.

    Attributes:
        passed: Characters found to need no other font; grows as texts are looked through.
    """

    def __init__(self, path: Path, size_px: int) -> None:
        self.size_px = size_px
        # Basic layout: characters stand alone here, and it is the same wherever Pillow runs.
        try:
            self._font = ImageFont.truetype(path, size_px, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise ValueError(
                f"page.font {path} is not a font that FreeType can read ({error}): choose another."
            ) from error
        self._baseline_px = round(IDEOGRAPHIC_ASCENT * size_px)
        self._glyphs: dict[str, Glyph] = {}
        self.passed: set[str] = set()

    def glyph(self, char: str) -> Glyph:
        """The glyph of one character; that of a missing one is the font's box."""
        glyph = self._glyphs.get(char)
        if glyph is None:
            glyph = self._glyphs[char] = self._rasterise(char)
        return glyph

    def advance_px(self, text: str) -> int:
        """Width of a run of characters."""
        return sum(self.glyph(char).advance_px for char in text)

    def _rasterise(self, char: str) -> Glyph:
        if char.isspace():
            # A font may lack the rarer spaces; their width is known all the same.
            width_px = self._font.getlength(" ") if char not in FULL_WIDTH_SPACES else self.size_px
            return Glyph(round(width_px), 0, 0, np.zeros((0, 0), np.uint8))
        left, top, right, bottom = (int(v) for v in self._font.getbbox(char, anchor="ls"))
        image = Image.new("L", (right - left, bottom - top))
        if right > left and bottom > top:
            ImageDraw.Draw(image).text((-left, -top), char, 255, self._font, anchor="ls")
        advance_px = round(self._font.getlength(char))
        return Glyph(advance_px, left, self._baseline_px + top, np.asarray(image))


@lru_cache(maxsize=16)
def open_face(path: Path, size_px: int) -> Face:
    """A font at a size, opened once a process.

    Raises:
        ValueError: If the file is no font.
    """
    return Face(path, size_px)


def font_path(font: str) -> Path:
    """The file of a font: ``sans``, ``serif`` (Noto Sans SC, Noto Serif SC), or a path."""
    if font == "sans":
        return Path(pylopdf_fonts_zh_cn.sans_path())
    if font == "serif":
        return Path(pylopdf_fonts_zh_cn.serif_path())
    return Path(font)


@lru_cache(maxsize=1 << 16)
def is_invisible(char: str) -> bool:
    """Whether a character has no ink and no width by definition: joiners, marks of direction.

    White space is not meant: it has a width.
    """
    return unicodedata.category(char) == "Cf" or unicodedata.name(char, "").startswith(
        "VARIATION SELECTOR"
    )


def has_ink(char: str, face: Face, code_points: frozenset[int]) -> bool:
    """Whether the font maps a character to a glyph that shows something."""
    return ord(char) in code_points and bool(face.glyph(char).ink.any())


@lru_cache(maxsize=16)
def mapped_code_points(path: Path) -> frozenset[int]:
    """Code points for which a TrueType or OpenType file has a glyph (the first font of a .ttc).

    A glyph may look like the box of missing characters and be none (U+25A1, U+FFFD), so the
    character map is read itself.

    Raises:
        ValueError: If the file has no Unicode character map.

    Source: OpenType 1.9, cmap table, formats 4 and 12.
    """
    data = path.read_bytes()
    try:
        start = _cmap_offset(data)
        (num_maps,) = struct.unpack_from(">H", data, start + 2)
        maps = [struct.unpack_from(">HHI", data, start + 4 + 8 * i) for i in range(num_maps)]
        points: set[int] = set()
        for platform, encoding, offset in maps:
            if (platform, encoding) in _UNICODE_MAPS:
                points |= _read_map(data, start + offset)
    except struct.error as error:
        raise ValueError(f"page.font {path} is cut short: choose another font.") from error
    if not points:
        raise ValueError(f"page.font {path} has no Unicode character map: choose another font.")
    return frozenset(points)


def _cmap_offset(data: bytes) -> int:
    first = struct.unpack_from(">I", data, 12)[0] if data[:4] == b"ttcf" else 0
    (num_tables,) = struct.unpack_from(">H", data, first + 4)
    for i in range(num_tables):
        tag, _, offset, _ = struct.unpack_from(">4sIII", data, first + 12 + 16 * i)
        if tag == b"cmap":
            return int(offset)
    raise struct.error("no cmap table")


def _read_map(data: bytes, start: int) -> set[int]:
    (format_,) = struct.unpack_from(">H", data, start)
    if format_ == 12:
        return _read_format_12(data, start)
    return _read_format_4(data, start) if format_ == 4 else set()


def _read_format_12(data: bytes, start: int) -> set[int]:
    (num_groups,) = struct.unpack_from(">I", data, start + 12)
    points: set[int] = set()
    for i in range(num_groups):
        first, last, glyph = struct.unpack_from(">III", data, start + 16 + 12 * i)
        # Glyph 0 is the box of missing characters.
        points.update(range(first + (glyph == 0), last + 1))
    return points


def _read_format_4(data: bytes, start: int) -> set[int]:
    num_segments = struct.unpack_from(">H", data, start + 6)[0] // 2
    column = 2 * num_segments
    layout = f">{num_segments}H"
    lasts = struct.unpack_from(layout, data, start + 14)
    firsts = struct.unpack_from(layout, data, start + 16 + column)
    deltas = struct.unpack_from(layout, data, start + 16 + 2 * column)
    ranges_at = start + 16 + 3 * column
    ranges = struct.unpack_from(layout, data, ranges_at)
    points: set[int] = set()
    for i, (first, last, delta, offset) in enumerate(
        zip(firsts, lasts, deltas, ranges, strict=True)
    ):
        for point in range(first, min(last, 0xFFFE) + 1):
            if offset:
                at = ranges_at + 2 * i + offset + 2 * (point - first)
                (entry,) = struct.unpack_from(">H", data, at)
                glyph = (entry + delta) & 0xFFFF if entry else 0
            else:
                glyph = (point + delta) & 0xFFFF
            if glyph:
                points.add(point)
    return points
