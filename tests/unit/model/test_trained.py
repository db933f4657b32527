"""A finished run's model is the one that was trained, or a sentence says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aes.model import KernelSpec, ModelSpec
from aes.model.trained import (
    load_trained,
    may_take_base,
    read_grading_facts,
    trained_digest,
    trained_folder,
)
from aes.training.saving import save_trained

FACTS = {"ranges": {"content": [0, 20]}, "asks_feedback": True}


@pytest.fixture
def run(
    load_nano: Callable[..., Any], make_lora: Callable[..., Any], tmp_path: Path
) -> tuple[Path, Any]:
    """A run directory, and the model that was saved in it."""
    model = load_nano(make_lora(modules_to_save=("visual.merger",)))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data + 0.1 * noise
    save_trained(model, tmp_path, base="nano", grading=FACTS)
    return tmp_path, model


@pytest.fixture
def load(nano_spec: ModelSpec, session_cache: Path) -> Callable[..., Any]:
    def load(run_dir: Path, **changes: Any) -> Any:
        options: dict[str, Any] = {"precision": "fp32", "accelerator": "cpu"} | changes
        return load_trained(nano_spec, run_dir, cache=session_cache, **options)

    return load


def test_every_trained_weight_comes_back(run: tuple[Path, Any], load: Callable[..., Any]) -> None:
    run_dir, model = run
    loaded = dict(load(run_dir).named_parameters())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_B" in name for name in trained)
    assert any("merger" in name for name in trained)
    for name, parameter in trained.items():
        torch.testing.assert_close(loaded[name], parameter, check_device=False)


def test_a_base_is_taken_over_without_a_trace(
    run: tuple[Path, Any],
    load: Callable[..., Any],
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    other = tmp_path_factory.mktemp("other")
    model = load_nano(make_lora(targets=("vision", "q_proj"), rank=2), seed=9)
    save_trained(model, other, base="nano", grading=FACTS)
    kernels = KernelSpec(
        experts="frozen", attention="sdpa", logit_rows=None, fused_ops="all", compile="none"
    )
    assert may_take_base(run[0], other)
    taken: Any = None
    for run_dir in (run[0], other, run[0]):
        taken = load(run_dir, kernels=kernels, loaded=taken)
        fresh = load(run_dir, kernels=kernels).state_dict()
        found = taken.state_dict()
        assert found.keys() == fresh.keys()
        assert all(torch.equal(found[name], fresh[name]) for name in fresh)
        assert not any(parameter.requires_grad for parameter in taken.parameters())


def test_a_base_that_an_adapter_computes_otherwise_is_not_taken(
    run: tuple[Path, Any],
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    experts, whole = (tmp_path_factory.mktemp(name) for name in ("experts", "whole"))
    model = load_nano(make_lora(targets=("experts",)))
    save_trained(model, experts, base="nano", grading=FACTS)
    save_trained(load_nano(), whole, base="nano", grading=FACTS)
    assert not may_take_base(run[0], experts) and not may_take_base(whole, run[0])


def test_a_bfloat16_base_keeps_float32_adapters(
    run: tuple[Path, Any], load: Callable[..., Any]
) -> None:
    model = load(run[0], precision="bf16")
    kinds = {
        name: p.dtype
        for name, p in model.named_parameters()
        if "lora_" in name or "modules_to_save" in name
    }
    assert set(kinds.values()) == {torch.float32}
    assert model.get_base_model().lm_head.weight.dtype == torch.bfloat16


def test_a_model_trained_whole_comes_back(
    load_nano: Callable[..., Any], load: Callable[..., Any], tmp_path: Path
) -> None:
    model = load_nano()
    model.lm_head.weight.data += 1
    save_trained(model, tmp_path, base="nano", grading=FACTS)
    loaded = load(tmp_path)
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight)


def test_a_tensor_that_is_missing_is_no_silent_base_model(
    run: tuple[Path, Any], load: Callable[..., Any]
) -> None:
    file = run[0] / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="does not fit this base model: 1 tensors such as"):
        load(run[0])


def test_an_adapter_of_another_size_is_refused(
    run: tuple[Path, Any], load: Callable[..., Any]
) -> None:
    file = run[0] / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"r": 4}))
    with pytest.raises(ValueError, match="cannot be loaded into this base model"):
        load(run[0])


def test_a_torn_file_is_refused(run: tuple[Path, Any], load: Callable[..., Any]) -> None:
    file = run[0] / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be loaded into this base model"):
        load(run[0])


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did not finish; go on with it"):
        trained_folder(tmp_path)
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ValueError, match=r"has no adapter_config\.json, so it is incomplete"):
        trained_folder(tmp_path)


def test_the_facts_come_back_or_are_refused(run: tuple[Path, Any]) -> None:
    assert read_grading_facts(run[0]) == FACTS
    (run[0] / "adapter" / "grading.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_grading_facts(run[0])


def test_the_digest_names_the_weights(run: tuple[Path, Any], tmp_path: Path) -> None:
    digest = trained_digest(run[0])
    copy = tmp_path / "copy"
    shutil.copytree(run[0] / "adapter", copy / "adapter")
    assert trained_digest(copy) == digest
    assert len(digest) == 12
    file = copy / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-6
    save_file(tensors, file)
    assert trained_digest(copy) != digest
