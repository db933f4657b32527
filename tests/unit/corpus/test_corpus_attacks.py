"""Attacked copies hold what their names say, and the honest essay stays as it was."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from aes.corpus import load_sample
from aes.corpus.attacks import (
    PLACES,
    attack_essay,
    choose_far_topic,
    copy_prompt,
    goal_of,
    insert_order,
    load_words,
    pad,
)
from aes.records import Essay

SAMPLE = load_sample()
TASK = "请阅读下文中的学生作文。"


@pytest.mark.parametrize("essay", SAMPLE, ids=lambda essay: essay.id)
def test_attacks_have_names_of_their_own_and_spare_the_original(essay: Essay) -> None:
    before = replace(essay)
    attacked = attack_essay(essay, task=TASK, seed=1)
    assert essay == before
    assert len({a.id for a in attacked} | {essay.id}) == len(attacked) + 1 == 5 * 3 + 3 + 1
    for copy in attacked:
        assert copy.id == f"{essay.id}~{copy.operation}"
        assert (copy.source, copy.title, copy.topic) == (essay.id, essay.title, essay.topic)
        assert copy.text != essay.text
        assert not copy.scores
        assert not copy.comment
    assert attacked == attack_essay(essay, task=TASK, seed=1)


def test_an_order_is_a_paragraph_at_its_place() -> None:
    for essay in SAMPLE:
        texts = {a.operation: a.text for a in attack_essay(essay, task=TASK, seed=1)}
        for number, order in enumerate(load_words()["orders"], start=1):
            begin, middle, end = (texts[f"order/text/w{number}/{place}"] for place in PLACES)
            assert begin == f"{order}\n{essay.text}"
            assert end == f"{essay.text}\n{order}"
            first, second = middle.split(f"\n{order}\n")
            assert "".join((first + second).split()) == "".join(essay.text.split())
            # The nearest break is off the middle by at most half the longest paragraph.
            longest = max(map(len, essay.text.split("\n")))
            assert abs(len(first) - len(second)) <= longest + 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("甲。乙。丙。丁。", "甲。乙。\n令\n丙。丁。"),
        ("甲。\n乙。\n丙。\n丁。", "甲。\n乙。\n令\n丙。\n丁。"),
        ("没有句号", "没有句号\n令"),
    ],
)
def test_the_middle_is_a_break_between_paragraphs_or_sentences(text: str, expected: str) -> None:
    assert insert_order(text, "令", "middle") == expected


def test_padding_adds_half_in_empty_phrases() -> None:
    longest = max(map(len, load_words()["padding"]))
    for essay in SAMPLE:
        padded = pad(essay.text, random.Random(0))
        assert padded.startswith(essay.text + "\n")
        added = len(padded) - len(essay.text) - 1
        assert 0 <= added - 0.5 * len(essay.text) < longest
    assert pad("短", random.Random(0)) != pad("短", random.Random(5))


def test_a_copied_prompt_is_as_long_as_the_essay_and_nothing_else() -> None:
    assert copy_prompt("写春天", num_chars=11) == "写春天\n写春天\n写春天"
    assert copy_prompt("写春天", num_chars=1) == "写春天"
    untold = replace(SAMPLE[0], topic="")
    copied = {a.operation: a.text for a in attack_essay(untold, task=TASK, seed=1)}["copied_prompt"]
    assert set(copied.split("\n")) == {TASK}
    assert len(copied) >= len(untold.text) - 1


def test_duplication_says_all_twice() -> None:
    for essay in SAMPLE[:3]:
        text = {a.operation: a.text for a in attack_essay(essay, task=TASK, seed=1)}["duplication"]
        twice = {line: 2 * n for line, n in Counter(essay.text.split("\n")).items()}
        assert Counter(text.split("\n")) == twice


def test_a_far_topic_is_the_least_alike_of_the_others() -> None:
    essay = Essay(id="e", topic="写写父亲的手", text="父亲的手很粗糙。")
    near, far = "写写母亲的手", "谈谈科技进步"
    assert choose_far_topic(essay, [essay.topic, near, far], seed=1) == far
    assert choose_far_topic(essay, [essay.topic, near], seed=1) == near
    assert choose_far_topic(essay, [essay.topic, ""], seed=1) is None
    assert choose_far_topic(replace(essay, topic=""), [near, far], seed=1) is None


def test_far_topics_of_the_sample_vary_and_are_never_the_own() -> None:
    topics = [essay.topic for essay in SAMPLE]
    chosen = [choose_far_topic(essay, topics, seed=1) for essay in SAMPLE]
    assert len(set(chosen)) > 3
    assert all(a != b for a, b in zip(chosen, topics, strict=True))


def test_words_are_five_orders_and_phrases_that_differ() -> None:
    words = load_words()
    assert len(set(words["orders"])) == 5
    assert len(set(words["padding"])) == len(words["padding"]) >= 12
    assert all("\n" not in order for order in words["orders"])


def test_goals() -> None:
    assert goal_of("order/page/w1/end") == goal_of("white_text/ink4") == "gain"
    assert goal_of("copied_prompt") == goal_of("off_topic") == "unnoticed"
