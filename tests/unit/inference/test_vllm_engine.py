"""vLLM's engine over a server that runs the nano: the same answers as the model loaded here."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_vllm import Contrary, FakeVllm, Words

from aes.data.processor import Processor
from aes.inference import DecodingSpec
from aes.inference.engine import Engine
from aes.inference.vllm_engine import VllmEngine
from aes.inference.vllm_hosts import Hosts
from aes.inference.vllm_http import HttpClient
from aes.inference.vllm_server import ServerBackend
from aes.prompt import AnswerSchema
from aes.prompt.build import ExampleBuilder
from aes.records import Answer, Essay, Example

Maker = Callable[..., Any]


@pytest.fixture(scope="module")
def words(sure_nano: Any, processor: Processor) -> Words:
    return Words(sure_nano, processor)


@pytest.fixture
def served(words: Words) -> Iterator[FakeVllm]:
    with FakeVllm({"base": words, "aes": words}) as fake:
        yield fake


@pytest.fixture(scope="module")
def make_vllm(
    processor: Processor, builder: ExampleBuilder, read_conf: Callable[..., Any]
) -> Callable[..., VllmEngine]:
    def make(*urls: str, max_in_flight: int = 4, key: str | None = None, **keys: Any) -> VllmEngine:
        keys = {"max_feedback_tokens": 5, "max_answer_tokens": 6} | keys
        client = HttpClient(key=key, timeout_s=60, trust_environment=False)
        hosts = Hosts(urls, client, num_retries=2, max_under_way=max_in_flight)
        return VllmEngine(
            backend=ServerBackend(hosts, processor=processor, adapter="aes", base_model=None),
            processor=processor,
            renderer=builder.renderer,
            decoding=DecodingSpec(**read_conf("decoding/expected", **keys)),
            max_in_flight=max_in_flight,
        )

    return make


def same(found: list[Answer], expected: list[Answer]) -> None:
    assert [a.id for a in found] == [a.id for a in expected]
    assert [a.error for a in found] == [""] * len(found)
    assert [a.text for a in found] == [a.text for a in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.distributions.keys() == other.distributions.keys()
        for name, shares in one.distributions.items():
            # Logits of the sure nano are in the hundreds.
            assert shares == pytest.approx(other.distributions[name], abs=1e-4)


@pytest.mark.parametrize(("distribution", "scores_only"), [("constrained", False), ("model", True)])
def test_same_answers_and_distributions_as_the_model_loaded_here(
    make_vllm: Maker,
    make_engine: Maker,
    served: FakeVllm,
    examples: list[Example],
    distribution: str,
    scores_only: bool,
) -> None:
    here: Engine = make_engine(distribution=distribution)
    there = make_vllm(served.url, distribution=distribution)
    found = list(there.answer(examples, scores_only=scores_only))
    same(found, list(here.answer(examples, scores_only=scores_only)))


def test_free_answers_are_the_same_and_come_in_pieces(
    make_vllm: Maker, make_engine: Maker, served: FakeVllm, questions: list[Example]
) -> None:
    here, there = make_engine(), make_vllm(served.url)
    expected = list(here.answer(questions))
    same(list(there.answer(questions)), expected)
    pieces = [list(there.stream(question)) for question in questions]
    assert ["".join(found) for found in pieces] == [answer.text for answer in expected]
    assert max(map(len, pieces)) > 1


def test_greedy_writes_the_whole_answer_in_one_request(
    make_vllm: Maker, served: FakeVllm, examples: list[Example], processor: Processor
) -> None:
    examples = examples[:2]
    answers = list(make_vllm(served.url, score="greedy", max_feedback_tokens=2).answer(examples))
    assert len(served.bodies) == len(examples)
    for answer, body, example in zip(answers, served.bodies, examples, strict=False):
        assert body["response_format"]["type"] == "json_schema"
        assert not answer.distributions
        schema = AnswerSchema(ranges=processor.guide.ranges, feedback=example.asks_feedback)
        parsed = schema.parse(answer.text)
        assert not parsed.error
        begun = "".join(text for text, _ in schema.segments(parsed.scores)[:-1])
        assert answer.text.startswith(begun), "compact, as it is trained"
        num_tokens = len(processor.tokenizer.encode(parsed.feedback))
        assert 0 < num_tokens <= 4 or not example.asks_feedback
    (only,) = make_vllm(served.url, score="greedy").answer(examples[1:], scores_only=True)
    assert AnswerSchema(processor.guide.ranges, feedback=True).parse(only.text).feedback == ""
    assert only.text.startswith(answers[1].text.partition("feedback")[0])


def test_the_base_answers_without_the_adapter(
    make_vllm: Maker, words: Words, processor: Processor, examples: list[Example]
) -> None:
    base = Contrary(words.model, processor)
    with FakeVllm({"base": base, "aes": words}) as fake:
        engine = make_vllm(fake.url)
        (with_it,) = engine.answer(examples[:1], scores_only=True)
        with engine.without_adapter():
            (without,) = engine.answer(examples[:1], scores_only=True)
        assert list(engine.answer(examples[:1], scores_only=True)) == [with_it]
    assert without.distributions != with_it.distributions
    assert not without.error
    assert {body["model"] for body in fake.bodies} == {"base", "aes"}


def test_special_tokens_in_an_essay_stay_harmless(
    make_vllm: Maker, make_engine: Maker, served: FakeVllm, builder: ExampleBuilder
) -> None:
    example = builder.build(Essay(id="x", text="花", topic="<|im_end|>\n<|image_pad|>"))
    found = list(make_vllm(served.url).answer([example], scores_only=True))
    same(found, list(make_engine().answer([example], scores_only=True)))


def test_answers_come_in_input_order_and_few_are_under_way(
    make_vllm: Maker, words: Words, examples: list[Example]
) -> None:
    """The first essay waits longest."""
    taken: list[str] = []

    def source() -> Iterator[Example]:
        for example in examples * 2:
            taken.append(example.id)
            yield example

    with FakeVllm({"aes": words}, delay_s=lambda number: 0.3 if not number else 0.0) as fake:
        engine = make_vllm(fake.url, max_in_flight=3)
        found = engine.answer(source(), scores_only=True)
        assert next(found).id == examples[0].id
        assert [a.id for a in found] == [e.id for e in (examples * 2)[1:]]
        assert 2 <= fake.most_under_way <= 3
    assert len(taken) == 8


def test_examples_are_taken_when_there_is_room(
    make_vllm: Maker, served: FakeVllm, examples: list[Example]
) -> None:
    taken: list[int] = []

    def source() -> Iterator[Example]:
        for number in range(50):
            taken.append(number)
            yield examples[0]

    found = make_vllm(served.url, max_in_flight=2).answer(source(), scores_only=True)
    next(found)
    assert len(taken) <= 4
    found.close()


def test_an_interrupt_leaves_nothing_behind(
    make_vllm: Maker, words: Words, examples: list[Example]
) -> None:
    """Nor does whoever stops asking."""

    def threads() -> int:  # the server's own are daemons
        return sum(not thread.daemon for thread in threading.enumerate())

    with FakeVllm({"aes": words}, delay_s=lambda number: 0.2) as fake:
        engine, before = make_vllm(fake.url), threads()

        def source() -> Iterator[Example]:
            yield examples[0]
            time.sleep(0.05)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(engine.answer(source(), scores_only=True))
        assert threads() == before
        found = engine.answer(examples, scores_only=True)
        next(found)
        found.close()
        assert threads() == before


def test_a_signal_ends_the_wait_for_answers(
    make_vllm: Maker, words: Words, examples: list[Example]
) -> None:
    """Ctrl-C while nothing but servers is waited for."""
    with FakeVllm({"aes": words}, delay_s=lambda number: 3.0) as fake:
        engine = make_vllm(fake.url)
        signaller = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        signaller.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(engine.answer(examples, scores_only=True))
        assert time.monotonic() - started < 3.0
        signaller.join()


def test_of_choices_the_server_writes_one(
    make_vllm: Maker, served: FakeVllm, questions: list[Example]
) -> None:
    choices = ("记叙文", "A+ (好)", "议论文")
    asked = [replace(question, choices=choices) for question in questions[1:3]]
    answers = list(make_vllm(served.url).answer(asked))
    assert [answer.error for answer in answers] == ["", ""]
    assert {answer.text for answer in answers} <= set(choices)
    assert "".join(make_vllm(served.url).stream(asked[0])) == answers[0].text
