"""Prepared samples follow the images that their records name, which come and go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aes.corpus.instructions import AlpacaColumns, AlpacaData
from aes.data.processor import Processor
from aes.data.stream import prepare_stream
from aes.page import PageRenderer, PageSpec


@pytest.fixture
def data(read_conf: Callable[..., dict[str, Any]], tmp_path: Path) -> AlpacaData:
    records = [
        {"instruction": f"<image>{i}", "output": "答", "images": [f"{i}.png"]} for i in range(3)
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    values = read_conf("data/alpaca", path=path, split_seed=1, val_fraction=0.0, test_fraction=0.0)
    columns = {key: value for key, value in values.pop("columns").items() if key != "_target_"}
    return AlpacaData(**values, columns=AlpacaColumns(**columns))


def test_an_image_that_was_missing_or_broken_counts_once_it_is_there(
    data: AlpacaData, make_processor: Callable[..., Processor], nano_page: PageSpec, tmp_path: Path
) -> None:
    def count() -> tuple[int, set[str]]:
        reading = prepare_stream(
            data,
            processor=make_processor({}),
            renderer=PageRenderer(nano_page),
            cache=tmp_path / "cache",
            label="preparing",
        ).reading
        return reading.counts["kept"], {problem.code for problem in reading.problems}

    images = [tmp_path / f"{i}.png" for i in range(3)]
    Image.new("RGB", (64, 64), "red").save(images[0])
    images[1].write_bytes(b"no image")
    assert count() == (1, {"unreadable_image", "missing_image"})
    Image.new("RGB", (64, 64), "green").save(images[1])
    Image.new("RGB", (64, 64), "blue").save(images[2])
    assert count() == (3, set())
    images[0].unlink()
    assert count() == (2, {"missing_image"})
