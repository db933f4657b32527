"""Finds what is written on within an image; all around it is blank margin.

Looks from each edge inwards, strip by strip, and no further than to the first ink. Opens no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from PIL import Image, ImageChops, ImageFilter

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in px, the last two exclusive."""

INK_CONTRAST = 24
"""Grey levels from the blurred surroundings at which a pixel counts as written on."""

_IS_INK = [255 * (contrast >= INK_CONTRAST) for contrast in range(256)]
_STRIPS = 20
"""Along the longer side. Thinner ones would blur more of their neighbours again."""


def find_written(image: Image.Image) -> Box:
    """All but the blank margins: to a two-hundredth of the longer side around what is written.

    Ink is what differs from its surroundings, so uneven light is blank and a desk's grain is not:
    in doubt nothing is cut.
    """
    width, height = image.size
    depth = max(image.size) // _STRIPS + 1
    find_ink = partial(_find_ink, image.convert("L"), radius=max(image.size) // 50 + 2)
    rows = [(0, y, width, min(y + depth, height)) for y in range(0, height, depth)]
    first = _first(map(find_ink, rows))
    if first is None:
        return 0, 0, width, height
    last = _first(map(find_ink, reversed(rows)))
    assert last is not None
    top, bottom = first[1], last[3]
    columns = [(x, top, min(x + depth, width), bottom) for x in range(0, width, depth)]
    leftmost = _first(map(find_ink, columns))
    rightmost = _first(map(find_ink, reversed(columns)))
    assert leftmost is not None
    assert rightmost is not None
    pad = max(image.size) // 200 + 2
    return (
        max(0, leftmost[0] - pad),
        max(0, top - pad),
        min(width, rightmost[2] + pad),
        min(height, bottom + pad),
    )


def _first(found: Iterable[Box | None]) -> Box | None:
    return next((box for box in found if box), None)


def _find_ink(grey: Image.Image, box: Box, *, radius: int) -> Box | None:
    """Bounds of the ink within ``box``, the same as if the whole image were looked at.

    Args:
        radius: Of the surroundings in px.
    """
    left, top, right, bottom = box
    reach = radius + 1  # as far as pixels of the box depend on others
    x, y = max(0, left - reach), max(0, top - reach)
    around = (x, y, min(grey.width, right + reach), min(grey.height, bottom + reach))
    smooth = grey.crop(around).filter(ImageFilter.BoxBlur(1))
    contrast = ImageChops.difference(smooth, smooth.filter(ImageFilter.BoxBlur(radius)))
    own = contrast.crop((left - x, top - y, right - x, bottom - y))
    ink = own.point(_IS_INK).getbbox()
    if ink is None:
        return None
    return ink[0] + left, ink[1] + top, ink[2] + left, ink[3] + top
