"""Chats as tokens: equal to the checkpoint's template, and what of them is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aes.data.collate import IGNORED, Collator
from aes.data.processor import Encoded, Processor
from aes.records import FREE, Example, Message, Page

PAGES = (Path("one.png"), Path("two.png"), Path("three.png"))
SIZES = [(64, 96), (128, 32), (32, 32)]


@pytest.fixture(scope="module")
def free_processor(make_processor: Callable[..., Processor]) -> Processor:
    return make_processor({})


def _turns(*parts: tuple[str, str | Sequence[str | Page]]) -> tuple[Message, ...]:
    return tuple(
        Message(role, (said,) if isinstance(said, str) else tuple(said))  # type: ignore[arg-type]
        for role, said in parts
    )


CHATS: dict[str, tuple[tuple[Message, ...], str]] = {
    "one question": (_turns(("user", "天气怎样？")), "晴。"),
    "with a system prompt": (
        _turns(("system", "你是医生。"), ("user", "头疼")),
        "多休息。\n\n多喝水",
    ),
    "several turns": (
        _turns(
            ("system", "Answer briefly."),
            ("user", "first question"),
            ("assistant", "first answer"),
            ("user", "assistant\nsecond question"),
            ("assistant", "第二个回答，\n分两行。"),
            ("user", "third?"),
        ),
        "the last one",
    ),
    "several images": (
        _turns(
            ("user", (PAGES[0], "比较", PAGES[1], "这两张")),
            ("assistant", "左边更清楚"),
            ("user", (PAGES[2], "那这张呢？")),
        ),
        "最清楚",
    ),
    "written special tokens": (
        _turns(
            ("user", "what is <|im_start|>assistant\nfoo<|im_end|>?"),
            ("assistant", "<|im_start|> begins, <|im_end|> ends"),
            ("user", "ok"),
        ),
        "fine<|im_end|>",
    ),
}


def _example(name: str, *, all_turns: bool) -> tuple[Example, list[tuple[int, int]]]:
    messages, answer = CHATS[name]
    example = Example(
        id=name,
        messages=messages,
        answer=((answer, FREE),),
        kind="text",
        learns_all_turns=all_turns,
    )
    return example, SIZES[: len(example.pages)]


def _template_tokens(
    processor: Processor, turns: Sequence[dict[str, Any]], sizes: Sequence[tuple[int, int]]
) -> list[int]:
    """What transformers makes of whole turns, each image spread as Qwen3-VL's processor does."""
    text = processor.tokenizer.apply_chat_template(list(turns), tokenize=False)
    for width, height in sizes:
        num = width * height // 32**2
        text = text.replace("<|image_pad|>", "<|seen|>" * num, 1)
    ids = processor.tokenizer.encode(
        text.replace("<|seen|>", "<|image_pad|>"), add_special_tokens=False
    )
    return list(ids)


def _labels(processor: Processor, encoded: Encoded, *, is_packed: bool = False) -> list[int]:
    collate = Collator(
        image_token=processor.image_token, pad_token=processor.pad_token, is_packed=is_packed
    )
    patches = np.zeros((0, 1536), np.float32)
    item = {
        "encoded": encoded,
        "patches": patches,
        "num_supervised_in_step": encoded.num_supervised,
        "is_filler": False,
    }
    return list(collate([item])["labels"][0].tolist())


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_what_the_template_makes_of_it(free_processor: Processor, name: str) -> None:
    example, sizes = _example(name, all_turns=True)
    encoded = free_processor.encode(example, sizes)
    answer = free_processor._defuse(example.answer[0][0], example)
    turns = [
        *free_processor.turns(example),
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    expected = _template_tokens(free_processor, turns, sizes)
    line_end = free_processor.tokenizer.encode("\n", add_special_tokens=False)
    assert encoded.input_ids + line_end == expected


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", CHATS)
def test_every_turn_of_the_assistant_is_learned(
    free_processor: Processor, name: str, is_packed: bool
) -> None:
    example, sizes = _example(name, all_turns=True)
    encoded = free_processor.encode(example, sizes)
    labels = _labels(free_processor, encoded, is_packed=is_packed)
    turns = free_processor.turns(example)
    expected = [IGNORED] * len(encoded.input_ids)
    for k, turn in enumerate(turns):
        if turn["role"] == "assistant":
            # Where a turn begins and ends is where the template's text of fewer turns does.
            before = free_processor.tokenizer.apply_chat_template(
                turns[:k], tokenize=False, add_generation_prompt=True
            )
            start = len(_spread(free_processor, before, sizes))
            end = len(_template_tokens(free_processor, turns[: k + 1], sizes)) - 1
            expected[start:end] = encoded.input_ids[start:end]
    expected[encoded.num_prompt :] = encoded.input_ids[encoded.num_prompt :]
    assert labels == expected
    num_learned = sum(label != IGNORED for label in labels)
    assert num_learned == encoded.num_supervised
    num_turns = 1 + sum(m.role == "assistant" for m in example.messages)
    assert sum(label == free_processor.end_token for label in labels) == num_turns


def _spread(processor: Processor, text: str, sizes: Sequence[tuple[int, int]]) -> list[int]:
    ids = processor.tokenizer.encode(text, add_special_tokens=False)
    counts = iter(width * height // 32**2 for width, height in sizes)
    spread: list[int] = []
    for token in ids:
        spread += [token] * (next(counts) if token == processor.image_token else 1)
    return spread


def test_only_the_answer_is_learned_unless_all_turns_are(free_processor: Processor) -> None:
    example, sizes = _example("several images", all_turns=False)
    encoded = free_processor.encode(example, sizes)
    labels = _labels(free_processor, encoded)
    assert encoded.turns == []
    assert set(labels[: encoded.num_prompt]) == {IGNORED}
    learned = free_processor.tokenizer.decode(labels[encoded.num_prompt :])
    assert learned == "最清楚<|im_end|>"


def test_thoughts_and_calls_are_learned_to_the_letter(
    free_processor: Processor, text_processor: Processor
) -> None:
    """And what marks turns and images is not, wherever it is written."""
    answer = "<think>x</think>ok<tool_call>{}</tool_call><|im_end|><|image_pad|>"
    messages = _turns(("user", "<think> or <|im_start|>?"))
    example = Example(id="s", messages=messages, answer=((answer, FREE),), kind="text")
    for processor in (free_processor, text_processor):
        encoded = processor.encode(example, [])
        tokenizer = processor.tokenizer
        learned = tokenizer.decode(encoded.input_ids[encoded.num_prompt :])
        assert learned == (
            "<think>x</think>ok<tool_call>{}</tool_call>< |im_end|>< |image_pad|><|im_end|>"
        )
        ids = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "<tool_call>"])
        assert set(ids) <= set(encoded.input_ids[encoded.num_prompt :])
        assert "<think> or < |im_start|>?" in processor.prompt_text(example)


def test_no_trait_leaves_an_empty_guide(free_processor: Processor) -> None:
    assert free_processor.guide.table.shape == (0, 0)
    assert free_processor.guide.nodes == {}


def test_a_model_that_reads_text_alone_learns_its_turns_too(text_processor: Processor) -> None:
    example, _ = _example("several turns", all_turns=True)
    encoded = text_processor.encode(example, [])
    learned = [token for token in _labels(text_processor, encoded) if token != IGNORED]
    assert text_processor.tokenizer.decode(learned) == (
        "first answer<|im_end|>第二个回答，\n分两行。<|im_end|>the last one<|im_end|>"
    )
