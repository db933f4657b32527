"""Turns typed text, image files and PDFs into page images of a size the model sees unresized.

Knows fonts, lines and pixels; knows no tokeniser, no prompt and no rubric.
"""

from aes.page.pdf import num_pages
from aes.page.renderer import PageRenderer
from aes.page.scan import ScanNoise
from aes.page.spec import PageSpec
from aes.page.table import image_bytes

__all__ = ["PageRenderer", "PageSpec", "ScanNoise", "image_bytes", "num_pages"]
