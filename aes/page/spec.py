"""The schema of the config group ``page``: how a page looks and how large it may be.

Refuses what contradicts itself or would do nothing. Opens no font and draws nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from aes.page.scan import ScanNoise, bleed_px

Style = Literal["plain", "squared_paper", "scan", "none"]
ImageKind = Literal["sheet", "picture"]

SIDE_STEP_PX = 32
"""One visual token of Qwen3-VL covers 32 x 32 px (patch 16, merged 2 x 2)."""

BUILT_IN_FONTS = ("sans", "serif")
FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
NUM_GLYPHS_MIN = 4
"""Fewest full-width characters that a line and a column of a page must have room for."""

_DRAWN: tuple[Style, ...] = ("plain", "squared_paper", "scan")
_TYPED_TEXT_KEYS = ("font", "glyph_px", "line_spacing", "margin_px", "indent_chars")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=False))
class PageSpec:
    """What a page looks like.

    ``min_pixels`` is the model's; None where it reads text alone, and sizes are without effect.

    Attributes:
        style: ``plain`` and ``squared_paper`` are drawn clean, ``scan`` is a plain page as a
            scanner would see it, ``none`` hands typed text to the model as text.
        font: ``sans``, ``serif``, or a TrueType or OpenType file; None with style ``none``.
        glyph_px: Side of a full-width character; None with style ``none``.
        width_px: Width of a page of text.
        max_height_px: A text that needs more goes on to the next page. For image files,
            ``width_px * max_height_px`` is the largest area.
        min_pixels: Smallest area of any page; below it the image processor would resize.
        line_spacing: Distance of two lines over ``glyph_px``; None with style ``none``.
        margin_px: Blank paper around the text; None with style ``none``.
        indent_chars: Full-width spaces before a paragraph that was written without any; None
            with style ``none``.
        image_kind: What image files are. A ``sheet`` is a photo or scan of paper: blank margins
            are cut, and what is missing to whole tokens is paper. A ``picture`` is taken whole, and
            stretched by less than half a token.
        save_dir: Where drawn pages are kept for looking at; None keeps none.
        scan: What a scanner does to the page; None unless the style is ``scan``.
    """

    style: Style
    font: str | None
    glyph_px: Annotated[int, Field(ge=8, le=200)] | None
    width_px: Annotated[int, Field(ge=SIDE_STEP_PX, multiple_of=SIDE_STEP_PX)] | None
    max_height_px: Annotated[int, Field(ge=SIDE_STEP_PX, multiple_of=SIDE_STEP_PX)] | None
    min_pixels: Annotated[int, Field(ge=1)] | None
    line_spacing: Annotated[float, Field(ge=1, le=4)] | None
    margin_px: Annotated[int, Field(ge=0)] | None
    indent_chars: Annotated[int, Field(ge=0, le=16)] | None
    image_kind: ImageKind
    save_dir: Path | None
    scan: ScanNoise | None

    @model_validator(mode="after")
    def _check(self) -> PageSpec:
        self._check_sizes()
        self._check_keys_of_style()
        if self.style != "none":
            self._check_font()
            self._check_room()
        return self

    def _check_sizes(self) -> None:
        if self.reads_text_alone:
            if self.style in _DRAWN:
                raise ValueError(
                    f"page.style {self.style} draws pages, but this model reads text alone: choose "
                    "page=none, or a model that reads pages."
                )
            return
        for key in ("width_px", "max_height_px"):
            if getattr(self, key) is None:
                raise ValueError(f"page.{key} is missing: give it a value.")
        least, most = self.areas_px
        # Twice, so that a small page padded to the minimum never passes the maximum.
        if most < 2 * least:
            raise ValueError(
                f"page.width_px x page.max_height_px is {most} px, but must be at least twice "
                f"page.min_pixels ({least}): enlarge the page."
            )

    def _check_keys_of_style(self) -> None:
        for key in _TYPED_TEXT_KEYS:
            if (getattr(self, key) is None) != (self.style == "none"):
                state = "has no effect" if self.style == "none" else "is missing"
                cure = "set it to null" if self.style == "none" else "give it a value"
                raise ValueError(f"page.{key} {state} with page.style {self.style}: {cure}.")
        if (self.scan is not None) != (self.style == "scan"):
            state = "is missing" if self.style == "scan" else "has no effect"
            cure = "give its settings" if self.style == "scan" else "set it to null"
            raise ValueError(f"page.scan {state} with page.style {self.style}: {cure}.")

    def _check_font(self) -> None:
        assert self.font is not None
        if self.font in BUILT_IN_FONTS:
            return
        path = Path(self.font)
        if path.suffix.lower() not in FONT_SUFFIXES or not path.is_file():
            raise ValueError(
                f"page.font {self.font!r} is neither sans, serif nor a .ttf, .otf or .ttc file "
                "that exists: correct the path."
            )

    def _check_room(self) -> None:
        assert self.glyph_px is not None
        room_px = NUM_GLYPHS_MIN * self.glyph_px
        (width_px, height_px), (inset_x_px, inset_y_px) = self.sides_px, self.insets_px
        for key, side_px, inset_px in (
            ("width_px", width_px, inset_x_px),
            ("max_height_px", height_px, inset_y_px),
        ):
            if side_px - 2 * inset_px < room_px:
                raise ValueError(
                    f"page.{key} {side_px} leaves no room for {NUM_GLYPHS_MIN} characters of "
                    f"{self.glyph_px} px between margins of {inset_px} px: enlarge it."
                )

    @property
    def reads_text_alone(self) -> bool:
        """Whether the model takes no pages, neither drawn ones nor images."""
        return self.min_pixels is None

    @property
    def sides_px(self) -> tuple[int, int]:
        """Width and greatest height of a page of text; not of a model that reads text alone."""
        assert self.width_px is not None
        assert self.max_height_px is not None
        return self.width_px, self.max_height_px

    @property
    def areas_px(self) -> tuple[int, int]:
        """Least and greatest area of a page; not of a model that reads text alone."""
        assert self.min_pixels is not None
        width_px, max_height_px = self.sides_px
        return self.min_pixels, width_px * max_height_px

    @property
    def insets_px(self) -> tuple[int, int]:
        """Blank paper (left and right, top and bottom): the margin and what rotation sweeps."""
        assert self.margin_px is not None
        if self.scan is None:
            return self.margin_px, self.margin_px
        bleed_x_px, bleed_y_px = bleed_px(self.scan, *self.sides_px)
        return self.margin_px + bleed_x_px, self.margin_px + bleed_y_px
