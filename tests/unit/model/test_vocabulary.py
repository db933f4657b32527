"""The tokenizer from the package index against ids and formats that were read elsewhere."""

import pytest

from aes.data.processor import Processor
from aes.model.vocabulary import SPECIAL_TOKENS, build_tokenizer, read_ranks

# Source: the published Qwen2/2.5/3 tokenizers.
KNOWN_SPECIAL = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
    "<think>": 151667,
    "</think>": 151668,
}


def test_ids_of_a_known_phrase() -> None:
    ids = build_tokenizer().encode("中文作文自动阅卷", add_special_tokens=False)
    assert ids == [104811, 104745, 100756, 99915, 100199]


def test_ordinary_tokens_are_numbered_without_gap() -> None:
    ranks = read_ranks()
    assert len(ranks) == 151_643
    assert sorted(ranks.values()) == list(range(151_643))


def test_special_tokens_follow_the_ordinary_ones() -> None:
    tokenizer = build_tokenizer()
    assert {t: tokenizer.convert_tokens_to_ids(t) for t in KNOWN_SPECIAL} == KNOWN_SPECIAL
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(151_643, 151_669))
    assert len(tokenizer) == 151_669


@pytest.mark.parametrize("text", ["2023年", "100", "09"])
def test_each_digit_is_a_token(text: str) -> None:
    pieces = build_tokenizer().tokenize(text)
    assert sum(piece.isdigit() for piece in pieces) == sum(char.isdigit() for char in text)


@pytest.mark.parametrize("text", ["春天来了。\n  我们去公园", "don't  stop\n\n", "😀龘\t①", "é"])
def test_decoding_gives_the_text_back(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_saved_tokenizer_is_the_built_one(processor: Processor) -> None:
    text = "<|im_start|>user\n今天12分<|im_end|>\n"
    built = build_tokenizer().encode(text, add_special_tokens=False)
    assert processor.tokenizer.encode(text, add_special_tokens=False) == built
    assert built[0] == 151644


def test_chat_format_of_the_instruct_models() -> None:
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "评分"}]},
    ]
    text = build_tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>评分<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_system_turns_and_pages_stand_where_they_were_put() -> None:
    part = {"type": "text", "text": "甲"}
    turns = [
        {"role": "system", "content": "乙"},
        {"role": "user", "content": [part, {"type": "image"}, {"type": "image"}, part]},
    ]
    page = "<|vision_start|><|image_pad|><|vision_end|>"
    text = build_tokenizer().apply_chat_template(turns, tokenize=False)
    assert text == (
        f"<|im_start|>system\n乙<|im_end|>\n<|im_start|>user\n甲{page}{page}甲<|im_end|>\n"
    )
