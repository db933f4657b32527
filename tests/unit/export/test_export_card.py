"""The card says what the run's files say, says what nobody knows, and tells no secrets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.export.card import write_card
from aes.export.card_facts import CardFacts
from aes.export.serving import Served, obstacle, serve_line
from aes.model import LoraSpec
from aes.model.trained import trained_digest

METRICS = {
    "test/num": 60,
    "test/num_sources": 50,
    "test/qwk/total": 0.61234,
    "test/qwk/total/low": 0.5,
    "test/qwk/total/high": 0.7,
    "test/mae/total": 3.25,
    "test/qwk/content": None,
    "test/parse_rate": 1.0,
    "test/predict_bleu-4": 12.5,
    "test/threshold": 10.0,
    "test/band/一等/qwk/total": 0.1,
    "test/baseline/no_adapter/qwk/total": 0.2,
    "test/baseline/mean/qwk/total": 0.0,
}


@pytest.fixture
def facts(tmp_path: Path, read_conf: Callable[..., dict[str, Any]]) -> CardFacts:
    run = tmp_path / "某人" / "run"
    (run / "adapter").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "grading.json"):
        (run / "adapter" / name).write_text("{}")
    (run / "check.json").write_text(json.dumps({"counts": {"read": 300, "kept": 290}}))
    plan = {
        "dropped": {"empty": 7, "overlong": 3},
        **{part: {"num_examples": num} for part, num in
           (("train", 200), ("validation", 30), ("test", 60))},
    }  # fmt: skip
    (run / "plan.json").write_text(json.dumps(plan))
    model = read_conf("model/qwen3_vl_8b")
    rubric = yaml.safe_load(Path("conf/rubric/gaokao60.yaml").read_text(encoding="utf-8"))
    return CardFacts(
        name="grader",
        base="Qwen/Qwen3-VL-8B-Instruct",
        base_id="Qwen/Qwen3-VL-8B-Instruct",
        is_merged=False,
        dtype="float32",
        run=run,
        choices={"model": "qwen3_vl_8b", "data": "aes_dataset"},
        values={
            "model": model,
            "data": {
                "max_tokens": 2048, "val_fraction": 0.1, "test_fraction": 0.2, "root": str(run)
            },
            "rubric": rubric,
            "page": {"style": "plain", "width_px": 768, "glyph_px": 20, "save_dir": str(run)},
            "adapter": {"rank": 8, "alpha": 16, "targets": ["attention"], "init_from": str(run)},
            "optim": {"lr": 1e-4},
            "trainer": {"max_epochs": 3, "max_steps": None},
            "hardware": {"precision": "bf16"},
            "global_batch_size": 8,
            "seed": 1,
        },
        serve="vllm serve Qwen/Qwen3-VL-8B-Instruct",
        obstacle="",
    )  # fmt: skip


def card(facts: CardFacts, out: Path) -> str:
    write_card(facts, out)
    return out.read_text(encoding="utf-8")


def evaluate(facts: CardFacts, metrics: dict[str, Any], split: str = "test") -> Path:
    file = facts.run / "evaluation" / split / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(metrics))
    return file


def test_without_an_evaluation_it_says_so(facts: CardFacts, tmp_path: Path) -> None:
    text = card(facts, tmp_path / "README.md")
    assert "Nobody has evaluated this model" in text and "Nobody has measured" in text
    for told in (
        "base_model: Qwen/Qwen3-VL-8B-Instruct",
        "| data set | aes_dataset |",
        "300 read, 290 kept",
        "200 training, 30 validation, 60 test",
        "| left out | 7 empty, 3 overlong |",
        "10% for validation, 20% as test",
        "| began with | another adapter |",
        "| adapter.targets | attention |",
        "license of the base",
    ):
        assert told in text, told


def test_metrics_stand_with_their_intervals_beside_baselines(
    facts: CardFacts, tmp_path: Path
) -> None:
    evaluate(facts, METRICS)
    text = card(facts, tmp_path / "README.md")
    assert "split=test: 60 samples from 50 sources" in text
    assert "| total | 0.612 [0.500, 0.700] | — | 3.250 |" in text
    assert "| content | — |" in text
    assert "| no_adapter | 0.200 |" in text and "| mean | 0.000 |" in text
    assert "| predict_bleu-4 | 12.500 |" in text and "| parse_rate | 1.000 |" in text
    assert "一等" not in text.split("## Evaluation")[1].split("## Intended")[0]
    assert "Nobody" not in text and "other weights" not in text


def test_numbers_that_mean_little_say_so(facts: CardFacts, tmp_path: Path) -> None:
    file = evaluate(facts, {"train/qwk/total": 0.9, "train/num": 5}, split="train")
    settings = file.with_name("predictions.settings.json")
    settings.write_text(json.dumps({"adapter": trained_digest(facts.run)}))
    assert "other weights" not in card(facts, tmp_path / "README.md")
    settings.write_text(json.dumps({"adapter": "0" * 12}))
    text = card(facts, tmp_path / "README.md")
    assert "which was trained on" in text and "other weights than the run holds now" in text


def test_it_holds_no_path_of_this_machine(facts: CardFacts, tmp_path: Path) -> None:
    evaluate(facts, METRICS)
    text = card(facts, tmp_path / "README.md")
    assert str(tmp_path) not in text and "某人" not in text


def test_a_random_base_is_of_no_use(facts: CardFacts, tmp_path: Path) -> None:
    random = replace(facts, values={**facts.values, "model": {"path": None, "vision": {}}})
    text = card(random, tmp_path / "README.md")
    assert "cannot read" in text and "None, but trying this software." in text


def test_a_run_without_lora_is_not_called_one(facts: CardFacts, tmp_path: Path) -> None:
    merged = card(replace(facts, is_merged=True), tmp_path / "README.md")
    assert "- lora\n" in merged and "Merged weights" in merged
    none = replace(facts, is_merged=True, values={**facts.values, "adapter": {}})
    text = card(none, tmp_path / "README.md")
    assert "lora" not in text.lower() and "Whole weights (float32)" in text
    assert "Merged" not in text


def test_it_says_what_stands_on_one_side_of_the_split(facts: CardFacts, tmp_path: Path) -> None:
    assert ", no relatives across parts |" in card(facts, tmp_path / "README.md")
    values = {**facts.values, "rubric": {}}
    text = card(replace(facts, values=values), tmp_path / "README.md")
    assert ", equal questions and images on one side |" in text


def test_what_answers_in_text_says_how_it_was_asked(facts: CardFacts, tmp_path: Path) -> None:
    data = facts.values["data"] | {"system": "你是内部的助手", "labels": ["晴", "雨"]}
    model = facts.values["model"] | {"vision": None}
    values = {**facts.values, "rubric": {}, "data": data, "model": model}
    text = card(replace(facts, values=values), tmp_path / "README.md")
    assert "one of these labels: `晴`, `雨`" in text
    assert "`grading.json` holds the system prompt" in text and "内部" not in text
    assert "`enable_thinking: false`" in text
    bare = values | {"data": facts.values["data"]}
    text = card(replace(facts, values=bare), tmp_path / "README.md")
    assert "without a system prompt" in text and "labels" not in text


def test_the_line_for_vllm(make_lora: Callable[..., LoraSpec]) -> None:
    served = Served(name="aes", base="Q/B", max_tokens=2100, sees_pages=True)
    line = serve_line(served, "out", adapter=make_lora(rank=20))
    for part in (
        "vllm serve Q/B --enable-lora --max-lora-rank 32 --lora-modules aes=out",
        "--max-model-len 3072",
        """--limit-mm-per-prompt '{"image": 20, "video": 0}'""",
    ):
        assert part in line
    merged = serve_line(replace(served, sees_pages=False), "my out", adapter=None)
    assert shlex.split(merged) == [
        *("vllm", "serve", "my out", "--served-model-name", "aes", "--max-model-len", "3072"),
        *("--default-chat-template-kwargs", '{"enable_thinking": false}'),
    ]
    spaced = serve_line(replace(served, base="my base"), "my out", adapter=make_lora(rank=8))
    assert {"my base", "aes=my out"} <= set(shlex.split(spaced))
    assert "enable_thinking" not in spaced, "models that see have no such template"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modules_to_save": ("visual.merger",)}, "vLLM refuses this adapter"),
        ({"targets": ("attention", "vision")}, "vLLM ignores LoRA on the vision tower"),
        ({"targets": ("attention", "experts")}, "does not serve LoRA on fused experts"),
        ({"rank": 1000}, "ranks up to 512"),
        ({}, ""),
    ],
)
def test_what_vllm_would_not_serve_is_said(
    make_lora: Callable[..., LoraSpec], changes: dict[str, Any], told: str
) -> None:
    assert (told in obstacle(make_lora(**changes))) if told else not obstacle(make_lora())
