"""Instruction data made from the shipped YAML files, and files for it to read."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from aes.corpus.instructions import (
    AlpacaColumns,
    AlpacaData,
    CaptionColumns,
    CaptionData,
    InstructionData,
    RegistryData,
    Sample,
    ShareGptColumns,
    ShareGptData,
    ShareGptTags,
)

CONF = Path(__file__).parents[3] / "conf" / "data"
CLASSES = {
    "alpaca": AlpacaData,
    "sharegpt": ShareGptData,
    "openai": ShareGptData,
    "registry": RegistryData,
    "medtrinity": CaptionData,
}
PARTS = {
    "AlpacaColumns": AlpacaColumns,
    "ShareGptColumns": ShareGptColumns,
    "ShareGptTags": ShareGptTags,
    "CaptionColumns": CaptionColumns,
}


def _plain(option: str) -> dict[str, Any]:
    values = yaml.safe_load((CONF / f"{option}.yaml").read_text(encoding="utf-8"))
    for base in values.pop("defaults", []):
        if not isinstance(base, str) or base == "_self_":
            continue
        inherited = _plain(base)
        for key, value in values.items():
            inherited[key] = {**inherited[key], **value} if isinstance(value, dict) else value
        values = inherited
    return values


@pytest.fixture
def make_data() -> Callable[..., InstructionData]:
    """An option of ``data`` with any key replaced; of columns and tags those that are given."""

    def make(option: str, **changes: Any) -> InstructionData:
        values = {**_plain(option), "split_seed": 1}
        values.pop("_target_")
        for key in ("columns", "tags"):
            if key in values:
                part = {**values[key], **changes.pop(key, {})}
                values[key] = PARTS[part.pop("_target_").rpartition(".")[2]](**part)
        return CLASSES[option](**{**values, **changes})

    return make


@pytest.fixture
def read(make_data, tmp_path: Path) -> Callable[..., list[Sample]]:
    """All samples of an option of ``data``."""

    def read_all(option: str, **changes: Any) -> list[Sample]:
        return list(make_data(option, **changes).samples(cache=tmp_path / "cache"))

    return read_all


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as an array, or as lines if the name says so."""

    def write(records: Any, name: str = "data.json", **dumping: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            text = json.dumps(records, **({"ensure_ascii": False} | dumping))
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def encode_image() -> Callable[..., bytes]:
    def encode(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    return encode
