"""Merged weights are the model that was trained, in any file and any type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aes.export.beside import write_config
from aes.export.merging import INDEX_FILE, Merger
from aes.kernels.forward import hidden_states, logits
from aes.model import LoraSpec, ModelSpec
from aes.model.adapter_file import read_adapter
from aes.model.loading import load_base, load_model, model_folder
from aes.records import Essay
from aes.training.saving import save_trained

Save = Callable[..., tuple[Path, Any]]
FACTS: dict[str, Any] = {"ranges": {}, "asks_feedback": False}


@pytest.fixture
def save(load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec], tmp_path: Path) -> Save:
    """An adapter that was trained, in its folder, and the model with it."""

    def save(**changes: Any) -> tuple[Path, Any]:
        model = load_nano(make_lora(**changes))
        shake(model)
        return save_trained(model, tmp_path, base="nano", grading=FACTS), model.eval()

    return save


def shake(model: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = 2**30,
) -> Path:
    out.mkdir()
    with Merger(base, read_adapter(adapter), dtype=dtype) as merger:
        merger.write(out, shard_bytes=shard_bytes, tell=lambda _: None)
        write_config(base, out, dtype=merger.dtype, unties=merger.unties)
    return out


def answers(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return logits(model, hidden_states(model, batch)[0, -8:])


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": ("visual.merger",)},
        {"targets": ("attention", "experts"), "rank": 4, "alpha": 6},
        {"targets": ("vision", "v_proj")},
        {"modules_to_save": ("lm_head",)},
    ],
    ids=["merger", "experts", "vision", "head"],
)
def test_plain_transformers_gives_the_same_logits(
    save: Save,
    nano_checkpoint: Path,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    from transformers import AutoModelForImageTextToText

    adapter, trained = save(**changes)
    out = merge(nano_checkpoint, adapter, tmp_path / "merged")
    model, info = AutoModelForImageTextToText.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    batch = make_batch(essays[:1])
    expected = answers(trained, batch)
    torch.testing.assert_close(answers(model.eval(), batch), expected, atol=1e-5, rtol=0)
    base = answers(load_base(nano_checkpoint, dtype=torch.float32), batch)
    assert (expected - base).abs().max() > 1e-3, "nothing was trained"


def test_files_are_in_the_layout_of_the_hub_and_of_bounded_size(
    save: Save, nano_checkpoint: Path, tmp_path: Path
) -> None:
    adapter, _ = save(targets=("attention", "experts"))
    limit = 30 * 2**20
    out = merge(nano_checkpoint, adapter, tmp_path / "merged", shard_bytes=limit)
    index = json.loads((out / INDEX_FILE).read_text())
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2 and set(index["weight_map"].values()) == {file.name for file in files}
    base = load_file(nano_checkpoint / "model.safetensors")
    found: dict[str, torch.Tensor] = {}
    for file in files:
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= limit
        assert all(index["weight_map"][name] == file.name for name in tensors)
        found |= tensors
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in base.items()}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
    untouched = [n for n in base if "norm" in n or "visual" in n or "mlp.gate." in n]
    assert untouched and all(torch.equal(found[n], base[n]) for n in untouched)


def test_bfloat16_is_rounded_once_and_at_the_end(
    save: Save, nano_checkpoint: Path, tmp_path: Path
) -> None:
    adapter, _ = save(targets=("attention", "experts"), modules_to_save=("visual.merger",))
    whole = load_file(merge(nano_checkpoint, adapter, tmp_path / "fp32") / "model.safetensors")
    out = merge(nano_checkpoint, adapter, tmp_path / "bf16", dtype=torch.bfloat16)
    short = load_file(out / "model.safetensors")
    assert all(torch.equal(short[name], whole[name].bfloat16()) for name in whole)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"


def test_a_base_that_is_not_the_one_is_refused(
    save: Save, nano_checkpoint: Path, tmp_path: Path
) -> None:
    adapter, _ = save()
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    wide = {n: torch.cat([t, t], 1) if "lora_A" in n else t for n, t in tensors.items()}
    save_file(wide, file)
    with pytest.raises(ValueError, match=r"does not fit this base: .* has no place of its size"):
        merge(nano_checkpoint, adapter, tmp_path / "merged")


@pytest.mark.parametrize("trained", ["lm_head", "embed_tokens"])
def test_words_and_head_that_were_trained_apart_are_two_weights(
    nano_spec: ModelSpec,
    make_lora: Callable[..., LoraSpec],
    session_cache: Path,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    tmp_path: Path,
    trained: str,
) -> None:
    from transformers import AutoModelForImageTextToText

    tied = replace(nano_spec, text=replace(nano_spec.text, tie_embeddings=True))
    options: dict[str, Any] = {"precision": "fp32", "accelerator": "cpu", "seed": 1}
    model = load_model(
        tied,
        make_lora(modules_to_save=(trained,)),
        cache=session_cache,
        gradient_checkpointing="none",
        **options,
    )
    shake(model)
    adapter = save_trained(model, tmp_path, base="nano", grading=FACTS)
    out = merge(model_folder(tied, session_cache), adapter, tmp_path / "merged")
    names = load_file(out / "model.safetensors").keys()
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} <= names
    loaded = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    batch = make_batch(essays[:1])
    torch.testing.assert_close(
        answers(loaded, batch), answers(model.eval(), batch), atol=1e-5, rtol=0
    )
