"""A run that trained every weight is exported without fetching its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aes.cli.export_data import compose_settings
from aes.export.beside import copy_grading_facts
from aes.export.model import RunToExport, export_model
from aes.training.saving import save_trained


def test_of_a_base_on_the_hub_small_files_alone_are_fetched(
    load_nano: Callable[..., Any],
    nano_checkpoint: Path,
    session_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_trained(load_nano(), run, base="Qwen/Nano", grading={"ranges": {}, "base_digest": "0"})
    settings = compose_settings(["adapter=none"])
    asked: list[str] = []

    def fetch(name: str, *, allow_patterns: list[str] | None = None) -> str:
        assert allow_patterns is not None, "a whole checkpoint would come"
        asked.extend(allow_patterns)
        return str(nano_checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    export = RunToExport(
        path=run,
        model=replace(settings.model, path="Qwen/Nano"),
        adapter=settings.adapter,
        base_name="Qwen/Nano",
        choices=settings.choices,
        values=settings.resolved,
        cache=session_cache,
        max_tokens=100,
        served_name="aes",
        is_merged=True,
        dtype=None,
        shard_bytes=2**30,
    )
    export_model(export, tmp_path / "out", lambda line: None)
    assert "tokenizer.json" in asked and not any("safetensors" in name for name in asked)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Whole weights" in text and "- lora" not in text


def test_of_a_font_its_name_alone_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    page = {"font": "/home/someone/fonts/hand.ttf", "save_dir": "/home/someone/pages"}
    (tmp_path / "grading.json").write_text(json.dumps({"page": page, "system": "你好"}))
    copy_grading_facts(tmp_path, out)
    told = json.loads((out / "grading.json").read_text(encoding="utf-8"))
    assert told == {"page": {"font": "hand.ttf", "save_dir": None}, "system": "你好"}
