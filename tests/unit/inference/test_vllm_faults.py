"""What servers and networks do wrong, against a server that does it."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import fake_vllm
import pytest
from fake_vllm import FakeVllm, Words

import aes.inference.vllm_hosts
from aes.data.processor import Processor
from aes.inference import DecodingSpec
from aes.inference.vllm_addresses import read_key, require_addresses
from aes.inference.vllm_engine import VllmEngine
from aes.inference.vllm_hosts import Hosts
from aes.inference.vllm_http import HttpClient
from aes.inference.vllm_server import ServerBackend
from aes.prompt.build import ExampleBuilder
from aes.records import Answer, Example

Maker = Callable[..., Any]


@pytest.fixture(scope="module")
def words(sure_nano: Any, processor: Processor) -> Words:
    return Words(sure_nano, processor)


@pytest.fixture
def fake(words: Words) -> Iterator[FakeVllm]:
    with FakeVllm({"base": words, "aes": words}) as fake:
        yield fake


@pytest.fixture
def dead_url() -> Iterator[str]:
    """Nobody listens there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture
def make(
    processor: Processor,
    builder: ExampleBuilder,
    read_conf: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., VllmEngine]:
    monkeypatch.setattr(aes.inference.vllm_hosts, "FIRST_WAIT_S", 0.01)

    def make(
        *urls: str,
        num_retries: int = 2,
        timeout_s: float = 30,
        key: str | None = None,
        adapter: str = "aes",
        base_model: str | None = None,
        **keys: Any,
    ) -> VllmEngine:
        client = HttpClient(key=key, timeout_s=timeout_s, trust_environment=False)
        hosts = Hosts(urls, client, num_retries=num_retries, max_under_way=8)
        backend = ServerBackend(hosts, processor=processor, adapter=adapter, base_model=base_model)
        keys = {"max_feedback_tokens": 3, "max_answer_tokens": 4} | keys
        return VllmEngine(
            backend=backend,
            processor=processor,
            renderer=builder.renderer,
            decoding=DecodingSpec(**read_conf("decoding/expected", **keys)),
            max_in_flight=8,
        )

    return make


def score(engine: VllmEngine, examples: list[Example]) -> list[Answer]:
    return list(engine.answer(examples, scores_only=True))


