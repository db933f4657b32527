import struct

import numpy as np
import pytest

from aes.page.font import (
    IDEOGRAPHIC_ASCENT,
    _read_format_4,
    font_path,
    mapped_code_points,
    open_face,
)


@pytest.mark.parametrize("font", ["sans", "serif"])
def test_missing_characters_are_judged_by_the_font(make_renderer, font):
    renderer = make_renderer(font=font)
    text = "有\ue004字\ufffd，😀□ \u3000\t\u00a0\u200b\ufeff缺\ue004"
    assert renderer.missing_characters(text) == ["\ue004", "\ufffd", "😀"]


def test_a_control_character_is_missing_but_white_space_is_not(make_renderer):
    assert make_renderer().missing_characters("\x07\r\n\x0b 好") == ["\x07"]


def test_what_was_missing_once_is_missing_again(make_renderer):
    renderer = make_renderer()
    for text in ("春\u0000\ue000", "\ue000春天\u0000", "\u0000\ue000"):
        assert renderer.missing_characters(text) == ["\u0000", "\ue000"]


def test_typed_as_text_nothing_is_missing(make_renderer):
    assert make_renderer("none").missing_characters("\ue004") == []


def test_format_4_reads_deltas_arrays_and_glyph_0():
    # Segments: A-C by delta; a-c by array, where b maps to glyph 0; the closing 0xFFFF.
    lasts, firsts = (67, 99, 0xFFFF), (65, 97, 0xFFFF)
    deltas, ranges = (-64 & 0xFFFF, 0, 1), (0, 4, 0)
    body = struct.pack(">3H", *lasts) + struct.pack(">H3H", 0, *firsts)
    body += struct.pack(">3H3H3H", *deltas, *ranges, 7, 0, 9)
    table = struct.pack(">7H", 4, 14 + len(body), 0, 6, 0, 0, 0) + body
    assert {chr(point) for point in _read_format_4(table, 0)} == set("ABCac")


def test_character_map_of_the_built_in_font():
    points = mapped_code_points(font_path("sans"))
    assert {ord("国"), ord("A"), ord("，"), ord("〇"), 0x3000} <= points
    assert not {0xE004, 0xFFFD, 0x1F600} & points


def test_a_file_that_is_no_font_is_refused(make_renderer, tmp_path):
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"\0\1\0\0" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"broken\.ttf"):
        make_renderer(font=str(path)).layout("", "好")


def test_a_character_is_rasterised_once():
    face = open_face(font_path("sans"), 20)
    assert face.glyph("国") is face.glyph("国")
    assert open_face(font_path("sans"), 20) is face


def test_an_ideograph_fills_its_square():
    glyph = open_face(font_path("sans"), 100).glyph("国")
    height, width = glyph.ink.shape
    assert glyph.advance_px == 100
    assert 0 <= glyph.left_px < glyph.left_px + width <= 100
    assert 0 <= glyph.top_px < glyph.top_px + height <= 100
    assert height > 100 * IDEOGRAPHIC_ASCENT - 10
    assert np.any(glyph.ink == 255)


def test_spaces_have_a_width_and_no_ink():
    face = open_face(font_path("sans"), 20)
    assert face.glyph("\u3000").advance_px == 20
    assert 0 < face.glyph(" ").advance_px < 10
    assert face.glyph("\u3000").ink.size == 0
