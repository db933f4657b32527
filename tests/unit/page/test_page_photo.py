import struct

import numpy as np
import pytest
from PIL import Image

from aes.page import photo

TEXT = "那是一双怎样矛盾的手啊，指头粗短，关节鼓起。" * 12


@pytest.fixture
def page(make_renderer):
    renderer = make_renderer()
    return renderer.draw(renderer.layout("题", TEXT)[0])


@pytest.fixture
def renderer(make_renderer):
    return make_renderer("none")


def on_paper(page, size, place):
    paper = Image.new("RGB", size, "white")
    paper.paste(page, place)
    return paper


def ink_box(image):
    rows, columns = np.nonzero(np.asarray(image.convert("L")) < 100)
    return columns.min(), rows.min(), columns.max(), rows.max()


@pytest.mark.parametrize(
    "size", [(1240, 1754), (3000, 2000), (900, 300), (100, 40), (40, 3000), (768, 768), (31, 31)]
)
def test_any_image_becomes_a_page_of_whole_tokens(renderer, tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 2, (size[1], size[0]), dtype=np.uint8) * 255
    path = tmp_path / "page.png"
    Image.fromarray(noise).save(path)
    image = renderer.open(path)
    assert image.mode == "RGB"
    assert image.width % 32 == image.height % 32 == 0
    assert 65_536 <= image.width * image.height <= 768 * 768
    assert renderer.size(path) == image.size


def test_blank_margins_go_and_glyphs_keep_their_size(renderer, page, tmp_path):
    path = tmp_path / "scan.png"
    on_paper(page, (1000, 2400), (100, 900)).save(path)
    image = renderer.open(path)
    assert image.width * image.height < 1.5 * page.width * page.height
    left, top, right, bottom = ink_box(image)
    old_left, old_top, old_right, old_bottom = ink_box(page)
    assert (right - left, bottom - top) == (old_right - old_left, old_bottom - old_top)


def test_margins_go_under_uneven_light_too(renderer, page, tmp_path):
    light = np.linspace(1, 0.6, 2400)[:, None, None]
    dim = np.asarray(on_paper(page, (1000, 2400), (100, 900))) * light
    path = tmp_path / "photo.jpg"
    Image.fromarray(dim.astype(np.uint8)).save(path, quality=90)
    assert renderer.open(path).height < 700


def test_a_large_page_is_scaled_without_stretching(renderer, tmp_path):
    image = Image.new("RGB", (3000, 4000), "white")
    image.paste("black", (500, 500, 2500, 3500))
    image.paste("white", (520, 520, 2480, 3480))
    path = tmp_path / "large.png"
    image.save(path)
    opened = renderer.open(path)
    left, top, right, bottom = ink_box(opened)
    assert (right - left) / (bottom - top) == pytest.approx(2000 / 3000, rel=0.01)
    assert opened.width * opened.height > 0.85 * 768 * 768


def test_a_blank_image_is_kept(renderer, tmp_path):
    path = tmp_path / "blank.png"
    Image.new("RGB", (640, 640), (200, 190, 180)).save(path)
    image = renderer.open(path)
    assert image.size == (640, 640)
    assert image.getpixel((5, 5)) == (200, 190, 180)


def test_padding_has_the_colour_of_the_paper(renderer, tmp_path):
    image = Image.new("RGB", (300, 300), (230, 220, 200))
    image.paste("black", (0, 0, 3, 300))
    image.paste("black", (297, 0, 300, 300))
    path = tmp_path / "yellow.png"
    image.save(path)
    opened = renderer.open(path)
    assert opened.size == (320, 320)
    assert opened.getpixel((0, 0)) == (230, 220, 200)


