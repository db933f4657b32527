"""A model that reads text alone answers as brute force does, whatever its passes are made of."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aes.data.processor import Processor
from aes.inference.engine import Engine
from aes.inference.prompts import read_prompt
from aes.inference.vllm_chat import open_chat
from aes.inference.vllm_questions import Begun, Question
from aes.model.kernels import apply_kernels
from aes.model.spec import KernelSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example, Message

Maker = Callable[..., Any]
WAYS: dict[str, dict[str, Any]] = {
    "static cache": {},
    "transformers' cache": {"static_cache": False},
    "all words": {"word_search": "full"},
}


@pytest.fixture(scope="module")
def sure_text(load_nano_text: Callable[..., Any]) -> Any:
    """Sure of itself, so that distributions are far from flat."""
    model = load_nano_text()
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return model.eval()


@pytest.fixture(scope="module")
def make_text_engine(
    sure_text: Any, make_engine: Maker, text_processor: Processor, text_builder: ExampleBuilder
) -> Callable[..., Engine]:
    def make(**settings: Any) -> Engine:
        engine: Engine = make_engine(
            **{"model": sure_text, "score": "greedy"} | settings,
            processor=text_processor,
            renderer=text_builder.renderer,
        )
        return engine

    return make


@pytest.fixture(scope="module")
def asked(text_builder: ExampleBuilder) -> list[Example]:
    """Of unlike lengths; the second asks for a comment."""
    return [
        text_builder.build(
            Essay(id=str(i), text="花开了。" * (1 + 9 * i), comment="好" if i == 1 else "")
        )
        for i in range(3)
    ]


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_of_whole_sequences(
    way: str,
    make_text_engine: Callable[..., Engine],
    make_brute_force: Maker,
    sure_text: Any,
    text_processor: Processor,
    text_builder: ExampleBuilder,
    asked: list[Example],
) -> None:
    answers = list(make_text_engine(engine=WAYS[way]).answer(asked))
    brute_force = make_brute_force(
        model=sure_text, processor=text_processor, renderer=text_builder.renderer
    )
    for example, answer in zip(asked, answers, strict=True):
        scores = json.loads(answer.text)["scores"]
        for name, shares in brute_force.distributions(example, scores).items():
            assert answer.distributions[name] == pytest.approx(shares, abs=1e-4)


def test_fused_operations_change_no_answer(
    load_nano_text: Callable[..., Any],
    make_text_engine: Callable[..., Engine],
    sure_text: Any,
    asked: list[Example],
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    fused = load_nano_text().eval()
    fused.load_state_dict(sure_text.state_dict())
    apply_kernels(fused, KernelSpec(**read_conf("kernels/fast", experts="eager")))
    plain, found = (make_text_engine(model=m).answer(asked) for m in (sure_text, fused))
    for ours, truth in zip(found, plain, strict=True):
        assert ours.text == truth.text


def test_free_text_is_what_the_model_would_write(
    make_text_engine: Callable[..., Engine],
    make_brute_force: Maker,
    sure_text: Any,
    text_processor: Processor,
    text_builder: ExampleBuilder,
) -> None:
    question = Example(id="q", messages=(Message("user", ("春天是什么？",)),), kind="text")
    brute_force = make_brute_force(
        model=sure_text, processor=text_processor, renderer=text_builder.renderer
    )
    written: list[int] = []
    for _ in range(4):
        written.append(int(brute_force.next_logits(question, written).argmax()))
    (answer,) = make_text_engine(max_answer_tokens=4).answer([question])
    ended = written.index(text_processor.end_token) if text_processor.end_token in written else 4
    assert answer.text == text_processor.tokenizer.decode(written[:ended]).rstrip("\ufffd")


def test_a_server_is_sent_texts_and_told_not_to_think(
    text_processor: Processor, text_builder: ExampleBuilder, asked: list[Example]
) -> None:
    prompt = read_prompt(asked[0], processor=text_processor, renderer=text_builder.renderer)
    chat = open_chat(prompt, (), text_processor)
    (turn,) = chat.turns
    assert turn == {"role": "user", "content": asked[0].messages[0].parts[0]}
    body = chat.body(Question(begun=Begun("", ()), max_tokens=3), model="m")
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "mm_processor_kwargs" not in body
