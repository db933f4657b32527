"""What a free text is read as, where it should be one of some choices."""

import pytest

from aes.prompt.choices import read_choice

CHOICES = ("春天", "春天的公园", "A", "𠮷野家的牛肉饭", "记叙文")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("春天", "春天"),
        (" 春天。\n", "春天"),
        ("“春天的公园”", "春天的公园"),
        ("ａ", "A"),
        ("春天 公园", None),
        ("我认为是春天", None),
        ("", None),
        ("。", None),
    ],
)
def test_a_free_text_is_read_if_it_says_nothing_else(text: str, choice: str | None) -> None:
    assert read_choice(text, CHOICES) == choice


def test_what_may_be_either_is_read_as_neither() -> None:
    assert read_choice("a.", ("A", "a")) is None
    assert read_choice("a", ("A", "a")) == "a"
    assert read_choice("?", ("?", "!")) == "?"
