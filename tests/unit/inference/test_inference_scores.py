"""Scores against brute force, alone and in batches, and in step."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from aes.data.processor import Processor
from aes.inference.engine import Engine
from aes.page import PageSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example

Maker = Callable[..., Any]
RANGES = {"content": (0, 20), "whole": (0, 100), "language": (8, 12)}


@pytest.fixture(scope="module")
def wide(make_processor: Callable[..., Processor]) -> Processor:
    """Scores of one, two and three digits."""
    return make_processor(RANGES)


def test_distributions_equal_brute_force(
    make_engine: Maker, make_brute_force: Maker, examples: list[Example], wide: Processor
) -> None:
    """With and without feedback behind the last score, side by side and of unlike lengths."""
    brute_force = make_brute_force(processor=wide)
    engine: Engine = make_engine(processor=wide, batch_size=2)
    for example, answer in zip(examples[:2], engine.answer(examples[:2]), strict=True):
        scores = json.loads(answer.text)["scores"]
        for name, shares in brute_force.distributions(example, scores).items():
            assert sum(shares) == pytest.approx(1, abs=1e-4)
            assert answer.distributions[name] == pytest.approx(shares, abs=1e-4)
            assert max(shares) > 0.15, "too flat to tell anything"
            mean = sum((RANGES[name][0] + i) * share for i, share in enumerate(shares))
            assert scores[name] == math.floor(mean + 0.5)


def test_the_models_own_distribution_equals_brute_force(
    make_engine: Maker,
    make_brute_force: Maker,
    builder: ExampleBuilder,
    wide: Processor,
    steer: Maker,
) -> None:
    """Every valid score teacher-forced, over the whole vocabulary, normalised once."""
    steer(lambda logits: logits / 5)  # surer of itself, it would never be in two minds
    short = [Essay(id="a", text="我们去公园看花。" * 9), Essay(id="b", text="花。", comment="好")]
    examples = [builder.build(essay) for essay in short]
    brute_force = make_brute_force(processor=wide)
    engine: Engine = make_engine(processor=wide, batch_size=2, distribution="model")
    # The second stands in a padded batch and asks for a comment, by which its last score ends.
    example, (_, answer) = examples[1], engine.answer(examples, scores_only=True)
    scores = json.loads(answer.text)["scores"]
    constrained = brute_force.distributions(example, scores)
    for name, shares in brute_force.distributions(example, scores, of="model").items():
        assert answer.distributions[name] == pytest.approx(shares, abs=1e-4)
        assert max(shares) > 0.1, "too flat to tell anything"
        mean = sum((RANGES[name][0] + i) * share for i, share in enumerate(shares))
        assert scores[name] == math.floor(mean + 0.5)
        pairs = zip(constrained[name], shares, strict=True)
        assert max(abs(one - other) for one, other in pairs) > 1e-3, "one would pass as the other"


def test_greedy_writes_the_same_whatever_the_distribution(
    make_engine: Maker, examples: list[Example], wide: Processor
) -> None:
    texts, shares = [], []
    for distribution in ("constrained", "model"):
        engine: Engine = make_engine(processor=wide, score="greedy", distribution=distribution)
        answers = list(engine.answer(examples, scores_only=True))
        texts.append([answer.text for answer in answers])
        shares.append([answer.distributions for answer in answers])
    assert texts[0] == texts[1]
    assert shares[0] != shares[1]


def test_greedy_is_the_likeliest_digit_at_each_step(
    make_engine: Maker, make_brute_force: Maker, examples: list[Example], wide: Processor
) -> None:
    engine: Engine = make_engine(processor=wide, batch_size=2, score="greedy")
    brute_force = make_brute_force(processor=wide)
    answers = engine.answer(examples[:2], scores_only=True)
    for example, answer in zip(examples[:2], answers, strict=True):
        scores = json.loads(answer.text)["scores"]
        for name, shares in brute_force.distributions(example, scores).items():
            share = {str(RANGES[name][0] + i): p for i, p in enumerate(shares)}
            digits = ""
            while True:
                ways = {
                    d: sum(p for s, p in share.items() if s.startswith(digits + d))
                    for d in "0123456789"
                }
                best = max(ways, key=ways.__getitem__)
                if share.get(digits, 0) >= ways[best]:
                    break
                digits += best
            assert scores[name] == int(digits)


def test_typed_text_is_scored_without_pages(
    make_engine: Maker,
    make_brute_force: Maker,
    builder: ExampleBuilder,
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    page = PageSpec(**read_conf("page/none", width_px=320, max_height_px=640, min_pixels=65536))
    made = ExampleBuilder(rubric=builder.rubric, prompt=builder.prompt, page=page, seed=1)
    texts = [made.build(Essay(id=str(i), text="花" * (1 + 9 * i), comment="好")) for i in range(3)]
    answers = list(make_engine(renderer=made.renderer, score="greedy").answer(texts))
    assert [a.id for a in answers] == ["0", "1", "2"]
    brute_force = make_brute_force(renderer=made.renderer)
    for example, answer in zip(texts, answers, strict=True):
        scores = json.loads(answer.text)["scores"]
        for name, shares in brute_force.distributions(example, scores).items():
            assert answer.distributions[name] == pytest.approx(shares, abs=1e-4)


def test_alone_or_in_a_batch_the_answer_is_the_same(
    make_engine: Maker, examples: list[Example]
) -> None:
    """Texts are equal; probabilities to 1e-5, since sums are taken in another order."""
    alone = list(make_engine(batch_size=1).answer(examples))
    for size in (3, 4):
        together = list(make_engine(batch_size=size).answer(examples))
        assert [(a.id, a.text) for a in together] == [(a.id, a.text) for a in alone]
        for one, other in zip(alone, together, strict=True):
            for name, shares in one.distributions.items():
                assert other.distributions[name] == pytest.approx(shares, abs=1e-5)


def test_scores_take_the_same_passes_whatever_the_content(
    make_engine: Maker, examples: list[Example], essays: Any, builder: Any, count_passes: list[int]
) -> None:
    """One for the prompts and one a trait, for each batch: ranks of a sharded run stay in step."""
    asking = [builder.build(essay) for essay in essays if essay.comment]
    silent = [builder.build(essay) for essay in essays if not essay.comment]
    for chosen in (examples, asking[:4], silent[:4], examples[:3], asking[:3], silent[:3]):
        for keys in ({}, {"score": "greedy"}, {"distribution": "model"}):
            count_passes.clear()
            engine: Engine = make_engine(**keys, batch_size=2)
            assert len(list(engine.answer(chosen, scores_only=True))) == len(chosen)
            assert len(count_passes) == 2 * (1 + len(builder.rubric.ranges))


def test_scores_alone_leave_the_comment_empty_and_nothing_else(
    make_engine: Maker, examples: list[Example]
) -> None:
    whole = make_engine().answer(examples)
    short = make_engine().answer(examples, scores_only=True)
    for one, other in zip(whole, short, strict=True):
        assert one.distributions == other.distributions
        data = json.loads(one.text)
        if "feedback" in data:
            assert data["feedback"]
            data["feedback"] = ""
        assert json.dumps(data, separators=(",", ":")) == other.text


def test_a_gold_answer_in_the_example_changes_nothing(
    make_engine: Maker, builder: ExampleBuilder
) -> None:
    plain = Essay(id="x", text="春天来了。")
    marked = Essay(id="x", text="春天来了。", scores={"content": 3, "language": 9})
    both = [builder.build(plain), builder.build(marked)]
    one, other = make_engine(batch_size=1).answer(both)
    assert one == other
