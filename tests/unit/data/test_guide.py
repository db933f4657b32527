"""The guide allows exactly the valid scores, whatever their range."""

from collections.abc import Callable

import pytest

from aes.data.guide import ScoreGuide
from aes.data.processor import Processor

RANGES = [(0, 20), (0, 100), (5, 12), (10, 12), (100, 101), (0, 9)]


def _reachable(guide: ScoreGuide, name: str, *, feedback: bool) -> list[str]:
    """All strings that can be written by following the guide to an end."""
    found, stack = [], [""]
    while stack:
        prefix = stack.pop()
        step = guide.step(name, prefix, feedback=feedback)
        if step.end is not None:
            found.append(prefix)
        stack += [prefix + digit for digit in step.next_digit]
    return found


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("feedback", [False, True])
def test_walking_reaches_exactly_the_valid_scores(
    processor: Processor, low: int, high: int, feedback: bool
) -> None:
    guide = ScoreGuide(processor.tokenizer, {"first": (low, high), "last": (low, high)})
    for name in guide.ranges:
        reached = _reachable(guide, name, feedback=feedback)
        assert sorted(reached, key=int) == [str(score) for score in range(low, high + 1)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_no_step_is_empty_and_open_prefixes_can_grow(
    processor: Processor, low: int, high: int
) -> None:
    guide = ScoreGuide(processor.tokenizer, {"a": (low, high)})
    assert (guide.table >= 0).any(dim=1).all()
    scores = [str(score) for score in range(low, high + 1)]
    growing = {s[:k] for s in scores for k in range(1, len(s))}
    assert set(guide.open_prefixes("a")) == growing


def test_table_rows_are_the_steps(processor: Processor) -> None:
    guide = processor.guide
    for feedback in (False, True):
        for name, prefix in [
            ("content", ""),
            ("content", "1"),
            ("content", "20"),
            ("language", "8"),
        ]:
            step = guide.step(name, prefix, feedback=feedback)
            row = [token for token in guide.table[step.index].tolist() if token >= 0]
            assert tuple(row) == step.allowed


def test_the_end_is_the_first_token_behind_the_score(processor: Processor) -> None:
    def first(text: str) -> int:
        return int(processor.tokenizer.encode(text, add_special_tokens=False)[0])

    guide = processor.guide
    assert guide.step("content", "7", feedback=False).end == first(',"language":')
    assert guide.step("language", "9", feedback=False).end == first("}}")
    assert guide.step("language", "9", feedback=True).end == first('},"feedback":"')


def test_zero_never_leads(make_processor: Callable[..., Processor]) -> None:
    guide = make_processor({"a": (0, 100)}).guide
    assert guide.step("a", "0", feedback=False).next_digit == {}
    assert set(guide.step("a", "10", feedback=False).next_digit) == {"0"}


def test_a_tokenizer_that_joins_digits_is_refused() -> None:
    class Pairs:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [1, 2]

    with pytest.raises(ValueError, match=r"digit by digit; use a model with Qwen's vocabulary"):
        ScoreGuide(Pairs(), {"a": (0, 9)})
