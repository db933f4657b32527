"""Answers that are one of some texts: against brute force, and what a free text is read as."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from aes.inference.choices import ChoiceTree
from aes.records import Example

Maker = Callable[..., Any]

# One begins like another, one is a single token, one is long and of bytes of characters.
CHOICES = ("春天", "春天的公园", "A", "𠮷野家的牛肉饭", "记叙文")


@pytest.fixture
def labelled(questions: list[Example]) -> list[Example]:
    """The questions, two of them about pages, of which three have choices."""
    return [replace(q, choices=CHOICES) if i != 2 else q for i, q in enumerate(questions)]


def _log_probabilities(brute_force: Any, example: Example) -> list[float]:
    """Of each choice and its end, by a forward pass over the whole sequence of each."""
    found = []
    for choice in CHOICES:
        tokens = [*brute_force.tokens(choice), brute_force.processor.end_token]
        asked = replace(example, answer=(), choices=())
        said = brute_force._forward(asked, tokens, num_last=len(tokens) + 1)
        shares = said[:-1].double().log_softmax(1)
        found.append(float(shares[range(len(tokens)), tokens].sum()))
    return found


def test_probabilities_are_those_of_whole_passes(
    make_engine: Maker, make_brute_force: Maker, labelled: list[Example]
) -> None:
    brute_force = make_brute_force()
    answers = list(make_engine(batch_size=4).answer(labelled))
    assert [a.id for a in answers] == [e.id for e in labelled]
    for example, answer in zip(labelled, answers, strict=True):
        if not example.choices:
            assert not answer.probabilities
            continue
        found = torch.tensor(_log_probabilities(brute_force, example)).double()
        expected = found.softmax(0).tolist()
        assert list(answer.probabilities) == list(CHOICES)
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)
        assert answer.text == CHOICES[int(found.argmax())]


def test_a_label_alone_and_in_a_batch_is_the_same(
    make_engine: Maker, labelled: list[Example]
) -> None:
    together = list(make_engine(batch_size=4).answer(labelled))
    alone = [next(make_engine(batch_size=1).answer([example])) for example in labelled]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert list(one.probabilities.values()) == pytest.approx(
            list(other.probabilities.values()), abs=1e-4
        )


@pytest.mark.parametrize("engine", [{}, {"static_cache": False}])
def test_a_batch_takes_two_passes_whatever_the_choices(
    make_engine: Maker, labelled: list[Example], count_passes: list[int], engine: dict[str, Any]
) -> None:
    asked = [example for example in labelled if example.choices]
    list(make_engine(batch_size=4, engine=engine).answer(asked))
    assert len(count_passes) == 2
    more = [replace(e, choices=(*CHOICES, "说明文", "一篇很长很长的议论文")) for e in asked]
    list(make_engine(batch_size=4, engine=engine).answer(more))
    assert len(count_passes) == 4


def test_the_answer_is_the_likeliest_whole_sequence(
    make_engine: Maker, labelled: list[Example], steer: Callable[..., None], processor: Any
) -> None:
    """The first token of 春天的公园 is the likeliest by far, but not what follows it."""
    first = processor.tokenizer.encode("春天的公园", add_special_tokens=False)
    letter = processor.tokenizer.encode("A", add_special_tokens=False)[0]

    def change(logits: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(logits)
        logits[..., first[0]] = 12
        logits[..., letter] = 11
        logits[..., processor.end_token] = 10
        return logits

    steer(change)
    asked = [replace(e, choices=("春天的公园", "A")) for e in labelled]
    answers = list(make_engine().answer(asked))
    assert {answer.text for answer in answers} == {"A"}


def test_unconstrained_answers_are_free(make_engine: Maker, labelled: list[Example]) -> None:
    free = [replace(example, choices=()) for example in labelled]
    engine = make_engine(constrained=False)
    found = [(a.text, dict(a.probabilities)) for a in engine.answer(labelled)]
    assert found == [(a.text, {}) for a in engine.answer(free)]


def test_a_stream_gives_the_choice_at_once(make_engine: Maker, labelled: list[Example]) -> None:
    engine = make_engine()
    assert list(engine.stream(labelled[0])) == [next(engine.answer(labelled[:1])).text]


def test_beginnings_stand_once_in_the_tree() -> None:
    tree = ChoiceTree([[5, 6, 0], [5, 7, 8, 0], [9, 0], [5, 0]])
    assert [(b.token, b.parent) for b in tree.branches] == [
        (5, -1),
        (6, 0),
        (7, 0),
        (8, 2),
        (9, -1),
    ]
    assert tree.wanted[1].tolist() == [6, 7, 0]
