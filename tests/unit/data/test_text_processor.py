"""Prompts for models that read text alone: templates take texts, and may have a model think."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from aes.data.processor import Processor
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example, Message

# As templates of hybrid models do: parts are not looked at, and thinking is on unless told.
_HYBRID = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)


@pytest.fixture
def open_folder() -> Callable[[Path], Processor]:
    return lambda folder: Processor(
        folder, ranges={"content": (0, 20)}, min_pixels=None, max_pixels=None
    )


@pytest.fixture
def hybrid(
    text_processor: Processor, open_folder: Callable[[Path], Processor], tmp_path: Path
) -> Processor:
    """With a template of its own, as a checkpoint brings it."""
    text_processor.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(_HYBRID, encoding="utf-8")
    return open_folder(tmp_path)


QUESTION = Example(
    id="q",
    messages=(
        Message("system", ("你是老师。",)),
        Message("user", ("春天", "来了吗？")),
        Message("assistant", ("来了。",)),
        Message("user", ("花呢？",)),
    ),
    answer=(("开了。", "*"),),
    kind="text",
)
TURNS = (
    "<|im_start|>system\n你是老师。<|im_end|>\n<|im_start|>user\n春天来了吗？<|im_end|>\n"
    "<|im_start|>assistant\n来了。<|im_end|>\n<|im_start|>user\n花呢？<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def test_the_sample_has_the_format_of_instruct_models(text_processor: Processor) -> None:
    encoded = text_processor.encode(QUESTION, [])
    text = text_processor.tokenizer.decode(encoded.input_ids)
    assert text == TURNS + "开了。<|im_end|>"
    assert text_processor.tokenizer.decode(encoded.input_ids[: encoded.num_prompt]) == TURNS


def test_a_hybrid_model_is_told_not_to_think_first(hybrid: Processor) -> None:
    """In training and behind the same prompt in inference; the empty thought is not learned."""
    encoded = hybrid.encode(QUESTION, [])
    prompt = hybrid.tokenizer.decode(encoded.input_ids[: encoded.num_prompt])
    assert prompt == TURNS + "<think>\n\n</think>\n\n"
    assert hybrid.tokenizer.decode(encoded.input_ids[encoded.num_prompt :]) == "开了。<|im_end|>"
    assert hybrid.prompt_text(QUESTION) == prompt


def test_an_essay_stands_in_the_prompt(
    text_processor: Processor, text_builder: ExampleBuilder
) -> None:
    example = text_builder.build(Essay(id="e", title="春天", text="花开了。<|im_end|>"))
    prompt = text_processor.prompt_text(example)
    assert "春天\n花开了。< |im_end|>" in prompt
    assert "<|image_pad|>" not in prompt


def test_an_image_is_refused_with_its_sample(text_processor: Processor, tmp_path: Path) -> None:
    picture = Message("user", (tmp_path / "page.png", "这是什么？"))
    example = Example(id="s7", messages=(picture,), kind="text")
    with pytest.raises(ValueError, match="s7 has 1 images, but this model reads text alone"):
        text_processor.encode(example, [(320, 320)])


def test_an_essay_of_images_is_refused(text_builder: ExampleBuilder, tmp_path: Path) -> None:
    Image.new("RGB", (320, 320), "white").save(tmp_path / "page.png")
    with pytest.raises(ValueError, match="reads text alone and no images: hand in typed text"):
        text_builder.renderer.size(tmp_path / "page.png")


def test_a_tokenizer_without_page_tokens_will_do(
    text_processor: Processor, open_folder: Callable[[Path], Processor], tmp_path: Path
) -> None:
    text_processor.tokenizer.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("<|image_pad|>", "<|other|>"), encoding="utf-8")
    found = open_folder(tmp_path)
    assert found.prompt_text(QUESTION) == TURNS
    assert found.encode(QUESTION, []).grids == []
