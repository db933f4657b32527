import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aes.page.linebreak import NEVER_FIRST, NEVER_LAST, may_break, wrap


def lines(text, limit, *, indent=0, hanging=0):
    breaks = wrap(text, [1] * len(text), limit_px=limit, indent_px=indent, num_hanging=hanging)
    return [text[start:end] for start, end in breaks]


def test_a_stop_pulls_the_character_before_it_along():
    assert lines("一二三四。五", 4) == ["一二三", "四。五"]


def test_a_stop_hangs_where_it_may():
    assert lines("一二三四。五", 4, hanging=2) == ["一二三四。", "五"]
    assert lines("一二三四。”五", 4, hanging=2) == ["一二三四。”", "五"]
    assert lines("一二三四。”！五", 4, hanging=2) == ["一二三", "四。”！", "五"]


def test_an_opening_quote_moves_to_the_next_line():
    assert lines("一二三“四”五", 4) == ["一二三", "“四”五"]


def test_straight_quotes_open_and_close_in_turn():
    assert lines('一二三"四"五', 4) == ["一二三", '"四"五']
    assert lines('一二"三四"五', 3) == ["一二", '"三', '四"五']


def test_ellipsis_and_dash_stay_whole():
    assert lines("一二三……四", 4) == ["一二三", "……四"]
    assert lines("一二三——四", 4) == ["一二三", "——四"]


def test_words_and_numbers_stay_whole():
    assert lines("一二 abc 三", 4) == ["一二 ", "abc ", "三"]
    assert lines("一二3.14元", 4) == ["一二", "3.14", "元"]
    assert lines("一don't二", 6) == ["一don't", "二"]


def test_a_word_longer_than_a_line_is_broken():
    assert lines("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_a_run_of_stops_is_broken_at_the_edge():
    assert lines("。" * 10, 4) == ["。" * 4, "。" * 4, "。" * 2]


def test_the_indent_takes_room_from_the_first_line_only():
    assert lines("一二三四五六七", 4, indent=2) == ["一二", "三四五六", "七"]


def test_spaces_at_the_end_take_no_room():
    assert lines("abcd   ef", 4) == ["abcd   ", "ef"]


@pytest.mark.parametrize("mark", "。，、！？；：”’）》」』】…—")
def test_marks_named_by_the_standard(mark):
    before = mark if mark in "…—" else "字"
    assert not may_break(before, mark)


TEXT = st.text(alphabet='字文，。！”“（）《》…— aB3."', min_size=1, max_size=60)


@given(text=TEXT, limit=st.integers(2, 9), hanging=st.integers(0, 2))
def test_no_character_is_lost_and_no_line_too_long(text, limit, hanging):
    broken = lines(text, limit, hanging=hanging)
    assert "".join(broken) == text
    for line in broken:
        assert line
        assert len(line.rstrip()) <= limit + hanging


@given(text=TEXT, limit=st.integers(2, 9))
def test_a_line_starts_with_a_mark_only_if_the_one_before_had_no_break(text, limit):
    broken = lines(text.replace('"', ""), limit)
    for line, after in itertools.pairwise(broken):
        if after[0] in NEVER_FIRST or line[-1] in NEVER_LAST:
            assert not any(may_break(a, b) for a, b in itertools.pairwise(line))
