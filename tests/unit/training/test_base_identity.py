"""An adapter knows the base that it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aes.training.checkpoint.identity import require_base, weights_digest


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).touch()
    (folder / "grading.json").write_text(json.dumps({"base_digest": weights_digest(base)}))
    return folder


def test_another_base_of_the_same_sizes_is_refused(base: Path, adapter: Path) -> None:
    moved = base.rename(base.with_name("moved"))
    require_base(adapter, moved)
    (moved / "model.safetensors").write_bytes(bytes(999) + b"1")
    with pytest.raises(ValueError, match="holds other weights than those that the adapter in"):
        require_base(adapter, moved)


def test_what_does_not_say_or_needs_no_base_takes_any(base: Path, adapter: Path) -> None:
    (base / "config.json").write_text("{} ")
    whole = adapter.rename(adapter.with_name("model"))
    require_base(whole, base)
    silent = whole.rename(adapter)
    (silent / "grading.json").write_text("{}")
    require_base(silent, base)
