"""Pages of PDFs, made here by hand and by Pillow, drawn by PDFium."""

import threading
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aes.page import num_pages
from aes.page.pdf import MAX_RENDER_PIXELS, MAX_RENDER_SIDE_PX, render_pdf_page
from aes.records import PdfPage


def write_pdf(path: Path, *, box: str = "0 0 595 842", content: str = "", num: int = 1) -> Path:
    """A PDF without cross references, which PDFium repairs."""
    kids = " ".join(f"{i + 10} 0 R" for i in range(num))
    pages = "".join(
        f"{i + 10} 0 obj<</Type/Page/Parent 2 0 R/MediaBox[{box}]/Contents 3 0 R>>endobj\n"
        for i in range(num)
    )
    path.write_text(
        "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        f"2 0 obj<</Type/Pages/Kids[{kids}]/Count {num}>>endobj\n{pages}"
        f"3 0 obj<</Length {len(content)}>>stream\n{content}\nendstream endobj\n"
        "trailer<</Root 1 0 R>>\n%%EOF"
    )
    return path


ENCRYPTED = (
    "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 90]>>endobj\n"
    f"4 0 obj<</Filter/Standard/V 1/R 2/P -4/O<{'11' * 32}>/U<{'22' * 32}>>>endobj\n"
    f"trailer<</Root 1 0 R/Encrypt 4 0 R/ID[<{'00' * 16}><{'00' * 16}>]>>\n%%EOF"
)


def dark_box(image: Image.Image) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(np.asarray(image.convert("L")) < 100)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_page_is_drawn_to_scale_on_white(tmp_path):
    # A black square of 72 pt, one inch from the left and from the bottom of an A4 sheet.
    path = write_pdf(tmp_path / "a.pdf", content="0 0 0 rg 72 72 72 72 re f")
    image = render_pdf_page(PdfPage(path, 1))
    assert image.mode == "RGB"
    assert image.size == (1653, 2339)
    left, top, right, bottom = dark_box(image)
    assert abs(left - 200) <= 1
    assert abs(right - 400) <= 1
    assert abs(image.height - bottom - 200) <= 1
    assert abs(bottom - top - 200) <= 2
    assert image.getpixel((1000, 100)) == (255, 255, 255)


def test_colours_are_not_swapped(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", box="0 0 72 72", content="1 0 0 rg 0 0 72 72 re f")
    assert render_pdf_page(PdfPage(path, 1)).getpixel((100, 100)) == (255, 0, 0)


def test_the_page_asked_for_comes_trimmed_and_in_whole_tokens(make_renderer, tmp_path):
    renderer = make_renderer("none")
    shades = [Image.new("RGB", (600, 800), grey) for grey in ("white", "silver", "dimgray")]
    path = tmp_path / "three.pdf"
    shades[0].save(path, save_all=True, append_images=shades[1:])
    assert num_pages(path) == 3
    for number, grey in enumerate((255, 192, 105), start=1):
        image = renderer.open(PdfPage(path, number))
        assert image.width % 32 == image.height % 32 == 0
        assert image.width * image.height <= 768 * 768
        assert renderer.size(PdfPage(path, number)) == image.size
        assert abs(np.median(np.asarray(image)) - grey) <= 2
    square = write_pdf(tmp_path / "a.pdf", content="0 0 0 rg 72 72 72 72 re f")
    assert max(renderer.size(PdfPage(square, 1))) < 400  # margins and all: 928


def test_image_draws_layouts_and_opens_the_rest(make_renderer, tmp_path):
    renderer = make_renderer()
    layout = renderer.layout("题", "春天来了。")[0]
    assert renderer.image(layout).tobytes() == renderer.draw(layout).tobytes()
    pdf = PdfPage(write_pdf(tmp_path / "a.pdf", content="0 0 0 rg 9 9 9 9 re f"), 1)
    assert renderer.image(pdf).tobytes() == renderer.open(pdf).tobytes()
    saved = renderer.save(pdf, tmp_path / "kept", "a_1")
    assert renderer.open(saved).size == renderer.size(pdf)


def test_no_page_becomes_too_large_an_image(tmp_path):
    sheet = write_pdf(tmp_path / "sheet.pdf", box="0 0 90000 90000")
    width_px, height_px = render_pdf_page(PdfPage(sheet, 1)).size
    assert 0.9 * MAX_RENDER_PIXELS < width_px * height_px <= 1.01 * MAX_RENDER_PIXELS
    strip = write_pdf(tmp_path / "strip.pdf", box="0 0 900000000 0.01")
    assert max(render_pdf_page(PdfPage(strip, 1)).size) <= MAX_RENDER_SIDE_PX


def test_a_strip_is_refused(make_renderer, tmp_path):
    path = write_pdf(tmp_path / "strip.pdf", box="0 0 9000 9")
    with pytest.raises(ValueError, match=r"page 1 of .*strip\.pdf is a strip"):
        make_renderer("none").open(PdfPage(path, 1))


def test_what_cannot_be_opened_is_named(tmp_path):
    whole = write_pdf(tmp_path / "whole.pdf", num=2)
    with pytest.raises(ValueError, match=r"whole\.pdf has no page 3, only 2"):
        render_pdf_page(PdfPage(whole, 3))
    files = {
        "empty.pdf": (b"", "cannot be read as a PDF"),
        "text.pdf": ("春天来了。".encode(), "cannot be read as a PDF"),
        "cut.pdf": (whole.read_bytes()[:60], "cannot be read as a PDF"),
        "locked.pdf": (ENCRYPTED.encode(), "is encrypted"),
        "none.pdf": (write_pdf(tmp_path / "x.pdf", num=0).read_bytes(), r"pages|as a PDF"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        for read in (num_pages, lambda path: render_pdf_page(PdfPage(path, 1))):
            with pytest.raises(ValueError, match=rf"{name}.*({reason})") as caught:
                read(tmp_path / name)
            assert str(caught.value).count(". ") == 0
    for path in (tmp_path / "absent.pdf", tmp_path):
        with pytest.raises(ValueError, match="no file that exists"):
            num_pages(path)


def test_a_page_that_is_listed_but_broken_is_named(tmp_path):
    text = write_pdf(tmp_path / "a.pdf").read_text().replace("10 0 obj", "11 0 obj")
    (tmp_path / "a.pdf").write_text(text)
    with pytest.raises(ValueError, match=r"page 1 of .*a\.pdf is broken"):
        render_pdf_page(PdfPage(tmp_path / "a.pdf", 1))


def _height(path: str) -> int:
    return render_pdf_page(PdfPage(Path(path), 1)).height


def test_threads_and_forked_processes_draw_at_once(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", content="0 0 0 rg 72 72 72 72 re f")
    heights: list[int] = []

    def draw() -> None:
        heights.extend(_height(str(path)) for _ in range(4))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    # Forked while the threads draw: the child must not find the lock taken for ever.
    with get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_height, (str(path),)).get(timeout=60) == 2339
    for thread in threads:
        thread.join()
    assert heights == [2339] * 12
