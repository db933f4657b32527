"""Turns an essay into pages and pages into images, as one spec says.

The one door to this package: the plan asks for layouts and sizes, the data set for images. Knows
nothing of what the images are used for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aes.page.draw import draw_coverage
from aes.page.font import Face, font_path, has_ink, is_invisible, mapped_code_points, open_face
from aes.page.layout import Row, Sheet, stack
from aes.page.photo import open_page, recall_size
from aes.page.plain import TITLE_SCALE, plain_rows
from aes.page.scan import scan_page
from aes.page.spec import PageSpec
from aes.page.squared import Grid
from aes.records import Page, PageLayout, Picture

PNG_COMPRESS_LEVEL = 1
"""Pages are mostly blank: level 1 is several times faster than the default and little larger."""


class PageRenderer:
    """Lays out, draws and opens pages.

    Holds nothing but its spec, so that workers get it cheaply; fonts are opened when first used,
    once a process.
    """

    def __init__(self, spec: PageSpec) -> None:
        self.spec = spec

    def missing_characters(self, text: str) -> list[str]:
        """The characters that the font lacks, sorted; white space is never among them.

        Raises:
            ValueError: If the font cannot be read.
        """
        if self.spec.style == "none":
            return []
        face, points = self._face(), mapped_code_points(self._font)
        missing = [char for char in set(text) - face.passed if not _passes(char, face, points)]
        face.passed.update(set(text).difference(missing))
        return sorted(missing)

    def layout(self, title: str, text: str, *, seed: int = 0) -> tuple[PageLayout, ...]:
        """Set an essay on as many pages as it needs.

        White space at a paragraph's start is kept as written, blank lines are left out.

        Args:
            title: Centred on the first page; may be empty.
            text: Paragraphs separated by line ends.
            seed: Of the noise of scanned pages, at least 0.

        Raises:
            ValueError: If the font lacks a character, if there is nothing to set, or if the style
                is ``none``.
        """
        assert seed >= 0, "random generators take no negative seed"
        self._check_typed(title, text)
        width_px, max_height_px = self.spec.sides_px
        inset_x_px, inset_y_px = self.spec.insets_px
        sheet = Sheet(
            width_px=width_px,
            max_height_px=max_height_px,
            min_pixels=self.spec.areas_px[0],
            inset_x_px=inset_x_px,
            inset_y_px=inset_y_px,
        )
        rows, columns = self._rows(title, text, sheet)
        return stack(rows, sheet, columns=columns, seed=seed)

    def draw(self, page: PageLayout) -> Image.Image:
        """The page as an RGB image of its planned size; a layout always gives the same pixels."""
        return self._draw_grey(page).convert("RGB")

    def open(self, source: Picture) -> Image.Image:
        """What came as image or PDF: upright, scaled to page size; of a sheet without margins.

        Returns:
            An RGB image; both sides are multiples of 32, the area lies between ``min_pixels`` and
            ``width_px * max_height_px``.

        Raises:
            ValueError: If the file is broken, too large, encrypted, or holds several images.
        """
        return open_page(source, **self._fitting)

    def image(self, page: Page) -> Image.Image:
        """The RGB image that the model will see: a layout is drawn, anything else opened.

        Raises:
            ValueError: As ``open``.
        """
        return self.draw(page) if isinstance(page, PageLayout) else self.open(page)

    def size(self, page: Page) -> tuple[int, int]:
        """Width and height of the image that the model will see, in px.

        A file is decoded for this, since its blank margins count, unless it was opened before.

        Raises:
            ValueError: As ``open``.
        """
        if isinstance(page, PageLayout):
            return page.width_px, page.height_px
        known = recall_size(page, **self._fitting)
        return self.open(page).size if known is None else known

    def save(self, page: Page, directory: Path, name: str) -> Path:
        """Keep a page as ``<directory>/<name>.png``; a crash leaves the old file or the new one.

        Returns:
            The file.
        """
        image = self._draw_grey(page) if isinstance(page, PageLayout) else self.open(page)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name}.png"
        part = directory / f".{name}.{os.getpid()}.part"
        image.save(part, format="PNG", compress_level=PNG_COMPRESS_LEVEL)
        part.replace(path)
        return path

    @property
    def _fitting(self) -> dict[str, Any]:
        if self.spec.reads_text_alone:
            raise ValueError("this model reads text alone and no images: hand in typed text.")
        least, most = self.spec.areas_px
        return {"min_pixels": least, "max_pixels": most, "kind": self.spec.image_kind}

    @property
    def _font(self) -> Path:
        assert self.spec.font is not None
        return font_path(self.spec.font)

    def _face(self, scale: float = 1.0) -> Face:
        assert self.spec.glyph_px is not None
        return open_face(self._font, round(scale * self.spec.glyph_px))

    def _rows(self, title: str, text: str, sheet: Sheet) -> tuple[list[Row], list[tuple[int, int]]]:
        """The rows of the text and the squares of a row."""
        spacing, indent = self.spec.line_spacing, self.spec.indent_chars
        assert spacing is not None
        assert indent is not None
        if self.spec.style == "squared_paper":
            grid = Grid(self._face(), sheet)
            return list(grid.rows(title, text, spacing=spacing, indent=indent)), grid.columns
        faces = (self._face(TITLE_SCALE), self._face())
        rows = plain_rows(title, text, faces=faces, sheet=sheet, spacing=spacing, indent=indent)
        return list(rows), []

    def _draw_grey(self, page: PageLayout) -> Image.Image:
        coverage = draw_coverage(page, self._font)
        if self.spec.scan is not None:
            return Image.fromarray(scan_page(coverage, self.spec.scan, seed=page.seed))
        return Image.fromarray(np.invert(coverage))

    def _check_typed(self, title: str, text: str) -> None:
        if self.spec.style == "none":
            raise ValueError(
                "page.style none gives typed text no pages: choose page=plain, or pass it as text."
            )
        missing = self.missing_characters(title + text)
        if missing:
            names = ", ".join(_name(char) for char in missing)
            raise ValueError(
                f"page.font {self.spec.font} has no glyph for {names}: mend the text or choose a "
                "font that has it."
            )
        if all(char.isspace() or is_invisible(char) for char in title + text):
            raise ValueError("title and text are both empty: there is nothing to set on a page.")


def _passes(char: str, face: Face, code_points: frozenset[int]) -> bool:
    return char.isspace() or is_invisible(char) or has_ink(char, face, code_points)


def _name(char: str) -> str:
    code_point = f"U+{ord(char):04X}"
    return f"{char} ({code_point})" if char.isprintable() else code_point
