"""Free text, comments, streams and unconstrained answers: what the model writes by itself."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aes.data.processor import Processor
from aes.grading import read_answer
from aes.inference.engine import Engine
from aes.records import Example
from aes.rubric import Rubric

Maker = Callable[..., Any]


def _greedy(brute_force: Any, example: Example, begin: list[int], num_tokens: int) -> list[int]:
    """The likeliest tokens one after the other, the end token included where it comes."""
    written: list[int] = []
    known = len(brute_force.processor.tokenizer)
    for _ in range(num_tokens):
        logits = brute_force.next_logits(example, [*begin, *written])
        written.append(int(logits[:known].argmax()))
        if written[-1] == brute_force.processor.end_token:
            break
    return written


def test_free_text_is_what_greedy_decoding_writes(
    make_engine: Maker, make_brute_force: Maker, questions: list[Example]
) -> None:
    brute_force = make_brute_force()
    answers = list(make_engine(batch_size=4).answer(questions))
    for example, answer in zip(questions, answers, strict=True):
        written = _greedy(brute_force, example, [], 6)
        text = brute_force.processor.tokenizer.decode(written, skip_special_tokens=True)
        assert (answer.id, answer.text) == (example.id, text.replace("\ufffd", ""))
        assert not answer.distributions


def test_a_comment_is_what_greedy_decoding_writes(
    make_engine: Maker, make_brute_force: Maker, examples: list[Example]
) -> None:
    """Whatever the neighbours do: others in the batch ask for none, or stop earlier."""
    brute_force = make_brute_force()
    answers = list(make_engine(batch_size=4, max_feedback_tokens=4).answer(examples))
    for example, answer in zip(examples, answers, strict=True):
        if not example.asks_feedback:
            continue
        scores = json.loads(answer.text)["scores"]
        pieces = ['{"scores":{"content":', *str(scores["content"]), ',"language":']
        pieces += [*str(scores["language"]), '},"feedback":"']
        begin = [token for piece in pieces for token in brute_force.tokens(piece)]
        free = brute_force.processor.tokenizer.decode(_greedy(brute_force, example, begin, 4))
        assert '"' not in free, "this nano was to write a comment without any"
        assert answer.text == "".join(pieces) + free + '"}'


def test_like_kinds_are_decoded_together_and_order_is_kept(
    make_engine: Maker, examples: list[Example], questions: list[Example]
) -> None:
    mixed = [e for pair in zip(examples, questions, strict=True) for e in pair]
    apart = {
        a.id: a
        for kind in (examples, questions)
        for a in make_engine(batch_size=4).answer(kind, scores_only=True)
    }
    together = list(make_engine(batch_size=4).answer(mixed, scores_only=True))
    assert [a.id for a in together] == [e.id for e in mixed]
    assert [a.text for a in together] == [apart[e.id].text for e in mixed]


def test_the_stream_is_the_answer_in_pieces(make_engine: Maker, questions: list[Example]) -> None:
    engine: Engine = make_engine(batch_size=1)
    for example, answer in zip(questions, engine.answer(questions), strict=True):
        pieces = list(engine.stream(example))
        assert "".join(pieces) == answer.text
        assert len(pieces) > 1
        assert all(pieces)


def test_a_graded_answer_streams_in_one_piece(make_engine: Maker, examples: list[Example]) -> None:
    engine: Engine = make_engine()
    assert list(engine.stream(examples[1])) == [a.text for a in engine.answer([examples[1]])]


def _write(steer: Maker, tokens: list[int]) -> None:
    """Make the model write these tokens, the last of them for ever."""
    rest = list(tokens)

    def force(out: torch.Tensor) -> torch.Tensor:
        forced = torch.zeros_like(out)
        forced[:, rest.pop(0) if len(rest) > 1 else rest[0]] = 9
        return forced

    steer(force)


def test_no_half_character_is_given(
    make_engine: Maker, questions: list[Example], processor: Processor, steer: Maker
) -> None:
    text = "龘😀好龘a"
    tokens = processor.tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > len(text)
    _write(steer, [*tokens, processor.end_token])
    pieces = list(make_engine(max_answer_tokens=99).stream(questions[0]))
    assert "".join(pieces) == text
    assert len(pieces) == len(text)


def test_broken_and_special_bytes_leave_nothing(
    make_engine: Maker, questions: list[Example], processor: Processor, steer: Maker
) -> None:
    first_half = processor.tokenizer.encode("龘", add_special_tokens=False)[0]
    good = processor.tokenizer.encode("好", add_special_tokens=False)
    _write(steer, [first_half, *good, processor.image_token, 151_900, *good, first_half])
    (answer,) = make_engine(max_answer_tokens=8).answer(questions[:1])
    assert answer.text == "好!好"  # the likeliest known word stands for one that nobody knows


def test_control_characters_never_reach_a_terminal(
    make_engine: Maker, questions: list[Example], processor: Processor, steer: Maker
) -> None:
    text = "好\x1b[2J\x07\x00a\r\x7f\x85\x9b1m\n\t龘"
    _write(
        steer, [*processor.tokenizer.encode(text, add_special_tokens=False), processor.end_token]
    )
    pieces = list(make_engine(max_answer_tokens=99).stream(questions[0]))
    assert "".join(pieces) == "好[2Ja1m\n\t龘"
    assert all(pieces)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|endoftext|>"])
def test_an_end_token_ends_free_text(
    make_engine: Maker, questions: list[Example], processor: Processor, steer: Maker, token: str
) -> None:
    good = processor.tokenizer.encode("好", add_special_tokens=False)
    _write(steer, [*good, processor.tokenizer.convert_tokens_to_ids(token)])
    assert list(make_engine(max_answer_tokens=50).stream(questions[2])) == ["好"]


def test_a_comment_that_ends_is_heard_and_its_row_leaves(
    make_engine: Maker,
    examples: list[Example],
    processor: Processor,
    steer: Maker,
    count_passes: list[int],
) -> None:
    good, close = (processor.tokenizer.encode(t, add_special_tokens=False) for t in ("好", '"'))
    _write(steer, [*good, *good, *close])
    (answer,) = make_engine(max_feedback_tokens=50).answer([examples[1]])
    assert json.loads(answer.text)["feedback"] == "好好"
    # Prompt, two traits, the fixed text before the comment, and two of its three tokens.
    assert len(count_passes) == 6


def test_feedback_closes_at_its_limits(
    make_engine: Maker, examples: list[Example], processor: Processor, steer: Maker
) -> None:
    _write(steer, processor.tokenizer.encode("好", add_special_tokens=False))
    for tokens, chars, length in ((3, 9, 3), (9, 3, 3), (9, 9, 9)):
        engine = make_engine(max_feedback_tokens=tokens, max_feedback_chars=chars)
        (answer,) = engine.answer([examples[1]])
        assert json.loads(answer.text)["feedback"] == "好" * length


def test_unconstrained_answers_are_the_models_own(
    make_engine: Maker, make_brute_force: Maker, examples: list[Example], small_rubric: Rubric
) -> None:
    brute_force = make_brute_force()
    engine = make_engine(constrained=False, batch_size=4)
    for scores_only in (False, True):
        answers = list(engine.answer(examples, scores_only=scores_only))
        for example, answer in zip(examples, answers, strict=True):
            written = _greedy(brute_force, example, [], 6)
            text = brute_force.processor.tokenizer.decode(written, skip_special_tokens=True)
            assert answer.text == text.replace("\ufffd", "")
            grade = read_answer(answer, small_rubric)
            assert grade.parse_error
            assert grade.raw == answer.text


def test_an_unconstrained_answer_that_can_be_read_is_read(
    make_engine: Maker,
    examples: list[Example],
    processor: Processor,
    steer: Maker,
    small_rubric: Rubric,
) -> None:
    text = ' {"scores": {"content": 7, "language": 9}}'
    tokens = processor.tokenizer.encode(text, add_special_tokens=False)
    _write(steer, [*tokens, processor.end_token])
    (answer,) = make_engine(constrained=False, max_answer_tokens=99).answer(examples[:1])
    assert answer.text == text
    assert read_answer(answer, small_rubric).scores == {"content": 7, "language": 9}
