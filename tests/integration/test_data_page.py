"""What docs/data.md shows is read as it says, and what it lists is there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aes.cli import entry
from aes.cli.export_data import compose_settings
from aes.cli.source import CONFIG_DIR, Source
from aes.corpus.instructions import InstructionData
from aes.corpus.problems import PROBLEMS
from aes.page import PageRenderer

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FORMATS = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", TEXT, re.DOTALL | re.MULTILINE))
SAMPLES = {
    "Essays with scores": 2,
    "alpaca": 2,
    "sharegpt": 1,
    "openai": 1,
    "dataset_info.json": 1,
    "Parquet and Arrow": 1,
}


@pytest.fixture
def in_folder(tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the image that examples name."""
    monkeypatch.setenv("AES_CACHE", str(session_cache))
    monkeypatch.chdir(tmp_path)
    pixels = np.arange(256 * 256, dtype=np.uint8).reshape(256, 256)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path


def test_every_format_is_tested() -> None:
    assert set(FORMATS) == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_example_of_a_format_is_read(name: str, in_folder: Path) -> None:
    section = FORMATS[name]
    for file, content in re.findall(r"^`([\w./]+)`:\n```\w+\n(.*?)```", section, re.M | re.S):
        path = in_folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    for script in re.findall(r"^```python\n(.*?)```", section, re.M | re.S):
        exec(script, {})
    command = re.search(r"`(data=[^`]+)`", section)
    assert command is not None
    overrides = command[1].replace("DIR", str(in_folder)).split()
    settings = compose_settings(overrides)
    if isinstance(settings.data, InstructionData):
        samples = list(settings.data.samples(cache=in_folder / "cache"))
        assert len(samples) == SAMPLES[name]
        for sample in samples:
            assert sample.example is not None and sample.example.answer
            assert {f.code for f in sample.findings} <= {"unused_setting"}, name
        return
    settings = compose_settings([*overrides, "data.min_chars=1"])
    renderer = PageRenderer(settings.page)
    reading = settings.corpus.read(
        find_undrawable=renderer.missing_characters,
        open_page=renderer.open,
        ranges=settings.essay_rubric.ranges,
    )
    assert len(reading.essays) == SAMPLES[name] and not reading.problems


def test_the_table_of_codes_is_that_of_the_check() -> None:
    table = TEXT.partition("| code |")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", table, re.MULTILINE)
    assert {code: (fate, cure) for code, fate, cure in rows} == PROBLEMS
    assert len(rows) == len(PROBLEMS)


def test_every_key_that_stands_for_an_option_of_llamafactory_is_there() -> None:
    table = TEXT.partition("| its option |")[2]
    source = Source(config_dir=CONFIG_DIR, config_name="train", overrides=())
    known = set()
    for data in ("aes_dataset", "alpaca", "registry"):
        known |= set(source.names(f"data={data}", "adapter=lora")[0])
    named = [
        name
        for row in re.findall(r"^\| `.*? \| (.*?) \|", table, re.MULTILINE)
        for text in re.findall(r"`([^`]*)`", row)
        if not text.startswith("python ")
        for name in text.split()
    ]
    assert len(named) > 50
    for name in named:
        key, _, value = name.partition("=")
        if key in source.groups and value:
            assert value in source.options(key), name
        else:
            assert key in known, name


@pytest.mark.command
def test_the_commands_of_the_page_work(
    train: Callable[..., int],
    essay_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)
    of_training, of_export = (shlex.split(line, comments=True) for line in block.splitlines())
    registry = ROOT / "tests" / "interop" / "fixtures" / "dataset_info.json"
    names = {
        "data.info=DIR/dataset_info.json": f"data.info={registry}",
        "data.name=NAME": "data.name=sharegpt",
        "data.root=DIR": f"data.root={essay_folder}",
        "OUT": str(tmp_path / "out"),
    }
    assert of_training[:2] == ["python", "train.py"]
    # Of two samples that share nothing one validates only if it is asked for.
    assert train(*(names.get(arg, arg) for arg in of_training[2:]), "data.val_fraction=0.5") == 0
    assert of_export[:3] == ["python", "-m", "aes.export"]
    monkeypatch.setattr(sys, "argv", ["export", *(names.get(arg, arg) for arg in of_export[3:])])
    with pytest.raises(SystemExit) as stop:
        entry.export()
    assert stop.value.code == 0
    assert (tmp_path / "out" / "train.json").is_file()
