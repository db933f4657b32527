"""Checkpoints: what is loaded equals what was saved, and what does not fit is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aes.kernels.forward import hidden_states
from aes.model import LoraSpec, ModelSpec
from aes.model.config import build_config
from aes.model.loading import (
    load_base,
    load_model,
    local_folder,
    read_config,
    tokenizer_folder,
)
from aes.model.nano import build_nano, nano_folder, save_hub_layout
from aes.model.spec import ModelSpec as Spec
from aes.records import Essay

WEIGHTS = "model.safetensors"
EXPERTS = "model.language_model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def checkpoint(nano_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the nano's folder to be broken."""
    return shutil.copytree(nano_checkpoint, tmp_path / "model")


def _edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_a_missing_tensor_is_refused(checkpoint: Path) -> None:
    _edit(checkpoint, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"1 missing \(such as lm_head.weight\) weights; it is"):
        load_base(checkpoint, dtype=torch.float32)


def test_an_extra_tensor_is_refused(checkpoint: Path) -> None:
    _edit(checkpoint, lambda t: t.update({"model.language_model.extra.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"1 unexpected \(such as .*extra.weight\)"):
        load_base(checkpoint, dtype=torch.float32)


def test_a_tensor_of_another_shape_is_refused(checkpoint: Path) -> None:
    key = "model.language_model.norm.weight"
    _edit(checkpoint, lambda t: t.update({key: torch.zeros(65)}))
    with pytest.raises(ValueError, match=r"1 mismatched \(such as .*norm.weight\)"):
        load_base(checkpoint, dtype=torch.float32)


def test_experts_that_were_not_transposed_are_read_as_well(
    checkpoint: Path, load_nano: Callable[..., Any]
) -> None:
    """Folders that other tools wrote with save_pretrained; transformers goes by the shape."""
    _edit(checkpoint, lambda t: t.update({EXPERTS: t[EXPERTS].transpose(1, 2).contiguous()}))
    loaded = load_base(checkpoint, dtype=torch.float32)
    assert torch.equal(loaded.state_dict()[EXPERTS], load_nano().state_dict()[EXPERTS])


@pytest.mark.parametrize("kept", [0, 4, 1000, -1000])
def test_a_truncated_file_is_refused(checkpoint: Path, kept: int) -> None:
    whole = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"cannot be read .* download them again"):
        load_base(checkpoint, dtype=torch.float32)


def test_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="download them again"):
        load_base(checkpoint, dtype=torch.float32)


def _at(spec: ModelSpec, path: Path | str) -> ModelSpec:
    return dataclasses.replace(spec, path=str(path))


def test_a_folder_that_is_not_there_is_refused(nano_spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing is not a folder; point it at"):
        local_folder(_at(nano_spec, tmp_path / "missing"))


def test_a_folder_without_config_is_refused(nano_spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config.json"):
        local_folder(_at(nano_spec, tmp_path))


@pytest.mark.parametrize("path", ["./a/b", "~/no/such", "../x", "a/b/c", "/a/b", "name"])
def test_paths_are_told_from_hub_ids(nano_spec: ModelSpec, path: str) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        local_folder(_at(nano_spec, path))


def test_a_hub_id_is_no_folder(nano_spec: ModelSpec) -> None:
    assert local_folder(_at(nano_spec, "Qwen/Qwen3-VL-8B-Instruct")) is None


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_another_architecture_is_refused(nano_spec: ModelSpec, tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": 64}))
    with pytest.raises(ValueError, match=rf"holds a {kind} model, but .* for qwen3_vl_moe"):
        read_config(_at(nano_spec, tmp_path))


def test_a_dense_checkpoint_under_a_moe_configuration_is_refused(
    nano_spec: ModelSpec, checkpoint: Path
) -> None:
    dense = dataclasses.replace(nano_spec, architecture="qwen3_vl", path=str(checkpoint))
    with pytest.raises(ValueError, match=r"holds a qwen3_vl_moe model, but .* for qwen3_vl;"):
        read_config(dense)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": "no_such_model"}'])
def test_a_broken_config_is_refused(nano_spec: ModelSpec, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be read as a model configuration"):
        read_config(_at(nano_spec, tmp_path))


@pytest.mark.parametrize(
    ("size", "words"),
    [("hidden_size", "has 128 hidden size, .* says 64"), ("num_hidden_layers", "has 3 layers")],
)
def test_a_snapshot_of_another_size_is_refused_before_its_weights_are_read(
    nano_spec: ModelSpec,
    checkpoint: Path,
    make_lora: Callable[..., LoraSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
    words: str,
) -> None:
    """The hub is patched: tests fetch nothing."""
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"][size] = {"hidden_size": 128, "num_hidden_layers": 3}[size]
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / WEIGHTS).unlink()
    fetched = []

    def fetch(hub_id: str) -> str:
        fetched.append(hub_id)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(ValueError, match=words):
        load_model(
            _at(nano_spec, "Qwen/Qwen3-VL-8B-Instruct"),
            make_lora(),
            cache=tmp_path,
            precision="fp32",
            accelerator="cpu",
            gradient_checkpointing="none",
            seed=1,
        )
    assert fetched == ["Qwen/Qwen3-VL-8B-Instruct"]


@pytest.mark.parametrize("is_here", [True, False])
def test_the_tokenizer_of_another_architecture_is_refused(
    nano_spec: ModelSpec,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_here: bool,
) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id: str(checkpoint))
    spec = _at(nano_spec, checkpoint if is_here else "some/llama")
    with pytest.raises(ValueError, match=r"holds a llama model, but .* for qwen3_vl_moe"):
        tokenizer_folder(spec, tmp_path, weights=True)


def test_saving_and_loading_gives_the_same_model(
    load_nano: Callable[..., Any],
    tmp_path: Path,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    model = load_nano()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    save_hub_layout(model, tmp_path)
    loaded = load_base(tmp_path, dtype=torch.float32)
    batch = make_batch(essays[:2])
    with torch.no_grad():
        assert torch.equal(hidden_states(loaded, batch), hidden_states(model, batch))
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_experts_lie_transposed_in_the_file(
    load_nano: Callable[..., Any], nano_checkpoint: Path
) -> None:
    """As on the hub: ``[experts, hidden, 2 * inner]`` and ``[experts, inner, hidden]``."""
    tensors, model = load_file(nano_checkpoint / WEIGHTS), load_nano()
    assert tensors[EXPERTS].shape == (4, 64, 96)
    assert tensors[EXPERTS.replace("gate_up", "down")].shape == (4, 48, 64)
    own = model.state_dict()[EXPERTS]
    assert torch.equal(own, tensors[EXPERTS].transpose(1, 2))


def test_tied_embeddings_are_saved_once(nano_spec: ModelSpec, tmp_path: Path) -> None:
    text = dataclasses.replace(
        nano_spec.text, tie_embeddings=True, num_experts=0, experts_per_token=0
    )
    spec = dataclasses.replace(nano_spec, architecture="qwen3_vl", text=text)
    build_nano(spec, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    model: Any = load_base(tmp_path, dtype=torch.float32)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_the_nano_is_built_once_and_whole(
    nano_spec: ModelSpec, session_cache: Path, nano_checkpoint: Path
) -> None:
    before = (nano_checkpoint / WEIGHTS).stat().st_mtime_ns
    assert nano_folder(nano_spec, session_cache) == nano_checkpoint
    assert (nano_checkpoint / WEIGHTS).stat().st_mtime_ns == before
    assert not [p for p in nano_checkpoint.parent.iterdir() if p.name.startswith(".")]


def _tiny(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Smaller still, for tests that build models."""
    text = dataclasses.replace(spec.text, vocab_size=512, num_layers=1)
    return dataclasses.replace(spec, text=text, **changes)


def test_a_build_that_fails_leaves_nothing_behind(
    nano_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("aes.model.nano.save_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        nano_folder(_tiny(nano_spec), tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_second_process_that_was_first_wins(
    nano_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(spec: Spec, folder: Path) -> None:
        (folder / "mine").touch()
        names = [p.name for p in (tmp_path / "models").iterdir()]
        assert names == [folder.name]  # not under its final name yet
        rival = tmp_path / "rival"
        rival.mkdir()
        (rival / "theirs").touch()
        monkeypatch.setattr(Path, "rename", lambda self, to: _copy_and_fail(to))

    def _copy_and_fail(to: Path) -> None:
        shutil.copytree(tmp_path / "rival", to)
        raise OSError("Directory not empty")

    monkeypatch.setattr("aes.model.nano.build_nano", build)
    folder = nano_folder(_tiny(nano_spec), tmp_path)
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert list((tmp_path / "models").iterdir()) == [folder]


def test_weights_follow_from_the_seed(nano_spec: ModelSpec, tmp_path: Path) -> None:
    def build(name: str, seed: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        folder.mkdir()
        build_nano(_tiny(nano_spec, weights_seed=seed), folder)
        found: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
        return found

    state = torch.get_rng_state()
    one, two, other = build("a", 0), build("b", 0), build("c", 1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_geometry_that_contradicts_itself_is_refused(nano_spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match=r"num_experts=4 does not fit model.architecture=qwen3_vl"):
        build_config(dataclasses.replace(nano_spec, architecture="qwen3_vl"))
    text = dataclasses.replace(nano_spec.text, mrope_section=(8, 8, 8))
    with pytest.raises(ValueError, match="mrope_section sums to 24, but must sum to half"):
        build_config(dataclasses.replace(nano_spec, text=text))


def test_every_gradient_survives_gradient_checkpointing(
    nano_spec: ModelSpec,
    session_cache: Path,
    make_lora: Callable[..., LoraSpec],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    batch, found = make_batch(essays[:2]), []
    for wanted in ("none", "all"):
        model = load_model(
            nano_spec,
            make_lora(modules_to_save=("visual.merger",)),
            cache=session_cache,
            precision="fp32",
            accelerator="cpu",
            gradient_checkpointing=wanted,
            seed=1,
        )
        model.train()
        hidden_states(model, batch).square().sum().backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)