def test_exif_turns_the_page_upright(renderer, page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.png"
    page.rotate(90, expand=True).save(path, exif=exif)
    upright = tmp_path / "upright.png"
    page.save(upright)
    assert renderer.open(path).tobytes() == renderer.open(upright).tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_shows_black_on_white(renderer, page, tmp_path, mode):
    path = tmp_path / "page.tif"
    if mode == "I;16":
        Image.fromarray(np.asarray(page.convert("L"), np.uint16) * 257).save(path)
    elif mode == "LA":
        alpha = Image.eval(page.convert("L"), lambda level: 255 - level)
        Image.merge("LA", (Image.new("L", page.size), alpha)).save(path)
    else:
        page.convert(mode).save(path)
    grey = np.asarray(renderer.open(path).convert("L"))
    assert np.median(grey) > 250
    assert grey.min() < 60


def broken_files(tmp_path, page):
    page.save(tmp_path / "whole.png")
    page.save(tmp_path / "whole.jpg")
    for name in ("whole.png", "whole.jpg"):
        data = (tmp_path / name).read_bytes()
        yield name, data[: len(data) // 2]
        yield name, data[:30]
    yield "text.png", "不是图片".encode()
    yield "empty.jpg", b""
    page.save(tmp_path / "whole.tif")
    data = bytearray((tmp_path / "whole.tif").read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (num_entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * num_entries, len(data))
    yield "second_page_without_size.tif", bytes(data) + bytes(6)
    page.save(tmp_path / "program.eps")
    yield "program.png", (tmp_path / "program.eps").read_bytes()


def test_a_broken_file_is_named(renderer, page, tmp_path):
    for name, data in broken_files(tmp_path, page):
        path = tmp_path / f"broken_{name}"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"broken_{name}"):
            renderer.open(path)
        with pytest.raises(ValueError, match=f"broken_{name}"):
            renderer.size(path)
    with pytest.raises(ValueError, match="does not exist"):
        renderer.open(tmp_path / "absent.png")
    with pytest.raises(ValueError, match=str(tmp_path)):
        renderer.open(tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_400, 14_000])
def test_a_bomb_is_refused_before_it_is_decoded(renderer, tmp_path, monkeypatch, side):
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    monkeypatch.setattr(photo, "_to_rgb", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"bomb\.png has over 80 million pixels"):
        renderer.open(path)


def test_several_images_in_a_file_are_refused(renderer, page, tmp_path):
    path = tmp_path / "pages.tif"
    page.save(path, save_all=True, append_images=[page])
    with pytest.raises(ValueError, match="2 images"):
        renderer.open(path)


def test_a_strip_is_refused(renderer, tmp_path):
    path = tmp_path / "strip.png"
    Image.new("RGB", (2000, 5)).save(path)
    with pytest.raises(ValueError, match="strip"):
        renderer.open(path)


def test_an_opened_image_can_be_kept(renderer, page, tmp_path):
    page.save(tmp_path / "photo.jpg")
    kept = renderer.save(tmp_path / "photo.jpg", tmp_path / "kept", "a_1")
    with Image.open(kept) as saved:
        assert saved.size == renderer.size(tmp_path / "photo.jpg")


@pytest.fixture
def looked_for(monkeypatch):
    """Of each search for margins the size of the image."""
    searches, search = [], photo.find_written
    monkeypatch.setattr(
        photo, "find_written", lambda image: searches.append(image.size) or search(image)
    )
    monkeypatch.setattr(photo, "_crops", {})
    return searches


def test_margins_are_looked_for_once_and_the_size_is_known_then(
    renderer, page, tmp_path, monkeypatch, looked_for
):
    for number, size in enumerate([(1000, 2400), (900, 900), (1900, 3000)], start=1):
        path = tmp_path / f"{number}.png"
        on_paper(page, size, (100, 100)).save(path)
        first = renderer.open(path)
        assert renderer.open(path).tobytes() == first.tobytes()
        with monkeypatch.context() as patch:
            patch.setattr(photo, "_read", None)  # it is not opened for its size
            assert renderer.size(path) == first.size
        assert len(looked_for) == number


def test_a_file_that_was_written_anew_is_looked_at_anew(renderer, page, tmp_path, looked_for):
    path = tmp_path / "page.png"
    on_paper(page, (1000, 2400), (100, 900)).save(path)
    whole = renderer.size(path)
    on_paper(page.crop((0, 0, 768, 200)), (1000, 2400), (100, 900)).save(path)
    assert renderer.size(path) == renderer.open(path).size != whole
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        renderer.size(path)


def test_a_strip_is_refused_each_time(renderer, tmp_path, looked_for):
    path = tmp_path / "strip.png"
    noise = np.random.default_rng(0).integers(0, 2, (20, 3000), dtype=np.uint8) * 255
    Image.fromarray(noise).save(path)
    for ask in (renderer.open, renderer.size, renderer.open):
        with pytest.raises(ValueError, match="is a strip of"):
            ask(path)
    assert len(looked_for) == 3
