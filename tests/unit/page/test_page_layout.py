import pickle
from pathlib import Path

import pytest

from aes.page.font import font_path, open_face
from aes.page.linebreak import NEVER_FIRST, NEVER_LAST

PARAGRAPH = (
    "父亲说：“我们走吧。”她笑了笑，“好——那就走……”（括号里有 English words 和 12345.67 元）"
    "《红楼梦》里写道：“满纸荒唐言，一把辛酸泪！都云作者痴，谁解其中味？”"
)
TEXT = "\n".join([PARAGRAPH * 3] * 4)
LONG_TEXT = "\n".join([PARAGRAPH * 4] * 12)
DRAWN = ["plain", "squared_paper", "scan"]
DATASET = Path(__file__).parents[4] / "shared" / "data" / "AES_Dataset" / "essays"


def shown(text):
    return "".join(text.split())


def characters(pages):
    return shown("".join(line.text for page in pages for line in page.lines))


@pytest.mark.parametrize("style", DRAWN)
@pytest.mark.parametrize("is_nano", [False, True])
def test_every_character_stands_once_and_on_the_page(make_renderer, nano, style, is_nano):
    assert len(LONG_TEXT) > 4000
    renderer = make_renderer(style, **(nano if is_nano else {}))
    pages = renderer.layout("题目", LONG_TEXT)
    assert len(pages) > 1
    assert characters(pages) == shown("题目" + LONG_TEXT)
    for page in pages:
        assert page.width_px % 32 == page.height_px % 32 == 0
        assert page.width_px * page.height_px >= 65_536
        assert page.width_px <= renderer.spec.width_px
        assert page.height_px <= renderer.spec.max_height_px
        for line in page.lines:
            assert len(line.text) == len(line.xs_px)
            assert 0 <= line.y_px <= page.height_px - line.size_px
            face = open_face(font_path("sans"), line.size_px)
            for char, x in zip(line.text, line.xs_px, strict=True):
                glyph = face.glyph(char)
                assert x + glyph.left_px >= 0
                assert x + glyph.left_px + glyph.ink.shape[1] <= page.width_px


def test_the_same_essay_gets_the_same_layout(make_renderer):
    renderer = make_renderer("scan")
    again = pickle.loads(pickle.dumps(renderer))
    assert renderer.layout("题", TEXT, seed=7) == again.layout("题", TEXT, seed=7)
    seeds = [page.seed for page in renderer.layout("题", LONG_TEXT, seed=7)]
    assert seeds[0] == 7
    assert len(set(seeds)) == len(seeds)


def test_lines_keep_the_rules_of_punctuation(make_renderer):
    for style in ("plain", "squared_paper"):
        for page in make_renderer(style).layout("", LONG_TEXT):
            for line in page.lines:
                assert line.text[0] not in NEVER_FIRST
                assert line.text.rstrip()[-1] not in NEVER_LAST


def test_lines_do_not_overlap(make_renderer):
    for page in make_renderer().layout("题", TEXT):
        for line, after in zip(page.lines, page.lines[1:], strict=False):
            assert line.y_px + line.size_px <= after.y_px


def test_indent_is_kept_as_written_or_given(make_renderer):
    (page,) = make_renderer().layout("", "无\n\u3000一\n  二\n\t三\n\u3000\u3000四")
    xs = [line.xs_px[0] - 4 for line in page.lines]
    space = open_face(font_path("sans"), 20).glyph(" ").advance_px
    assert xs == [40, 20, 2 * space, 40, 40]


def test_a_name_set_to_the_right_by_spaces_stays_on_its_line(make_renderer):
    (page,) = make_renderer().layout("", "正文\n" + "\u3000" * 60 + "小明")
    name = page.lines[1]
    assert name.text == "小明"
    assert name.xs_px[-1] + 20 == 768 - 4


def test_the_title_is_centred_and_larger(make_renderer):
    (page,) = make_renderer().layout("父亲的手", "正文。")
    title, body = page.lines
    assert title.size_px > body.size_px
    assert abs((title.xs_px[0] + title.xs_px[-1] + title.size_px) / 2 - 384) <= 1


def test_a_page_is_no_higher_than_its_text(make_renderer):
    (page,) = make_renderer().layout("题", "字" * 400)
    last = page.lines[-1]
    assert page.width_px == 768
    assert 0 <= page.height_px - (last.y_px + last.size_px + 4) < 32


def test_a_single_line_takes_the_fewest_tokens(make_renderer):
    (page,) = make_renderer().layout("", "一行字。")
    assert page.width_px * page.height_px == 65_536
    (page,) = make_renderer(min_pixels=1).layout("", "一行字。")
    assert (page.width_px, page.height_px) == (128, 32)


def test_squared_paper_puts_one_character_in_a_cell(make_renderer):
    (page,) = make_renderer("squared_paper").layout("", "好，ab1吧 是")
    side = page.cells[0][2]
    columns = [(x - page.cells[0][0]) // side for x in page.lines[0].xs_px]
    # Two blank cells first; a and b share one; the space leaves one blank.
    assert columns == [2, 3, 4, 4, 5, 6, 8]
    assert len({x for x, _, _ in page.cells}) == len(page.cells)


def test_a_closing_mark_hangs_past_the_last_cell(make_renderer):
    renderer = make_renderer("squared_paper", indent_chars=0)
    num_columns = len(renderer.layout("", "字")[0].cells)
    (page,) = renderer.layout("", "字" * num_columns + "。”后")
    x, _, side = page.cells[num_columns - 1]
    assert page.lines[0].text.endswith("字。”")
    assert [edge >= x + side for edge in page.lines[0].xs_px[-3:]] == [False, True, True]
    assert page.lines[1].text == "后"


def test_a_missing_character_is_named(make_renderer):
    with pytest.raises(ValueError, match=r"U\+E004.*U\+FFFD"):
        make_renderer().layout("题", "有\ue004字\ufffd")


@pytest.mark.parametrize(("title", "text"), [("", ""), (" ", "\n\u3000\n\ufeff")])
def test_an_empty_essay_is_refused(make_renderer, title, text):
    with pytest.raises(ValueError, match="empty"):
        make_renderer().layout(title, text)


def test_style_none_lays_out_nothing(make_renderer):
    with pytest.raises(ValueError, match="none"):
        make_renderer("none").layout("题", "字")


@pytest.mark.skipif(not DATASET.is_dir(), reason="AES-Dataset is not beside the checkout")
def test_the_real_essays_fit_but_for_private_characters(make_renderer):
    renderer = make_renderer(max_height_px=1088)
    refused = []
    for path in sorted(DATASET.glob("*.txt")):
        title, _, text = path.read_text(encoding="utf-8-sig").partition("\n")
        if renderer.missing_characters(title + text):
            refused.append(path.stem)
            continue
        assert characters(renderer.layout(title, text)) == shown(title + text), path.stem
    assert refused == ["A-0007", "A-0009", "A-0012", "A-0039", "A-0053", "A-0078"]
