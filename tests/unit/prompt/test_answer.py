"""The answer's schema: what is written can be read, and nothing that is read can raise."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aes.prompt import AnswerSchema
from aes.records import FIXED, FREE

RANGES = {"content": (0, 20), '内容 "a\\': (5, 12), "language": (100, 101)}
SCHEMA = AnswerSchema(ranges=RANGES, feedback=True)
SCORES = {"content": 0, '内容 "a\\': 12, "language": 100}

scores = st.fixed_dictionaries({name: st.integers(*span) for name, span in RANGES.items()})


@given(scores, st.text(), st.booleans())
def test_segments_concatenate_to_json_that_reads_back(
    marks: dict[str, int], comment: str, feedback: bool
) -> None:
    schema = AnswerSchema(ranges=RANGES, feedback=feedback)
    text = "".join(piece for piece, _ in schema.segments(marks, comment))
    assert json.loads(text) == {"scores": marks} | ({"feedback": comment} if feedback else {})
    assert list(json.loads(text)["scores"]) == list(RANGES)
    found = schema.parse(text)
    assert (found.scores, found.error) == (marks, "")
    assert found.feedback == (comment if feedback else "")


@given(scores, st.text())
def test_slots_hold_scores_form_and_comment(marks: dict[str, int], comment: str) -> None:
    segments = SCHEMA.segments(marks, comment)
    assert {slot: text for text, slot in segments if slot in RANGES} == {
        name: str(score) for name, score in marks.items()
    }
    fixed = [text for text, slot in segments if slot == FIXED]
    assert fixed == [text for text, slot in SCHEMA.segments(SCORES, "") if slot == FIXED]
    assert [slot for _, slot in segments][-1] == FREE


def test_the_form_without_feedback_is_compact() -> None:
    schema = AnswerSchema(ranges={"a": (0, 9), "b": (0, 20)}, feedback=False)
    text = "".join(piece for piece, _ in schema.segments({"b": 15, "a": 4}, "ignored"))
    assert text == '{"scores":{"a":4,"b":15}}'
    assert schema.shape("评语") == '{"scores":{"a":0-9,"b":0-20}}'


def test_chinese_names_stand_as_they_are_in_prompt_and_answer() -> None:
    schema = AnswerSchema(ranges={"内容": (0, 9)}, feedback=False)
    assert schema.leads() == [("内容", '{"scores":{"内容":')]
    assert schema.shape("评语") == '{"scores":{"内容":0-9}}'


def test_the_shape_names_the_comment() -> None:
    schema = AnswerSchema(ranges={"a": (0, 9)}, feedback=True)
    assert schema.shape("评语") == '{"scores":{"a":0-9},"feedback":"评语"}'


@pytest.mark.parametrize("change", [{"content": 21}, {"content": -1}, {"language": 99}])
def test_gold_scores_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"score of .* must be a whole number from"):
        SCHEMA.segments(SCORES | change)


def test_a_missing_gold_score_is_refused() -> None:
    with pytest.raises(ValueError, match="score of language is None"):
        SCHEMA.segments({k: v for k, v in SCORES.items() if k != "language"})


def _answer(**changes: Any) -> str:
    return json.dumps({"scores": SCORES, "feedback": "好"} | changes)


@pytest.mark.parametrize(
    "value", [21, -1, True, False, 3.0, 3.5, "3", None, [], {}, 10**400, float("nan")]
)
def test_a_score_that_is_no_whole_number_in_range_is_an_error(value: Any) -> None:
    found = SCHEMA.parse(_answer(scores=SCORES | {"content": value}))
    assert found.error == "scores.content is not a whole number in 0-20"
    assert (found.scores, found.feedback) == ({}, "")


@pytest.mark.parametrize("name", list(RANGES))
def test_a_missing_trait_is_an_error(name: str) -> None:
    marks = {k: v for k, v in SCORES.items() if k != name}
    assert name in SCHEMA.parse(_answer(scores=marks)).error


@pytest.mark.parametrize(
    "text",
    ["", "   ", "null", "3", "[]", '"scores"', "{}", '{"scores":3}', '{"scores":[]}', "{", "NaN",
     _answer()[:-1], _answer() + "}", "答案是：" + _answer(), "```json\n" + _answer() + "\n```",
     "[" * 100_000, '{"scores":' * 50_000, "\ud800", _answer(feedback=3), _answer(feedback=None)],
)  # fmt: skip
def test_anything_else_is_an_error_and_never_raises(text: str) -> None:
    found = SCHEMA.parse(text)
    assert found.error
    assert found.scores == {}


@pytest.mark.parametrize("digits", [3, 5000])
def test_huge_numbers_are_an_error(digits: int) -> None:
    # Python refuses to read integers of more than 4300 digits, with a ValueError of its own.
    text = json.dumps({"scores": SCORES}).replace('"content": 0', '"content": ' + "9" * digits)
    assert SCHEMA.parse(text).error


@given(st.text())
def test_random_text_never_raises(text: str) -> None:
    SCHEMA.parse(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["scores", "feedback", *RANGES]), inner, max_size=4
    ),
    max_leaves=8,
)  # fmt: skip


@given(_json)
def test_random_json_never_raises_and_scores_are_always_valid(data: Any) -> None:
    found = SCHEMA.parse(json.dumps(data))
    assert bool(found.error) != bool(found.scores)
    for name, score in found.scores.items():
        assert type(score) is int
        assert RANGES[name][0] <= score <= RANGES[name][1]


@given(scores, st.data())
def test_a_mutated_answer_never_raises(marks: dict[str, int], data: st.DataObject) -> None:
    text = "".join(piece for piece, _ in SCHEMA.segments(marks, '好，\n"通顺"'))
    at = data.draw(st.integers(0, len(text) - 1))
    found = SCHEMA.parse(text[:at] + data.draw(st.text(max_size=2)) + text[at + 1 :])
    assert bool(found.error) != bool(found.scores)
