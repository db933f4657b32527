"""Pictures stay whole, at the size that the checkpoint's own processor would give them."""

import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pixels
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from aes.page import image_bytes
from aes.page.photo import picture_size
from aes.records import TableImage

MAX_PIXELS = 768 * 768


def encode(size=(200, 120), colour="red", **saving) -> bytes:
    buffer = io.BytesIO()
    Pixels.new("RGB", size, colour).save(buffer, **({"format": "PNG"} | saving))
    return buffer.getvalue()


def write_table(path: Path, cells: list, feature) -> Path:
    """An Arrow file as ``datasets`` writes it, with one column of images."""
    rows = Dataset.from_dict({"image": cells}, features=Features({"image": feature}))
    rows.save_to_disk(path.parent / "written")
    (path.parent / "written" / "data-00000-of-00001.arrow").replace(path)
    return path


# Sizes


def test_sides_are_those_of_the_checkpoint_s_processor() -> None:
    rng = np.random.default_rng(0)
    for width, height in rng.integers(20, 3000, size=(500, 2)).tolist():
        if max(width, height) > 100 * min(width, height):
            continue
        ours = picture_size((width, height), min_pixels=65_536, max_pixels=MAX_PIXELS)
        theirs = smart_resize(height, width, factor=32, min_pixels=65_536, max_pixels=MAX_PIXELS)
        assert ours == theirs[::-1]
        assert 65_536 <= ours[0] * ours[1] <= MAX_PIXELS
        again = picture_size(ours, min_pixels=65_536, max_pixels=MAX_PIXELS)
        assert again == ours, "what has its size is not scaled a second time"


@pytest.mark.parametrize(
    ("size", "expected"),
    [((4000, 3000), (864, 640)), ((20, 10), (384, 192)), ((768, 768), (768, 768))],
)
def test_large_pictures_shrink_and_small_ones_grow(
    make_renderer, tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(size))
    renderer = make_renderer("picture")
    assert renderer.open(path).size == expected
    assert renderer.size(path) == expected, "remembered, not decoded"


def test_margins_of_a_picture_stay_and_those_of_a_sheet_go(make_renderer, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Pixels.new("L", (640, 640), "white")
    image.paste(0, (300, 300, 340, 340))
    image.save(path)
    picture, sheet = make_renderer("picture"), make_renderer("none")
    assert sheet.open(path).size[0] < 640
    assert picture.open(path).size == (640, 640), "one process opens the same file as both"
    assert sheet.size(path)[0] < 640
    assert np.array_equal(np.asarray(picture.open(path))[..., 0], np.asarray(image))


def test_sizes_are_without_effect_where_a_model_reads_text_alone(make_spec) -> None:
    spec = make_spec("picture", min_pixels=None)
    assert spec.reads_text_alone
    with pytest.raises(ValueError, match="width_px is missing"):
        make_spec("picture", width_px=None)


# Tables


@pytest.mark.parametrize(
    ("feature", "cell"),
    [
        (Image(), {"bytes": encode(), "path": None}),
        (Value("binary"), encode()),
        (Value("large_binary"), encode()),
        (List(Value("binary")), [encode((32, 32)), encode()]),
        (List(Image()), [{"bytes": encode((32, 32))}, {"bytes": encode(), "path": "a.png"}]),
    ],
    ids=["image", "binary", "large_binary", "list_of_binary", "list_of_images"],
)
def test_an_image_in_a_table_is_opened_like_a_file(
    make_renderer, tmp_path: Path, feature, cell
) -> None:
    blank = [] if isinstance(cell, list) else None
    table = write_table(tmp_path / "a.arrow", [blank, cell], feature)
    number = len(cell) - 1 if isinstance(cell, list) else 0
    place = TableImage(table, 1, "image", number)
    file = tmp_path / "a.png"
    file.write_bytes(encode())
    renderer = make_renderer("picture")
    assert image_bytes(place) == image_bytes(file)
    assert renderer.size(place) == renderer.size(file) == (352, 224)
    assert renderer.image(place).tobytes() == renderer.open(file).tobytes()
    with pytest.raises(ValueError, match=r"row 1, column image of .*a\.arrow is empty"):
        renderer.open(TableImage(table, 0, "image"))


def test_an_image_in_a_table_is_turned_as_exif_says(make_renderer, tmp_path: Path) -> None:
    exif = Pixels.Exif()
    exif[0x0112] = 6
    table = write_table(
        tmp_path / "a.arrow",
        [{"bytes": encode((640, 320), format="JPEG", exif=exif)}],
        Image(),
    )
    assert make_renderer("picture").open(TableImage(table, 0, "image")).size == (320, 640)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "cannot be read as an image"), (encode()[:-40], "cannot be read as an image")],
)
def test_bytes_that_are_no_image_are_named_by_row(
    make_renderer, tmp_path: Path, content: bytes, message: str
) -> None:
    table = write_table(tmp_path / "a.arrow", [None, {"bytes": content}], Image())
    with pytest.raises(ValueError, match=rf"the image in row 2, column image of .* {message}"):
        make_renderer("picture").size(TableImage(table, 1, "image"))


@pytest.mark.parametrize("place", [(5, "image", 0), (-1, "image", 0), (0, "images", 0)])
def test_a_place_that_is_not_in_the_table_is_refused(make_renderer, tmp_path: Path, place) -> None:
    table = write_table(tmp_path / "a.arrow", [{"bytes": encode()}], Image())
    with pytest.raises(ValueError, match="is not there: prepare the data again"):
        make_renderer("picture").open(TableImage(table, *place))


def test_tables_that_are_gone_or_broken_are_refused(make_renderer, tmp_path: Path) -> None:
    renderer = make_renderer("picture")
    with pytest.raises(ValueError, match=r"gone\.arrow does not exist"):
        renderer.open(TableImage(tmp_path / "gone.arrow", 0, "image"))
    (tmp_path / "a.arrow").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"a\.arrow cannot be read as an Arrow table"):
        renderer.open(TableImage(tmp_path / "a.arrow", 0, "image"))


def test_a_table_that_was_written_anew_is_read_anew(make_renderer, tmp_path: Path) -> None:
    renderer, place = make_renderer("picture"), TableImage(tmp_path / "a.arrow", 0, "image")
    write_table(place.path, [{"bytes": encode(colour="red")}], Image())
    assert renderer.open(place).getpixel((0, 0)) == (255, 0, 0)
    write_table(place.path, [{"bytes": encode((300, 300), colour="blue")}], Image())
    assert renderer.size(place) == (288, 288)
    assert renderer.open(place).getpixel((0, 0)) == (0, 0, 255)
