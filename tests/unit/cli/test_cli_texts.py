"""Runs that learned from instruction data: what is asked, compared and kept with the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from aes.cli.closing import grading_facts
from aes.cli.engines import open_engine
from aes.cli.evaluate_text import _names
from aes.cli.export_data import compose_settings
from aes.cli.requests import EvaluationRequest, TrainedRun
from aes.cli.settings import Settings
from aes.cli.text_inbox import Asked, read_questions
from aes.cli.text_part import SamplesOfPart, require_comparable
from aes.records import Example, Message

Ask = Callable[..., Asked]


def make_run(path: Path, settings: Settings | None = None, **facts: Any) -> TrainedRun:
    """A run directory with files in the places of its weights."""
    (path / "adapter").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (path / "adapter" / name).write_text("{}")
    (path / "adapter" / "grading.json").write_text(json.dumps(facts))
    (path / "split.json").write_text('{"train": []}')
    own = cast("Settings", settings)
    return TrainedRun(path=path, settings=own, changed=(), asks_feedback=False)


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Reads one record of the run's format, with an image; and how it is asked."""
    image = tmp_path / "image.png"

    def ask(instruction: str, *, grey: int = 0, system: str = "") -> Asked:
        Image.new("L", (64, 64), grey).save(image)
        record = {"instruction": f"<image>{instruction}", "output": "好", "images": [image.name]}
        path = tmp_path / "asked.json"
        path.write_text(json.dumps([record]), encoding="utf-8")
        overrides = ["data=alpaca", f"data.path={path}"]
        settings = compose_settings([*overrides, *([f"data.system={system}"] if system else [])])
        (asked,) = read_questions(settings, path, question=None, max_pages=1)
        assert not asked.error
        return asked

    return ask


def test_a_record_is_another_by_a_blank_a_case_its_system_prompt_or_its_image(ask: Ask) -> None:
    first = ask("def f():\n  a").digest
    assert ask("def f():\n  a").digest == first
    others = {
        ask("def f(): a").digest,
        ask("def f():\n  A").digest,
        ask("def f():\n  ａ").digest,
        ask("def f():\n  a", grey=9).digest,
        ask("def f():\n  a", system="你好").digest,
    }
    assert len(others | {first}) == 6


def test_runs_to_compare_take_nobodys_name(tmp_path: Path) -> None:
    places = ("trained", "a/base", "b/base", "other", "sweep/1", "sweep-1", "c/run")
    compared = tuple(make_run(tmp_path / place) for place in places)
    request = EvaluationRequest(
        runs=(make_run(tmp_path / "run"),),
        second=None,
        compared=compared,
        values=cast("Any", None),
        suite=cast("Any", None),
    )
    names = _names(request)
    assert list(names.values()) == list(compared)
    assert names.keys() >= {"other", "sweep/1"} and not names.keys() & {"trained", "base", "run"}
    assert len({name.replace("/", "-") for name in names}) == len(places), "as in metrics.json"


def test_what_was_asked_otherwise_is_not_compared(tmp_path: Path) -> None:
    def run(name: str, *overrides: str) -> TrainedRun:
        data = ("data=medtrinity", f"data.path={tmp_path}/captions.parquet")
        return make_run(tmp_path / name, compose_settings([*data, *overrides]))

    first = run("first")
    picture = Example(id="a", messages=(Message("user", (tmp_path / "a.png",)),), kind="text")
    part = SamplesOfPart(
        processor=cast("Any", None),
        renderer=cast("Any", None),
        examples=(picture,),
        choices=(),
        dropped=(),
        num_seen=0,
    )
    require_comparable(run("same"), first, part, "test")
    for name, override in (("question", "data.question=别的问题"), ("size", "page.width_px=512")):
        with pytest.raises(ValueError, match=f"was trained with another {name}"):
            require_comparable(run(name, override), first, part, "test")


def test_how_it_was_asked_is_kept_with_the_weights(tmp_path: Path) -> None:
    system = tmp_path / "system.txt"
    system.write_text("你是助手。\n", encoding="utf-8")
    given = (
        "data=alpaca",
        f"data.path={tmp_path}/a.json",
        "data.labels=[晴,雨]",
        "model=nano_text",
    )
    settings = compose_settings([*given, f"data.system_file={system}"])
    facts = grading_facts(settings, cast("Any", None), {"weights of the model": "12ab"})
    assert (facts["system"], facts["labels"]) == ("你是助手。", ["晴", "雨"])
    assert facts["base_digest"] == "12ab" and "question" not in facts
    asked = compose_settings(["data=medtrinity", f"data.path={tmp_path}/a.parquet"])
    facts = grading_facts(asked, cast("Any", None), {"weights of the model": ""})
    assert facts["question"] == vars(asked.data)["question"]


def test_another_base_is_refused_before_it_is_loaded(tmp_path: Path, nano_checkpoint: Path) -> None:
    settings = compose_settings(["model=nano", f"model.path={nano_checkpoint}"])
    run = make_run(tmp_path / "run", settings, base_digest="of another")
    with pytest.raises(ValueError, match="holds other weights than those that the adapter"):
        open_engine(run, processor=cast("Any", None), renderer=cast("Any", None))
