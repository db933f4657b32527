"""Frozen layers in few bits: what is, what is not, that it trains, and what is refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from aes.hardware import StrategySpec
from aes.kernels.forward import hidden_states, logits
from aes.model import LoraSpec, ModelSpec, NoAdapterSpec
from aes.model.loading import load_model
from aes.model.quantization import bytes_per_weight, require_bitsandbytes, require_quantizable
from aes.model.trained import load_trained
from aes.records import Essay

SINGLE = StrategySpec(name="single")
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra quantization)"
)


@pytest.fixture(scope="module")
def dense(nano_spec: ModelSpec) -> ModelSpec:
    """A dense nano."""
    text = replace(nano_spec.text, num_experts=0, experts_per_token=0, expert_intermediate_size=0)
    return replace(nano_spec, architecture="qwen3_vl", text=text)


@pytest.fixture
def load(dense: ModelSpec, session_cache: Path, make_lora: Callable[..., LoraSpec]) -> Any:
    def load(quantization: str) -> Any:
        return load_model(
            replace(dense, quantization=quantization),  # type: ignore[arg-type]
            make_lora(rank=4, modules_to_save=("visual.merger",)),
            cache=session_cache,
            precision="fp32",
            accelerator="cpu",
            gradient_checkpointing="none",
            seed=1,
        )

    return load


def quantized_layers(model: Any) -> dict[str, Any]:
    import bitsandbytes

    kinds = bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_the_language_models_projections_and_nothing_else(load: Any, quantization: str) -> None:
    model = load(quantization)
    layers = quantized_layers(model)
    num_layers = model.config.get_text_config().num_hidden_layers
    assert len(layers) == 7 * num_layers
    assert all("language_model.layers" in name for name in layers)
    assert not any("visual" in name or "lm_head" in name for name in layers)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_memory_is_what_the_plan_reckons(load: Any, quantization: Any) -> None:
    def num_bytes(module: Any) -> int:
        weight = getattr(module, "base_layer", module).weight
        found = weight.numel() * weight.element_size()
        state = getattr(weight, "quant_state", None)
        if state is not None:
            inner = state.state2.absmax
            found += state.absmax.numel() * state.absmax.element_size() + 4 * inner.numel()
        return int(found)

    plain, small = load("none"), load(quantization)
    names = [name.removesuffix(".base_layer") for name in quantized_layers(small)]
    modules = dict(small.named_modules())
    before = sum(num_bytes(dict(plain.named_modules())[name]) for name in names)
    after = sum(num_bytes(modules[name]) for name in names)
    assert after / before == pytest.approx(bytes_per_weight(quantization, 4) / 4, rel=0.05)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_it_trains_and_what_it_learned_is_loaded_again(
    load: Any,
    quantization: Any,
    dense: ModelSpec,
    session_cache: Path,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    tmp_path: Path,
) -> None:
    model, batch = load(quantization).train(), make_batch(essays[:2])
    labels = batch["labels"][:, 1:].flatten()
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.AdamW(trained, lr=2e-2)

    def loss() -> torch.Tensor:
        states = hidden_states(model, batch)[:, :-1].flatten(0, 1)[labels >= 0]
        return cross_entropy(logits(model, states), labels[labels >= 0])

    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(frozen[n], p) for n, p in model.named_parameters() if n in frozen)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    (folder / "grading.json").write_text("{}")
    again = load_trained(
        replace(dense, quantization=quantization),
        tmp_path,
        cache=session_cache,
        precision="fp32",
        accelerator="cpu",
    )
    assert quantized_layers(again)
    with torch.no_grad():
        expected, found = model.eval(), again
        torch.testing.assert_close(hidden_states(found, batch), hidden_states(expected, batch))


def test_what_is_refused(
    dense: ModelSpec, nano_spec: ModelSpec, make_lora: Callable[..., LoraSpec]
) -> None:
    lora, whole = make_lora(), NoAdapterSpec()
    small = replace(dense, quantization="4bit")
    require_quantizable(small, lora, SINGLE, model="dense")
    require_quantizable(small, lora, StrategySpec(name="ddp"), model="dense")
    require_quantizable(nano_spec, whole, SINGLE, model="nano")
    with pytest.raises(ValueError, match=r"fused experts .* model=nano"):
        require_quantizable(replace(nano_spec, quantization="8bit"), lora, SINGLE, model="nano")
    with pytest.raises(ValueError, match="adapter=none trains them all"):
        require_quantizable(small, whole, SINGLE, model="dense")
    for name in ("zero2", "zero3", "zero3_offload", "fsdp2"):
        with pytest.raises(ValueError, match=f"strategy={name}"):
            require_quantizable(small, lora, StrategySpec(name=name), model="dense")  # type: ignore[arg-type]


def test_without_bitsandbytes(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    require_bitsandbytes("none", "cpu")
    with pytest.raises(ValueError, match=r'pip install "aes\[quantization\]"'):
        load("4bit")


@needs_bitsandbytes
def test_a_device_that_the_library_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    with pytest.raises(ValueError, match="does not work on cpu"):
        require_bitsandbytes("8bit", "cpu")