@pytest.mark.parametrize(
    "fault",
    [
        fake_vllm.status(500),
        fake_vllm.status(503),
        fake_vllm.status(429, ("Retry-After", "0")),
        fake_vllm.cut_in_body,
        fake_vllm.no_json,
        fake_vllm.no_reply,
    ],
    ids=["500", "503", "429", "cut", "no_json", "no_reply"],
)
def test_what_another_try_mends(
    fault: Any, make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    engine = make(fake.url)
    whole = score(engine, examples[:1])
    fake.faults = [fault, fault]
    assert score(engine, examples[:1]) == whole
    assert not fake.faults


def test_a_silent_server_is_asked_again(
    make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    whole = score(make(fake.url), examples[:1])
    fake.faults = [fake_vllm.silence(2.0)]
    assert score(make(fake.url, timeout_s=0.7), examples[:1]) == whole


def test_an_essay_that_gets_no_answer_leaves_the_others(
    make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    engine = make(fake.url, num_retries=1)
    whole = score(engine, examples)
    fake.faults = [fake_vllm.status(400)]
    found = score(engine, examples)
    (failed,) = [answer for answer in found if answer.error]
    assert failed == Answer(id=failed.id, text="", error=failed.error)
    assert "400" in failed.error
    assert "essay text" not in failed.error, "bodies may hold what pupils wrote"
    assert [a for a in found if not a.error] == [a for a in whole if a.id != failed.id]


def test_tries_come_to_an_end(make: Maker, fake: FakeVllm, examples: list[Example]) -> None:
    engine = make(fake.url, num_retries=1)
    fake.faults = [fake_vllm.no_json] * 2
    (answer,) = score(engine, examples[:1])
    assert answer.error == f"{fake.url} sent what is not JSON (2 tries)"


def test_a_server_that_asks_to_be_left_alone_is(
    make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    engine = make(fake.url)
    score(engine, examples[:1])
    fake.faults = [fake_vllm.status(503, ("Retry-After", "1"))]
    started = time.monotonic()
    assert not score(engine, examples[:1])[0].error
    assert time.monotonic() - started >= 1.0


def test_work_is_spread_and_moves_on_to_another_server(
    make: Maker, words: Words, examples: list[Example]
) -> None:
    with (
        FakeVllm({"base": words, "aes": words}) as first,
        FakeVllm({"base": words, "aes": words}) as second,
    ):
        engine = make(first.url, second.url)
        whole = score(engine, examples)
        assert first.bodies and second.bodies
        num_before = len(second.bodies)
        first.faults = [fake_vllm.cut_in_body] * 10_000
        assert score(engine, examples) == whole
        assert len(second.bodies) >= num_before + len(examples)


def test_a_server_that_is_gone_is_left_out(
    make: Maker, fake: FakeVllm, dead_url: str, examples: list[Example]
) -> None:
    assert not any(answer.error for answer in score(make(dead_url, fake.url), examples))


def test_a_server_that_goes_away_is_left(
    make: Maker, words: Words, fake: FakeVllm, examples: list[Example]
) -> None:
    with FakeVllm({"base": words, "aes": words}) as other:
        engine = make(other.url, fake.url)
    assert not any(answer.error for answer in score(engine, examples))


def test_without_any_server_nothing_begins(make: Maker, dead_url: str) -> None:
    with pytest.raises(ValueError, match=r"no server answers .*refuses connections"):
        make(dead_url)


def test_a_server_without_the_adapter(make: Maker, words: Words) -> None:
    with (
        FakeVllm({"base": words}) as fake,
        pytest.raises(ValueError, match="offers base, but no aes; start it with --enable-lora"),
    ):
        make(fake.url)


def test_a_base_that_is_not_there(make: Maker, fake: FakeVllm) -> None:
    with pytest.raises(ValueError, match=r"no other; .* set engine.base_model"):
        make(fake.url, base_model="other")


def test_a_whole_model_has_no_base(make: Maker, words: Words) -> None:
    with FakeVllm({"aes": words}) as fake:
        engine = make(fake.url)
        with pytest.raises(ValueError, match="no base"), engine.without_adapter():
            pass


def test_a_key_is_sent_and_missed(make: Maker, words: Words, examples: list[Example]) -> None:
    with FakeVllm({"aes": words}, key="secret") as fake:
        with pytest.raises(ValueError, match=r"answered 401.*engine.api_key_env") as caught:
            make(fake.url, key="wrong")
        assert "wrong" not in str(caught.value)
        assert not score(make(fake.url, key="secret"), examples[:1])[0].error


def test_an_essay_that_is_too_long_for_the_server(
    make: Maker,
    words: Words,
    examples: list[Example],
    processor: Processor,
    builder: ExampleBuilder,
) -> None:
    """The others go on."""
    lengths = [
        processor.encode(e, [builder.renderer.size(page) for page in e.pages]).num_prompt
        for e in examples
    ]
    room = max(lengths) - 1
    with FakeVllm({"base": words, "aes": words}, max_model_len=room) as fake:
        found = score(make(fake.url), examples)
    errors = [answer.error for answer in found]
    assert f"but the server {room}: start that with a greater" in errors[lengths.index(room + 1)]
    assert "" in errors


def test_a_server_that_sees_something_else_stops_the_run(
    make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    """As with a page that was resized, or another chat template."""
    engine = make(fake.url)
    fake.faults = [fake_vllm.changed(lambda found: found["prompt_token_ids"].pop())]
    with pytest.raises(ValueError, match=r"made \d+ tokens of x0 than the \d+ that training"):
        score(engine, examples[:1])


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("prompt_token_ids"),
        lambda found: found["choices"][0].pop("token_ids"),
        lambda found: found["choices"][0].pop("logprobs"),
        lambda found: found["choices"][0]["logprobs"]["content"][0]["top_logprobs"].pop(),
    ],
    ids=["prompt", "tokens", "logprobs", "one of them"],
)
def test_a_server_that_does_not_tell_enough_stops_the_run(
    change: Any, make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    engine = make(fake.url)
    fake.faults = [fake_vllm.changed(change)]
    with pytest.raises(ValueError, match=r"vLLM 0\.28 or newer"):
        score(engine, examples[:1])


def test_a_comment_that_is_cut_is_closed(
    make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    (answer,) = make(fake.url).answer(examples[1:2])
    assert json.loads(answer.text)["feedback"]
    assert fake.bodies[-1]["max_completion_tokens"] == 3


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_comment_that_ends_too_early_is_no_answer(
    reason: str, make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    def cut(found: dict[str, Any]) -> None:
        if len(found["choices"][0]["token_ids"]) > 1:
            found["choices"][0] |= {"finish_reason": reason, "token_ids": [0]}

    engine = make(fake.url)
    fake.faults = [fake_vllm.changed(cut)] * 50
    (answer,) = engine.answer(examples[1:2])
    assert "before it was whole" in answer.error


def test_a_server_without_structured_outputs_is_found_out(
    make: Maker, fake: FakeVllm, examples: list[Example]
) -> None:
    def scribble(found: dict[str, Any]) -> None:
        if len(found["choices"][0]["token_ids"]) > 1:
            found["choices"][0]["token_ids"] = [198, 197, 198]  # a tab within a string

    engine = make(fake.url)
    fake.faults = [fake_vllm.changed(scribble)] * 50
    (answer,) = engine.answer(examples[1:2])
    assert "does not hold answers to their form" in answer.error


def test_a_stream_that_breaks_off(make: Maker, fake: FakeVllm, questions: list[Example]) -> None:
    """What was shown stays shown; nothing is told twice."""
    engine = make(fake.url)
    whole = "".join(engine.stream(questions[0]))
    fake.faults = [fake_vllm.cut_in_stream(3)]
    given = ""
    with pytest.raises(ValueError, match=r"no whole answer: .* broke off its reply"):
        for piece in engine.stream(questions[0]):
            given += piece
    assert whole.startswith(given)


def test_a_stream_that_never_begins_is_asked_for_again(
    make: Maker, fake: FakeVllm, questions: list[Example]
) -> None:
    engine = make(fake.url)
    whole = "".join(engine.stream(questions[0]))
    fake.faults = [fake_vllm.status(503), fake_vllm.cut_in_stream(0)]
    assert "".join(engine.stream(questions[0])) == whole


@pytest.mark.parametrize(
    "url",
    ["http://8.8.8.8/v1", "https://[2001:4860:4860::8888]/v1", "http://[::ffff:8.8.8.8]:8000/v1"],
)
def test_essays_stay_within_private_networks(url: str) -> None:
    with pytest.raises(ValueError, match=r"engine.allow_remote=true"):
        require_addresses([url], allow_remote=False)
    require_addresses([url], allow_remote=True)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost:8000/v1", "http://10.1.2.3/v1"]
)
def test_private_addresses_are_taken(url: str) -> None:
    require_addresses([url], allow_remote=False)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("gpu1:8000", "no address of a server"),
        ("ftp://10.1.2.3/v1", "no address of a server"),
        ("http://10.1.2.3:x/v1", "no address of a server"),
        ("http://10.1.2.3/v1?a=b", "no address of a server"),
        ("http://me:secret@10.1.2.3/v1", "must not hold a user"),
        ("http://nobody.invalid/v1", "nobody here knows the host nobody.invalid"),
    ],
)
def test_addresses_that_cannot_be(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        require_addresses([url], allow_remote=False)
    assert "secret" not in str(caught.value)


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVED", " secret\n")
    assert read_key("SERVED") == "secret"
    assert read_key(None) is None
    monkeypatch.delenv("SERVED")
    with pytest.raises(ValueError, match=r"engine.api_key_env=SERVED: this variable is not set"):
        read_key("SERVED")
