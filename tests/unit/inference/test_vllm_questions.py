"""What is asked of vLLM: a form for comments, and the arithmetic of scores."""

import math
from typing import Any

import pytest
from llguidance import LLMatcher

from aes.data.processor import Processor
from aes.inference.grammar import Grammar, grammar_tokenizer
from aes.inference.vllm_questions import comment_pattern
from aes.inference.vllm_scores import among_valid, distribution_of, places, rounded_mean, ways
from aes.prompt import AnswerSchema

LIMIT = 6


@pytest.fixture(scope="module")
def by_pattern(processor: Processor) -> Any:
    return LLMatcher(
        grammar_tokenizer(processor), LLMatcher.grammar_from_regex(comment_pattern(LIMIT))
    )


@pytest.fixture(scope="module")
def by_schema(processor: Processor) -> tuple[Grammar, str]:
    schema = AnswerSchema(ranges=processor.guide.ranges, feedback=True)
    begun = "".join(text for text, _ in schema.segments({"content": 20, "language": 8})[:-1])
    return Grammar(processor, schema.json_schema(LIMIT)), begun


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "语句通顺，好",
        "abcdef",
        "abcdefg",
        r"a\nb\"c",
        r"\\\\\\\\\\\\",
        r"a\tb",
        r"é",
        r"a\/b",
        "a\tb",
        "a\nb",
        "a\x7fb",
        "a\x9fb",
        "a\u00a0b",
        "🎋🎋🎋🎋🎋🎋",
        "🎋🎋🎋🎋🎋🎋🎋",
        'a"b',
        "a\\",
    ],
)
def test_the_pattern_of_a_comment_says_what_the_schema_says(
    by_pattern: Any, by_schema: tuple[Grammar, str], processor: Processor, comment: str
) -> None:
    words, (grammar, begun) = grammar_tokenizer(processor), by_schema
    tail = words.tokenize_str(f'{comment}"}}')
    matcher = by_pattern.deep_copy()
    taken = matcher.try_consume_tokens(tail) == len(tail) and matcher.is_accepting()
    written = grammar.start()
    written.append(words.tokenize_str(begun))
    allowed = all(written.accept([token]) for token in tail) and written.is_whole
    assert taken == allowed


def test_a_distribution_is_the_product_of_its_digits(processor: Processor) -> None:
    """Of 8 to 12: 1 must be followed, 8 and 9 must end."""
    guide = processor.guide
    after = {"": among_valid({"1": 0.0, "8": 1.0, "9": 2.0}), "1": {"0": -1.0, "1": -2.0, "2": -3}}
    after["1"] = among_valid(after["1"])
    shares = distribution_of(after, 8, 12)
    assert places(guide, "language", "constrained") == ("", "1")
    assert sum(shares) == pytest.approx(1)
    assert shares[1] == pytest.approx(math.exp(2) / (1 + math.exp(1) + math.exp(2)))
    assert shares[2] / shares[3] == pytest.approx(math.e)
    assert rounded_mean(8, (0.5, 0.5, 0.0, 0.0, 0.0)) == 9
    assert set(ways(guide.step("language", "1", feedback=False))) == {"0", "1", "2"}


def test_every_beginning_counts_for_the_models_own_distribution(processor: Processor) -> None:
    found = places(processor.guide, "language", "model")
    assert set(found) == {"", "1", "8", "9", "10", "11", "12"}
    assert found[0] == ""
