"""The grammar: what it allows, against the guide, the schema and whatever a model may want."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aes.data.guide import ScoreGuide
from aes.data.processor import Processor
from aes.inference.engine import Engine
from aes.inference.grammar import Grammar, Written
from aes.kernels.words import FromLogits
from aes.prompt import AnswerSchema
from aes.prompt.build import ExampleBuilder
from aes.records import Example

RANGES = {"content": (0, 20), '语"言': (8, 12), "whole": (0, 100), "one": (3, 3)}
HEAD = '{"scores":{"content":7,"language":9},"feedback":"'


@pytest.fixture(scope="module")
def grammar(processor: Processor) -> Grammar:
    schema = AnswerSchema(ranges=processor.guide.ranges, feedback=True)
    return Grammar(processor, schema.json_schema(12))


def _tokens(processor: Processor, text: str) -> list[int]:
    return list(processor.tokenizer.encode(text, add_special_tokens=False))


def _begin(grammar: Grammar, processor: Processor, text: str = HEAD) -> Written:
    written = grammar.start()
    written.append(_tokens(processor, text))
    return written


@pytest.mark.parametrize("feedback", [False, True])
def test_the_guide_allows_what_the_grammar_allows(processor: Processor, feedback: bool) -> None:
    """At each position of each score, of all single digits and all that may end a score."""
    guide = ScoreGuide(processor.tokenizer, RANGES)
    schema = AnswerSchema(ranges=RANGES, feedback=feedback)
    grammar = Grammar(processor, schema.json_schema(50))
    steps = [
        (name, prefix, guide.step(name, prefix, feedback=feedback))
        for name, (low, high) in RANGES.items()
        for prefix in {str(s)[:k] for s in range(low, high + 1) for k in range(len(str(s)) + 1)}
    ]
    single = {*guide.digits.values(), *(step.end for *_, step in steps if step.end is not None)}
    for name, prefix, step in steps:
        written = grammar.start()
        for trait, lead in schema.leads():
            score = prefix if trait == name else str(RANGES[trait][1])
            written.append([*_tokens(processor, lead), *(guide.digits[d] for d in score)])
            if trait == name:
                break
        allowed = set(written.allowed().nonzero().flatten().tolist())
        assert single & allowed == set(step.allowed), (name, prefix)


def test_gold_answers_follow_schema_and_grammar(processor: Processor) -> None:
    for feedback in (False, True):
        schema = AnswerSchema(ranges=RANGES, feedback=feedback)
        form = schema.json_schema(20)
        jsonschema.Draft202012Validator.check_schema(form)
        scores = {name: low for name, (low, _) in RANGES.items()}
        text = "".join(t for t, _ in schema.segments(scores, '写得"好"\\。\n第二段'))
        jsonschema.validate(json.loads(text), form)
        written = _begin(Grammar(processor, form), processor, text)
        assert written.is_whole
        assert written.text() == text
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(text) | {"total": 1}, form)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"scores": scores | {"one": 4}}, form)


@pytest.mark.parametrize(
    "text",
    [
        ' {"scores"',
        '{"scores": {',
        '{"scores":{"language"',
        '{"scores":{"content":21',
        '{"scores":{"content":07',
        '{"scores":{"content":-1',
        HEAD + "十二个字是不能再长的了。多",
        HEAD + "\n",
        HEAD + "\x7f",
        HEAD + "\x85",
        HEAD + "\\u0007",
        HEAD + '"}\n',
    ],
)
def test_what_the_schema_has_not_is_refused(
    grammar: Grammar, processor: Processor, text: str
) -> None:
    with pytest.raises(AssertionError, match="must follow"):
        _begin(grammar, processor, text)


def test_no_special_token_and_no_unknown_word_is_ever_allowed(
    grammar: Grammar, processor: Processor
) -> None:
    written = _begin(grammar, processor)
    for _ in range(4):
        assert not written.allowed()[processor.pad_token :].any()
        for token in (processor.end_token, processor.image_token, len(processor.tokenizer) + 5):
            with pytest.raises(AssertionError, match="must follow"):
                written.append([token])
        written.append(_tokens(processor, "好"))


def test_choosing_is_the_likeliest_of_the_allowed(grammar: Grammar, processor: Processor) -> None:
    generator = torch.Generator().manual_seed(3)
    for number in range(6):
        asked, masked = _begin(grammar, processor), _begin(grammar, processor)
        for _ in range(8):
            # The model's vocabulary is larger than the tokenizer's.
            logits = torch.randn(151_936, generator=generator)
            logits[151_643 + number :] += 9
            if asked.is_settled:
                break
            allowed = torch.nn.functional.pad(masked.allowed(), (0, 256))
            likeliest = int(logits.masked_fill(~allowed, -torch.inf).argmax())
            found = FromLogits(logits[None])
            assert asked.choose(found.words[0], partial(found.among, 0)) == likeliest
            masked.append([likeliest])


@pytest.mark.parametrize(
    ("tokens", "comment"),
    [
        ("好", "好"),
        ("😀", "😀"),
        ("\\", ""),
        ("好\\n", "好\n"),
        ('好\\"', '好"'),
        ('好"', "好"),
        ('好"}', "好"),
        ("十二个字是不能再长的了。", "十二个字是不能再长的了。"),
    ],
)
def test_closing_keeps_what_is_whole(
    grammar: Grammar, processor: Processor, tokens: str, comment: str
) -> None:
    written = _begin(grammar, processor, HEAD + tokens)
    written.close()
    assert json.loads(written.text())["feedback"] == comment
    assert written.is_whole


def test_a_half_character_is_taken_back(grammar: Grammar, processor: Processor) -> None:
    pieces = _tokens(processor, "好龘")
    assert len(pieces) > 2, "the character must be of several tokens"
    for keep in range(1, len(pieces)):
        written = _begin(grammar, processor)
        written.append(pieces[:keep])
        written.close()
        assert json.loads(written.text())["feedback"] == "好"


@given(seed=st.integers(0, 2**32 - 1), length=st.integers(0, 14))
@settings(max_examples=25, deadline=None)
def test_any_walk_through_the_grammar_can_be_closed(
    grammar: Grammar, processor: Processor, seed: int, length: int
) -> None:
    rng, written = np.random.default_rng(seed), _begin(grammar, processor)
    for _ in range(length):
        if written.is_settled:
            break
        written.append([int(rng.choice(written.allowed().nonzero().flatten().numpy()))])
    written.close()
    schema = AnswerSchema(ranges=processor.guide.ranges, feedback=True)
    data = json.loads(written.text())
    jsonschema.validate(data, schema.json_schema(12))
    assert written.text() == "".join(
        t for t, _ in schema.segments(data["scores"], data["feedback"])
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_answers_are_always_valid_whatever_the_model_wants(
    make_engine: Callable[..., Engine],
    builder: ExampleBuilder,
    essays: Any,
    sure_nano: Any,
    steer: Callable[..., None],
    processor: Processor,
    seed: int,
) -> None:
    """It longs for special and unknown words, quotes, escapes, controls and half characters."""
    words = [
        *_tokens(processor, '"\\\x07\x7f\n\r\t{}\x85'),
        *_tokens(processor, "😀🧑🏽龘龘"),
        *range(151_640, 151_936),
    ]
    generator = torch.Generator().manual_seed(seed)

    def tempt(out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out += out.std() * 2 * torch.randn(out.shape, generator=generator)
        out[:, words] += out.std() * 3 * torch.rand(len(out), len(words), generator=generator)
        return out

    steer(tempt)
    examples: list[Example] = [builder.build(essay) for essay in essays]
    engine = make_engine(batch_size=7, max_feedback_chars=9, max_feedback_tokens=14)
    answers = list(engine.answer(examples))
    assert [a.id for a in answers] == [e.id for e in examples]
    for example, answer in zip(examples, answers, strict=True):
        schema = builder.schema(feedback=example.asks_feedback)
        jsonschema.validate(json.loads(answer.text), schema.json_schema(9))
        parsed = schema.parse(answer.text)
        assert not parsed.error
        assert not any(ord(char) < 32 and char != "\n" for char in parsed.feedback)
    assert len({a.text for a in answers}) > 4
