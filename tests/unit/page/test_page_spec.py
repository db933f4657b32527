import pytest

STILL = {"rotation_deg": 1, "blur_px": 0, "noise_sd": 0, "uneven_light": 0}


@pytest.mark.parametrize("style", ["plain", "squared_paper", "scan", "none"])
def test_shipped_yaml_is_a_valid_spec(make_spec, style):
    assert make_spec(style).style == style


@pytest.mark.parametrize(
    ("style", "change", "named"),
    [
        (
            "plain",
            {"scan": STILL},
            "scan",
        ),
        ("scan", {"scan": None}, "scan"),
        ("none", {"glyph_px": 20}, "glyph_px"),
        ("none", {"font": "sans"}, "font"),
        ("plain", {"glyph_px": None}, "glyph_px"),
        ("plain", {"glyph_px": 7}, "glyph_px"),
        ("plain", {"width_px": 760}, "width_px"),
        ("plain", {"max_height_px": 100}, "max_height_px"),
        ("plain", {"line_spacing": 0.9}, "line_spacing"),
        ("plain", {"glyph_px": 200}, "width_px"),
        ("plain", {"min_pixels": 768 * 768}, "min_pixels"),
        ("plain", {"font": "no_such_font.ttf"}, "font"),
        ("plain", {"colour": "red"}, "colour"),
    ],
)
def test_contradictions_are_refused_by_name(make_spec, style, change, named):
    with pytest.raises(ValueError, match=named):
        make_spec(style, **change)


def test_nano_geometry_is_accepted(make_spec, nano):
    assert make_spec("squared_paper", **nano).width_px == 320


def test_a_turned_page_keeps_more_blank_paper(make_spec):
    plain, scan = make_spec("plain").insets_px, make_spec("scan").insets_px
    assert scan[0] > plain[0]
    assert scan[1] > plain[1]
