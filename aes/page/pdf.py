"""Turns a page of a PDF file into an image, finely enough for ``aes.page.photo`` to scale it down.

Draws what a reader would see on paper, filled-in form fields and notes included. Reads no text
and takes no password. PDFium serves one thread at a time, so a lock stands before it.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.records import PdfPage

if TYPE_CHECKING:
    from PIL import Image

RENDER_DPI = 200
"""An A4 sheet becomes 1654 x 2339 px, over six times the area that the model sees of a page."""

MAX_RENDER_PIXELS = 16_000_000
"""An A2 sheet at ``RENDER_DPI``; larger ones are drawn more coarsely."""

MAX_RENDER_SIDE_PX = 20_000
"""Of a strip, whose area says little."""

_POINTS_PER_INCH = 72
_PASSWORD_ERROR = 4
"""FPDF_ERR_PASSWORD. Source: PDFium, public/fpdfview.h."""

_PDFIUM = threading.Lock()
# A process forked in the middle of another thread's call would find PDFium, and the lock, in it.
os.register_at_fork(
    before=_PDFIUM.acquire, after_in_parent=_PDFIUM.release, after_in_child=_PDFIUM.release
)


def num_pages(path: Path) -> int:
    """How many pages a PDF has, at least 1.

    Raises:
        ValueError: If the file is missing, broken, encrypted or without pages.
    """
    with _open(path) as pdf:
        return len(pdf)


def render_pdf_page(page: PdfPage) -> Image.Image:
    """Draw a page on white.

    Returns:
        An RGB image at ``RENDER_DPI``, or coarser where that would be too large.

    Raises:
        ValueError: If the file is missing, broken or encrypted, or has no such page.
    """
    import pypdfium2

    with _open(page.path) as pdf:
        if not 1 <= page.number <= len(pdf):
            raise ValueError(
                f"{page.path} has no page {page.number}, only {len(pdf)}: correct the number."
            )
        try:
            return _draw(pdf[page.number - 1])
        except pypdfium2.PdfiumError as error:
            raise ValueError(f"{name_page(page)} is broken: save the file anew.") from error


def _draw(sheet: Any) -> Image.Image:
    width_pt, height_pt = (max(side, 1) for side in sheet.get_size())
    scale = min(
        RENDER_DPI / _POINTS_PER_INCH,
        math.sqrt(MAX_RENDER_PIXELS / (width_pt * height_pt)),
        MAX_RENDER_SIDE_PX / max(width_pt, height_pt),
    )
    # A copy: the bitmap's memory goes with the document.
    image: Image.Image = sheet.render(scale=scale).to_pil().convert("RGB").copy()
    return image


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The opened document, for one user at a time."""
    import pypdfium2

    if not path.is_file():
        raise ValueError(f"{path} is no file that exists: correct the path.")
    with _PDFIUM:
        try:
            pdf = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError as error:
            raise ValueError(_why_closed(path, error.err_code)) from error
        try:
            pdf.init_forms()
            if len(pdf) == 0:
                raise ValueError(f"{path} has no pages: save it anew.")
            yield pdf
        finally:
            pdf.close()


def _why_closed(path: Path, code: int | None) -> str:
    if code == _PASSWORD_ERROR:
        return f"{path} is encrypted: save it without a password."
    return f"{path} cannot be read as a PDF; it may be cut short: save it anew."


def name_page(page: Path | PdfPage) -> str:
    """How a message names a page."""
    return f"page {page.number} of {page.path}" if isinstance(page, PdfPage) else str(page)
