"""What a model is shown to write a system prompt."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aes.prompt.guidance import GuidanceSpec, ask_for_guidance, choose_samples
from aes.records import FREE, Example, Message


@pytest.fixture
def words(read_conf: Callable[..., dict[str, Any]]) -> GuidanceSpec:
    return GuidanceSpec(**read_conf("guidance/zh", max_chars=20))


def _sample(number: int, label: str) -> Example:
    messages = (Message("system", ("你是助手",)), Message("user", (f"问{number}" + "长" * 30,)))
    return Example(id=str(number), messages=messages, answer=((label, FREE),), kind="text")


SAMPLES = [_sample(n, "AB"[n % 10 == 0]) for n in range(30)]


def test_labels_are_shown_as_evenly_as_can_be() -> None:
    chosen = choose_samples(SAMPLES, num=10, seed=1)
    labels = Counter(sample.answer[0][0] for sample in chosen)
    assert labels == {"A": 7, "B": 3}, "there are no more than three of B"
    assert len({sample.id for sample in chosen}) == 10
    assert choose_samples(SAMPLES, num=10, seed=1) == chosen
    assert choose_samples(SAMPLES, num=10, seed=2) != chosen
    assert len(choose_samples(SAMPLES, num=99, seed=1)) == 30


def test_samples_are_shown_with_their_labels_and_cut_where_they_are_long(
    words: GuidanceSpec,
) -> None:
    question = ask_for_guidance(SAMPLES[:2], ("A", "B"), words)
    (message,) = question.messages
    (text,) = message.parts
    assert isinstance(text, str)
    assert "2 个：A、B" in text and "标签：B" in text
    assert "问1" + "长" * 18 + "……" in text and "长" * 19 not in text
    assert "你是助手" not in text
    assert not question.choices and question.kind == "text"
