"""How fast pages are drawn: ours against the straightforward way, in one run, on one core.

    python benchmarks/render.py [--out benchmarks/results/render.json] [--repeats 5]

The straightforward way, written here for comparison, wraps by measuring the line so far plus each
next character with ``ImageDraw.textbbox``, draws each line with ``ImageDraw.text`` on an RGB image
and saves with Pillow's default PNG settings. Both draw the same essays with the same font, size,
width and line pitch; both wrap and draw within the time. The figures are the median over the
repeats, which take the ways in turn, of the mean CPU time a page (every way uses one thread).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import PIL
import yaml
from PIL import Image, ImageDraw, ImageFont, features

import aes
from aes.page import PageRenderer, PageSpec
from aes.page.font import font_path
from aes.page.plain import TITLE_SCALE

NUM_CHARS = 800
SPEC = PageSpec(
    style="plain",
    font="sans",
    glyph_px=20,
    width_px=768,
    max_height_px=1088,
    min_pixels=65_536,
    line_spacing=1.1,
    margin_px=4,
    indent_chars=2,
    image_kind="sheet",
    save_dir=None,
    scan=None,
)
Essay = tuple[str, str]


def read_essays() -> list[Essay]:
    """Title and first 800 characters of each sample essay that is as long; repeated if shorter."""
    essays = []
    for path in sorted(Path(aes.__file__).parent.glob("corpus/sample/s*.yaml")):
        essay = yaml.safe_load(path.read_text(encoding="utf-8"))
        text = essay["text"].strip() + "\n"
        while len(text) < NUM_CHARS:
            text += text
        essays.append((essay["title"], text[:NUM_CHARS]))
    return essays


class StraightforwardRenderer:
    """Wraps by measuring every prefix of every line, draws line by line."""

    def __init__(self) -> None:
        assert SPEC.glyph_px is not None
        path = font_path("sans")
        self.font = ImageFont.truetype(path, SPEC.glyph_px)
        self.title_font = ImageFont.truetype(path, round(TITLE_SCALE * SPEC.glyph_px))

    def draw(self, title: str, text: str) -> Image.Image:
        """The essay on one page that is as high as it needs."""
        assert SPEC.margin_px is not None
        ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        lines = [
            line
            for paragraph in text.split("\n")
            if paragraph
            for line in self._wrap(ruler, "\u3000\u3000" + paragraph)
        ]
        height_px = 2 * SPEC.margin_px + 24 + 22 * len(lines)
        image = Image.new("RGB", (SPEC.width_px, -(-height_px // 32) * 32), "white")
        pen = ImageDraw.Draw(image)
        left, _, right, _ = pen.textbbox((0, 0), title, font=self.title_font)
        pen.text(((SPEC.width_px - right + left) / 2, 0), title, "black", self.title_font)
        for i, line in enumerate(lines):
            pen.text((SPEC.margin_px, SPEC.margin_px + 24 + 22 * i), line, "black", self.font)
        return image

    def _wrap(self, ruler: ImageDraw.ImageDraw, paragraph: str) -> list[str]:
        assert SPEC.margin_px is not None
        lines, line = [], ""
        for char in paragraph:
            if ruler.textbbox((0, 0), line + char, font=self.font)[2] > (
                SPEC.width_px - 2 * SPEC.margin_px
            ):
                lines.append(line)
                line = ""
            line += char
        return [*lines, line]


def ms_per_page(draw: Callable[[Essay], int], essays: Sequence[Essay]) -> float:
    """Mean CPU time a page in ms; ``draw`` tells how many pages it drew."""
    start = time.process_time()
    num_pages = sum(draw(essay) for essay in essays)
    return (time.process_time() - start) / num_pages * 1e3


def measure(essays: Sequence[Essay], repeats: int) -> dict[str, float]:
    """Time a page in ms of each way; the first page of ours also pays for opening the font."""
    renderer = PageRenderer(SPEC)
    reference = StraightforwardRenderer()

    def draw_ours(essay: Essay) -> int:
        return len([renderer.draw(page) for page in renderer.layout(*essay)])

    def draw_reference(essay: Essay) -> int:
        reference.draw(*essay)
        return 1

    def save_reference(essay: Essay) -> int:
        reference.draw(*essay).save(io.BytesIO(), "PNG")
        return 1

    with tempfile.TemporaryDirectory() as directory:

        def save_ours(essay: Essay) -> int:
            pages = renderer.layout(*essay)
            return len([renderer.save(page, Path(directory), "page") for page in pages])

        ways = {
            "ours_drawn": draw_ours,
            "ours_png": save_ours,
            "reference_drawn": draw_reference,
            "reference_png": save_reference,
        }
        first = {
            "ours_first_page": ms_per_page(draw_ours, essays[:1]),
            "ours_first_pass": ms_per_page(draw_ours, essays),
        }
        # In turn, so that whatever else the machine does meets all ways alike.
        rounds = [
            {way: ms_per_page(draw, essays) for way, draw in ways.items()} for _ in range(repeats)
        ]
    return first | {way: statistics.median(times[way] for times in rounds) for way in ways}


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description="How fast pages are drawn.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/render.json"))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    essays = read_essays()
    ms = measure(essays, args.repeats)
    print(f"{len(essays)} essays of {NUM_CHARS} characters, 20 px, 768 px wide, one core")
    print(f"{'CPU ms':<12}{'reference':>12}{'ours':>12}{'times':>8}")
    for how in ("drawn", "png"):
        reference, ours = ms[f"reference_{how}"], ms[f"ours_{how}"]
        print(f"{how:<12}{reference:>12.1f}{ours:>12.1f}{reference / ours:>8.1f}")
    print(f"{'first page':<12}{'':>12}{ms['ours_first_page']:>12.1f}   (opens the font)")
    print(f"{'first pass':<12}{'':>12}{ms['ours_first_pass']:>12.1f}   (fills the glyph cache)")
    result = {
        "cpu_ms_per_page": {key: round(value, 2) for key, value in ms.items()},
        "num_essays": len(essays),
        "num_chars": NUM_CHARS,
        "repeats": args.repeats,
        "times_faster": {
            how: round(ms[f"reference_{how}"] / ms[f"ours_{how}"], 1) for how in ("drawn", "png")
        },
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"one of {os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "raqm": features.check("raqm"),
        "machine": platform.machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
