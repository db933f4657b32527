"""LLaMA-Factory's formats, read by us: the tokens that it was seen to make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_fixtures import FIXTURES, JOBS, RECORDED, condense, jobs, write_data
from PIL import Image

from aes.cli.export_data import compose_settings, run
from aes.corpus.instructions import InstructionData
from aes.data.processor import Processor
from aes.data.stream import prepare_stream
from aes.page import PageRenderer


def tokens(
    info: Path, name: str, train_on: str, processor: Processor, cache: Path
) -> list[dict[str, Any]]:
    """What we make of a data set in the form of the record, a line feed more learned a turn."""
    settings = compose_settings(
        [
            *("data=registry", f"data.info={info}", f"data.name={name}"),
            *("data.val_fraction=0", f"data.train_on={train_on}"),
        ]
    )
    assert isinstance(settings.data, InstructionData)
    streamed = prepare_stream(
        settings.data,
        processor=processor,
        renderer=PageRenderer(settings.page),
        cache=cache,
        label="reading",
    )
    line_feed = processor.tokenizer.encode("\n")
    found = []
    for row in streamed.split(seed=1).train.rows:
        ids = [*row["input_ids"], *line_feed]
        spans = [*row["turns"], [row["num_prompt"], len(row["input_ids"])]]
        found.append(
            {"input_ids": ids, "learned": [[start, end + 1] for start, end in sorted(spans)]}
        )
    return found


@pytest.mark.parametrize("name", JOBS)
def test_a_data_set_has_the_tokens_that_llamafactory_gives_it(
    name: str, make_processor: Callable[..., Processor], tmp_path: Path
) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["samples"]
    train_on = "last" if JOBS[name].get("mask_history") else "all"
    info, (data, _, _) = FIXTURES / "dataset_info.json", name.partition("/")
    assert tokens(info, data, train_on, make_processor({}), tmp_path) == recorded[name]


def test_the_files_are_those_of_the_script(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.rglob("*.json*")}
    kept = {path.name: path.read_bytes() for path in FIXTURES.rglob("*.json*") if path != RECORDED}
    assert made == kept


def test_what_was_read_is_written_as_it_was_and_read_again(
    make_processor: Callable[..., Processor],
    session_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The names of images alone are new."""
    monkeypatch.setenv("AES_CACHE", str(session_cache))
    given = [f"data.info={FIXTURES / 'dataset_info.json'}", "data.name=sharegpt_images"]
    out = tmp_path / "out"
    assert run(["data=registry", *given, "data.train_on=all", "data.val_fraction=0"], out) == 0
    written = json.loads((out / "train.json").read_text(encoding="utf-8"))
    read = json.loads((FIXTURES / "images.json").read_text(encoding="utf-8"))
    assert [record["messages"] for record in written] == [record["messages"] for record in read]
    for record, source in zip(written, read, strict=True):
        for name, original in zip(record["images"], source["images"], strict=True):
            pixels = Image.open(FIXTURES / original)
            if pixels.width % 32 == 0:  # else it is as the model sees it
                assert np.array_equal(Image.open(out / name), pixels)
    again = tokens(out / "dataset_info.json", "aes_train", "all", make_processor({}), tmp_path)
    assert again == json.loads(RECORDED.read_text(encoding="utf-8"))["samples"]["sharegpt_images"]


@pytest.mark.interop
def test_llamafactory_still_gives_these_tokens(
    ask_peer: Callable[..., Path], peer_checkpoint: Path, tmp_path: Path
) -> None:
    answer = ask_peer("tokens", jobs(FIXTURES, peer_checkpoint, tmp_path), ".json")
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["samples"]
    assert condense(json.loads(answer.read_text(encoding="utf-8"))) == recorded
