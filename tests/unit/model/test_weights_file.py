"""Reading a checkpoint piece by piece gives what transformers loads whole."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aes.model.fsdp import checkpoint_name
from aes.model.sharding import build_empty, parameter_places, require_fit
from aes.model.weights_file import WeightsFile


def test_every_tensor_is_what_transformers_makes_of_it(
    nano_checkpoint: Path, load_nano: Callable[..., Any]
) -> None:
    whole = load_nano().state_dict()
    empty = build_empty(nano_checkpoint, dtype=torch.float32)
    with WeightsFile(nano_checkpoint) as file:
        require_fit(file, empty)
        places = parameter_places(empty)
        assert places.keys() == whole.keys()
        for name, tensor in whole.items():
            shape = tuple(tensor.shape)
            assert torch.equal(file.read(name, shape), tensor), name
            rows = slice(1, max(2, len(tensor) // 2))
            assert torch.equal(file.read(name, shape, rows=rows), tensor[rows]), name


def test_an_empty_model_has_the_buffers_of_a_loaded_one(
    nano_checkpoint: Path, load_nano: Callable[..., Any]
) -> None:
    loaded = dict(load_nano().named_buffers())
    for dtype in (torch.float32, torch.bfloat16):
        empty = build_empty(nano_checkpoint, dtype=dtype)
        assert all(p.is_meta and p.dtype == dtype for p in empty.parameters())
        buffers = dict(empty.named_buffers())
        assert loaded.keys() == buffers.keys() and loaded
        for name, buffer in loaded.items():
            assert torch.equal(buffers[name], buffer), name


@pytest.fixture
def broken(nano_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint with some tensors changed."""

    def make(**changes: torch.Tensor | None) -> Path:
        folder = tmp_path / "broken"
        shutil.copytree(nano_checkpoint, folder)
        tensors = load_file(folder / "model.safetensors")
        for name, tensor in changes.items():
            tensors.pop(name.replace("__", "."), None)
            if tensor is not None:
                tensors[name.replace("__", ".")] = tensor
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("lm_head__weight", None, "1 missing"),
        ("lm_head__bias", torch.zeros(3), "1 unexpected"),
        ("lm_head__weight", torch.zeros(3, 3), "1 mismatched"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    broken: Callable[..., Path], name: str, tensor: torch.Tensor | None, word: str
) -> None:
    folder = broken(**{name: tensor})
    empty = build_empty(folder, dtype=torch.float32)
    with WeightsFile(folder) as file, pytest.raises(ValueError, match=word) as refused:
        require_fit(file, empty)
    assert name.replace("__", ".") in str(refused.value)


def test_a_file_that_was_cut_short_is_refused(broken: Callable[..., Path]) -> None:
    folder = broken()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        WeightsFile(folder)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("lm_head.weight", "lm_head.weight"),
        ("base_model.model.model.a.q_proj.base_layer.weight", "model.a.q_proj.weight"),
        ("base_model.model.m.merger.original_module.norm.bias", "m.merger.norm.bias"),
        ("base_model.model.m.merger.modules_to_save.default.norm.bias", "m.merger.norm.bias"),
        ("base_model.model.m.q.lora_A.default.weight", "m.q.lora_A.default.weight"),
    ],
)
def test_names_of_a_peft_model_lead_back_to_the_checkpoint(name: str, plain: str) -> None:
    assert checkpoint_name(name) == plain
