import dataclasses

import numpy as np
import pytest
from PIL import Image

from aes.page.draw import draw_coverage
from aes.page.font import font_path
from aes.page.scan import bleed_px, scan_page

TEXT = "那是一双怎样矛盾的手啊，指头粗短，关节鼓起。\n像刚从田里刨出来的生姜" * 6
DRAWN = ["plain", "squared_paper", "scan"]


def ink(image):
    return np.asarray(image.convert("L")) < 128


@pytest.mark.parametrize("style", DRAWN)
def test_a_page_is_drawn_at_its_planned_size(make_renderer, style):
    renderer = make_renderer(style)
    (page,) = renderer.layout("题", TEXT, seed=1)
    image = renderer.draw(page)
    assert image.mode == "RGB"
    assert image.size == renderer.size(page) == (page.width_px, page.height_px)
    assert image.tobytes() == renderer.draw(page).tobytes()


def test_a_drawn_line_equals_pillows_own(make_renderer):
    from PIL import ImageDraw, ImageFont

    renderer = make_renderer()
    (page,) = renderer.layout("", "那是一双怎样矛盾的手啊，指头粗短。")
    (line,) = page.lines
    font = ImageFont.truetype(font_path("sans"), 20, layout_engine=ImageFont.Layout.BASIC)
    expected = Image.new("L", (page.width_px, page.height_px), 255)
    place = (line.xs_px[0], line.y_px + round(0.88 * 20))
    ImageDraw.Draw(expected).text(place, line.text, 0, font, anchor="ls")
    difference = np.asarray(renderer.draw(page).convert("L"), int) - np.asarray(expected, int)
    assert abs(difference).max() <= 1


def test_every_character_leaves_ink_where_it_stands(make_renderer):
    renderer = make_renderer()
    (page,) = renderer.layout("题", TEXT)
    black = ink(renderer.draw(page))
    for line in page.lines:
        for char, x in zip(line.text, line.xs_px, strict=True):
            box = black[line.y_px : line.y_px + line.size_px, x : x + line.size_px]
            assert box.any(), (char, x)


def test_ink_at_the_edge_is_moved_not_cut(make_renderer):
    renderer = make_renderer(margin_px=0, indent_chars=0, line_spacing=1.0)
    (page,) = renderer.layout("", "jÅ\njg")
    cropped = dataclasses.replace(page, height_px=page.lines[-1].y_px + 20)
    tight = draw_coverage(cropped, font_path("sans")).sum(dtype=int)
    roomy = draw_coverage(page, font_path("sans")).sum(dtype=int)
    assert tight == pytest.approx(roomy, rel=0.05)


def test_cells_are_drawn_lighter_than_characters(make_renderer):
    renderer = make_renderer("squared_paper")
    (page,) = renderer.layout("题", TEXT)
    grey = np.asarray(renderer.draw(page).convert("L"))
    x, y, side = page.cells[-1]
    assert (grey[y, x : x + side] == grey[y, x]).all()
    assert 128 < grey[y, x] < 255
    assert grey.min() == 0


def test_a_scan_depends_on_its_seed_and_nothing_else(make_renderer):
    renderer = make_renderer("scan")
    one, same, other = (renderer.layout("题", TEXT, seed=seed)[0] for seed in (1, 1, 2))
    assert renderer.draw(one).tobytes() == renderer.draw(same).tobytes()
    assert renderer.draw(one).tobytes() != renderer.draw(other).tobytes()


def test_turning_cuts_no_ink(make_spec):
    spec = make_spec("scan")
    noise = dataclasses.replace(spec.scan, rotation_deg=5, noise_sd=0, uneven_light=0, blur_px=0)
    bleed_x, bleed_y = bleed_px(noise, 320, 640)
    coverage = np.zeros((640, 320), np.uint8)
    coverage[bleed_y : 640 - bleed_y, bleed_x : 320 - bleed_x] = 255
    dark = 244 - scan_page(coverage, noise, seed=0).astype(int)
    # What stays is all the ink there was: none was turned off the page.
    assert dark.sum() == pytest.approx((244 - 40) * (coverage > 0).sum(), rel=0.002)
    assert not dark[0].any()
    assert not dark[:, 0].any()


def test_scan_settings_of_zero_leave_a_clean_page(make_spec):
    noise = dataclasses.replace(
        make_spec("scan").scan, rotation_deg=0, noise_sd=0, uneven_light=0, blur_px=0
    )
    coverage = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = scan_page(coverage, noise, seed=3)
    assert grey[0, 0] == 244
    assert grey[-1, -1] == 40
    assert (np.diff(grey.ravel().astype(int)) <= 0).all()


def test_a_saved_page_reads_back_and_leaves_nothing_else(make_renderer, tmp_path):
    renderer = make_renderer()
    (page,) = renderer.layout("题", TEXT)
    path = renderer.save(page, tmp_path / "pages", "S01_1")
    assert [file.name for file in (tmp_path / "pages").iterdir()] == ["S01_1.png"]
    with Image.open(path) as saved:
        assert saved.convert("RGB").tobytes() == renderer.draw(page).tobytes()
