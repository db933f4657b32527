"""What is trained: how much, where, and that nothing changes before the first step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aes.kernels.forward import hidden_states, logits
from aes.model import LoraSpec, ModelSpec
from aes.model.adapters import trainable_lora_b
from aes.model.loading import build_on_meta
from aes.model.spec import NoAdapterSpec
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss

MakeLora = Callable[..., LoraSpec]


def _num_trained(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _trained(model: Any) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


@pytest.fixture(scope="module")
def spec_30b(read_conf: Callable[..., dict[str, Any]]) -> ModelSpec:
    return ModelSpec(**read_conf("model/qwen3_vl_30b_a3b", path=None))


def test_lora_on_attention_of_the_30b(spec_30b: ModelSpec, make_lora: MakeLora) -> None:
    model = build_on_meta(spec_30b, make_lora())
    assert _num_trained(model) == 6_684_672
    assert sum(p.numel() for p in model.parameters()) - 6_684_672 == pytest.approx(
        31.071e9, abs=0.5e6
    )


def test_lora_on_experts_of_the_30b(spec_30b: ModelSpec, make_lora: MakeLora) -> None:
    both = build_on_meta(spec_30b, make_lora(targets=("attention", "experts")))
    assert _num_trained(both) - 6_684_672 == pytest.approx(314.6e6, abs=0.05e6)


@pytest.mark.parametrize(
    ("targets", "wanted", "unwanted"),
    [
        (("attention",), "self_attn", ("visual", "experts", "mlp", "lm_head", "embed")),
        (("experts",), "experts", ("visual", "self_attn", "lm_head", "embed")),
        (("vision",), "visual", ("language_model", "lm_head")),
    ],
)
def test_each_set_reaches_its_matrices_and_no_others(
    nano_spec: ModelSpec,
    make_lora: MakeLora,
    targets: tuple[str, ...],
    wanted: str,
    unwanted: tuple[str, ...],
) -> None:
    names = _trained(build_on_meta(nano_spec, make_lora(targets=targets)))
    assert names
    assert all("lora_" in name and wanted in name for name in names)
    assert not any(word in name for name in names for word in unwanted)


def test_experts_of_a_dense_model_are_refused(
    read_conf: Callable[..., dict[str, Any]], make_lora: MakeLora
) -> None:
    spec = ModelSpec(**read_conf("model/qwen3_vl_2b", path=None))
    with pytest.raises(ValueError, match="names experts, but this model is dense"):
        build_on_meta(spec, make_lora(targets=("attention", "experts")))
    assert _num_trained(build_on_meta(spec, make_lora())) > 0


def test_modules_to_save_are_trained_whole(
    load_nano: Callable[..., Any], make_lora: MakeLora
) -> None:
    model = load_nano(make_lora(modules_to_save=("visual.merger", "lm_head")))
    whole = [name for name in _trained(model) if "lora_" not in name]
    assert whole
    owners = {name.split(".modules_to_save.")[0] for name in whole}
    assert {owner.removeprefix("base_model.model.") for owner in owners} == {
        "model.visual.merger", "lm_head"
    }  # fmt: skip


def test_unknown_modules_to_save_are_refused(
    load_nano: Callable[..., Any], make_lora: MakeLora
) -> None:
    with pytest.raises(ValueError, match=r"modules_to_save names merger2, which this model does"):
        load_nano(make_lora(modules_to_save=("merger2",)))


def test_dropout_with_fused_experts_is_refused(nano_spec: ModelSpec, make_lora: MakeLora) -> None:
    with pytest.raises(ValueError, match=r"adapter.dropout=0.1 cannot act on fused experts"):
        build_on_meta(nano_spec, make_lora(targets=("attention", "experts"), dropout=0.1))
    assert _trained(build_on_meta(nano_spec, make_lora(dropout=0.1)))


def test_without_adapter_everything_is_trained(load_nano: Callable[..., Any]) -> None:
    model = load_nano(NoAdapterSpec())
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("targets", [("attention",), ("attention", "experts", "vision")])
def test_before_the_first_step_the_adapter_changes_nothing(
    load_nano: Callable[..., Any],
    make_lora: MakeLora,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    targets: tuple[str, ...],
) -> None:
    batch = make_batch(essays[:3])
    spec = LossSpec(name="ce", feedback_weight=1.0)
    steps = torch.zeros(1, 1, dtype=torch.int64)
    adapted = load_nano(make_lora(targets=targets, modules_to_save=("visual.merger",)))
    matrices = trainable_lora_b(adapted)
    assert len(matrices) == sum("lora_B" in name for name in _trained(adapted)) > 0
    assert all(not matrix.any() for matrix in matrices)
    with torch.no_grad():
        base = summed_loss(load_nano(), batch, spec=spec, score_steps=steps)
        found = summed_loss(adapted, batch, spec=spec, score_steps=steps)
    assert float(found) == pytest.approx(float(base), rel=1e-6)


def test_the_adapter_acts_once_b_is_not_zero(
    load_nano: Callable[..., Any],
    make_lora: MakeLora,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    batch = make_batch(essays[:1])
    with torch.no_grad():
        before = hidden_states(load_nano(), batch)
        for target in ("attention", "experts", "vision"):
            model = load_nano(make_lora(targets=(target,)))
            for matrix in trainable_lora_b(model):
                matrix.fill_(0.05)
            assert (hidden_states(model, batch) - before).abs().max() > 1e-4, target


def test_the_seed_decides_the_random_half(
    load_nano: Callable[..., Any], make_lora: MakeLora
) -> None:
    def half(seed: int) -> torch.Tensor:
        model = load_nano(make_lora(), seed=seed)
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    state = torch.get_rng_state()
    assert torch.equal(half(1), half(1))
    assert not torch.equal(half(1), half(2))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was moved"


def test_trained_weights_are_float32_beside_a_bf16_base(
    nano_spec: ModelSpec, make_lora: MakeLora, session_cache: Any
) -> None:
    from aes.model.loading import load_model

    model = load_model(
        nano_spec,
        make_lora(modules_to_save=("visual.merger",)),
        cache=session_cache,
        precision="bf16",
        accelerator="cpu",
        gradient_checkpointing="none",
        seed=1,
    )
    kinds = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_alpha_over_rank_scales_the_update(
    load_nano: Callable[..., Any],
    make_lora: MakeLora,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    """Folding ``alpha / rank * B @ A`` into the weights by hand gives the same logits."""
    model = load_nano(make_lora(rank=4, alpha=6), seed=3)
    folded = load_nano()
    plain = dict(folded.named_parameters())
    with torch.no_grad():
        found = dict(model.named_parameters())
        for name, b in found.items():
            if "lora_B" in name:
                b.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
                a = found[name.replace("lora_B", "lora_A")]
                key = name.removeprefix("base_model.model.").replace(".lora_B.default", "")
                plain[key] += 6 / 4 * b @ a
        batch = make_batch(essays[:1])
        ours = logits(model, hidden_states(model, batch)[0, -3:])
        by_hand = logits(folded, hidden_states(folded, batch)[0, -3:])
    torch.testing.assert_close(ours, by_hand, atol=1e-5, rtol=0)


def test_spec_refuses_what_means_nothing(make_lora: MakeLora) -> None:
    for change in ({"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()},
                   {"targets": ("norm",)}, {"bias": "all"}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(change))):
            make_lora(**change)
    assert dataclasses.replace(make_lora(), rank=16).rank == 16
