from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from aes.data.processor import Processor
from aes.export.dataset import DatasetWriter
from aes.export.folder import written_aside
from aes.export.sharegpt import record
from aes.prompt.build import ExampleBuilder
from aes.records import FREE, Essay, Example, Message


def as_the_peer_cuts(record: dict[str, Any], processor: Processor, areas: Sequence[int]) -> Any:
    """Token ids by LLaMA-Factory's chat format, written down anew, and how many are prompt."""
    text, counts = "", iter(area // 1024 for area in areas)
    for turn in record["messages"]:
        content = turn["content"]
        while "<image>" in content:
            pads = "<|image_pad|>" * next(counts)
            content = content.replace("<image>", f"<|vision_start|>{pads}<|vision_end|>", 1)
        if turn is record["messages"][-1]:
            prompt = f"{text}<|im_start|>assistant\n"
        text += f"<|im_start|>{turn['role']}\n{content}<|im_end|>\n"
    assert next(counts, None) is None
    cut = processor.tokenizer.encode
    return cut(text), len(cut(prompt))


def write(
    folder: Path, parts: dict[str, Sequence[Example]], builder: ExampleBuilder, processor: Processor
) -> DatasetWriter:
    folder.mkdir(exist_ok=True)
    writer = DatasetWriter(
        folder,
        name="essays",
        has_images=any(e.pages for examples in parts.values() for e in examples),
        renderer=builder.renderer,
        processor=processor,
    )
    for name, examples in parts.items():
        writer.write(name, examples)
    writer.close(template="qwen3_vl_nothink", max_tokens=700)
    return writer


@pytest.fixture(scope="module")
def examples(builder: ExampleBuilder, essays: tuple[Essay, ...]) -> list[Example]:
    return [builder.build(essay) for essay in essays]


def test_a_record_has_the_tokens_that_we_train_on(
    examples: list[Example], builder: ExampleBuilder, processor: Processor
) -> None:
    for example in examples:
        sizes = [builder.renderer.size(page) for page in example.pages]
        encoded = processor.encode(example, sizes)
        files = [f"{i}.png" for i, _ in enumerate(sizes)]
        found, num_broken = record(example, files, processor=processor)
        assert found["images"] == files and num_broken == 0
        ids, num_prompt = as_the_peer_cuts(found, processor, [w * h for w, h in sizes])
        assert ids == [*encoded.input_ids, *processor.tokenizer.encode("\n")]
        assert num_prompt == encoded.num_prompt


def test_what_would_be_taken_for_an_image_or_an_end_is_broken_up(processor: Processor) -> None:
    question = Message("user", ("看<image>和<video>。<|im_end|>",))
    found, num_broken = record(
        Example(id="a", messages=(question,), answer=(("有<image>", FREE),), kind="text"),
        (),
        processor=processor,
    )
    assert [turn["content"] for turn in found["messages"]] == [
        "看< image>和< video>。< |im_end|>",
        "有< image>",
    ]
    assert num_broken == 3


def test_a_dialogue_keeps_its_turns_and_asks_for_the_last_answer_alone(
    tmp_path: Path, builder: ExampleBuilder, processor: Processor
) -> None:
    turns = (
        Message("system", ("你是医生。",)),
        Message("user", ("一",)),
        Message("assistant", ("二",)),
        Message("user", ("三",)),
    )
    example = Example(id="d", messages=turns, answer=(("四", FREE),), kind="text")
    write(tmp_path / "last", {"train": [example]}, builder, processor)
    write(
        tmp_path / "all", {"train": [replace(example, learns_all_turns=True)]}, builder, processor
    )
    (written,) = json.loads((tmp_path / "last" / "train.json").read_text(encoding="utf-8"))
    assert [(t["role"], t["content"]) for t in written["messages"]] == [
        ("system", "你是医生。"),
        ("user", "一"),
        ("assistant", "二"),
        ("user", "三"),
        ("assistant", "四"),
    ]
    assert "images" not in written
    settings = [
        yaml.safe_load((tmp_path / name / "llamafactory.yaml").read_text(encoding="utf-8"))
        for name in ("last", "all")
    ]
    assert [s.get("mask_history") for s in settings] == [True, None]
    assert "image_max_pixels" not in settings[0]


def test_a_folder_says_what_its_parts_are(
    tmp_path: Path, examples: list[Example], builder: ExampleBuilder, processor: Processor
) -> None:
    unanswered = replace(examples[0], answer=())
    parts = {"train": examples[:3], "val": [unanswered, examples[3]], "test": []}
    writer = write(tmp_path, parts, builder, processor)
    registry = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert {name: entry["file_name"] for name, entry in registry.items()} == {
        "essays_train": "train.json",
        "essays_val": "val.json",
    }
    assert not (tmp_path / "test.json").exists()
    assert writer.parts["val"].num_unanswered == 1 and writer.parts["val"].num_samples == 1
    settings = yaml.safe_load((tmp_path / "llamafactory.yaml").read_text(encoding="utf-8"))
    sizes = [builder.renderer.size(page) for e in examples[:4] for page in e.pages]
    assert settings == {
        "dataset_dir": ".",
        "dataset": "essays_train",
        "eval_dataset": "essays_val",
        "template": "qwen3_vl_nothink",
        "cutoff_len": 701,
        "image_max_pixels": max(width * height for width, height in sizes),
    }


def test_images_are_the_pages_that_the_model_sees(
    tmp_path: Path, examples: list[Example], builder: ExampleBuilder, processor: Processor
) -> None:
    write(tmp_path, {"train": examples[:3]}, builder, processor)
    records = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for written, example in zip(records, examples[:3], strict=True):
        assert written["id"] == example.id
        for name, page in zip(written["images"], example.pages, strict=True):
            seen = np.asarray(builder.renderer.image(page))
            assert np.array_equal(np.asarray(Image.open(tmp_path / name).convert("RGB")), seen)


def test_a_sample_is_written_before_the_next_is_asked_for(
    tmp_path: Path, examples: list[Example], builder: ExampleBuilder, processor: Processor
) -> None:
    def asked() -> Iterator[Example]:
        for number, example in enumerate(examples[:4]):
            assert len(list(tmp_path.glob("images/train/*-1.png"))) == number
            yield example

    writer = DatasetWriter(
        tmp_path, name="e", has_images=True, renderer=builder.renderer, processor=processor
    )
    assert writer.write("train", asked()).num_samples == 4


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), written_aside(out) as folder:
        (folder / "a").touch()
        assert not out.exists()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    out.mkdir()
    with written_aside(out) as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]
    with pytest.raises(ValueError, match="not empty"), written_aside(out):
        pass
    with pytest.raises(ValueError, match="is a file"), written_aside(out / "a"):
        pass
