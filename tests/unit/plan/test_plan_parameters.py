from __future__ import annotations

from collections.abc import Callable

from torch import nn

from aes.model import LoraSpec, ModelSpec, NoAdapterSpec
from aes.model.loading import build_on_meta
from aes.plan import count_parameters
from aes.plan.parameters import sum_parameters


def test_the_30b_model_has_the_published_sizes(
    model_spec: Callable[[str], ModelSpec], lora: LoraSpec
) -> None:
    counts = count_parameters(build_on_meta(model_spec("qwen3_vl_30b_a3b"), lora))
    billions = {name: round(count.total / 1e9, 3) for name, count in counts.items()}
    assert billions.pop("LoRA: attention") == 0.007
    assert billions.pop("norms") == 0.0
    assert billions == {
        "experts": 28.991,
        "attention": 0.906,
        "vision tower": 0.416,
        "merger": 0.123,
        "router": 0.013,
        "embeddings": 0.311,
        "lm_head": 0.311,
    }
    assert counts["LoRA: attention"] == (6_684_672, 6_684_672)
    total, trainable = sum_parameters(counts)
    assert round((total - trainable) / 1e9, 3) == 31.071
    assert trainable == 6_684_672


def test_lora_on_experts_is_counted_apart(
    model_spec: Callable[[str], ModelSpec],
) -> None:
    adapter = LoraSpec(
        rank=8,
        alpha=16,
        dropout=0.0,
        targets=("attention", "experts"),
        modules_to_save=(),
        init_from=None,
    )
    counts = count_parameters(build_on_meta(model_spec("qwen3_vl_30b_a3b"), adapter))
    assert round(counts["LoRA: experts"].trainable / 1e6, 1) == 314.6
    assert counts["LoRA: attention"].trainable == 6_684_672
    assert counts["experts"].trainable == 0


def test_modules_trained_whole_are_a_trained_copy_beside_the_frozen_original(
    model_spec: Callable[[str], ModelSpec],
) -> None:
    adapter = LoraSpec(
        rank=8,
        alpha=16,
        dropout=0.0,
        targets=("attention",),
        modules_to_save=("lm_head",),
        init_from=None,
    )
    counts = count_parameters(build_on_meta(model_spec("nano"), adapter))
    head = 64 * 151_936
    assert counts["trained whole"] == (head, head)
    assert counts["lm_head"] == (head, 0)


def test_a_dense_model_has_an_mlp_and_ties_its_head(
    model_spec: Callable[[str], ModelSpec],
) -> None:
    counts = count_parameters(build_on_meta(model_spec("qwen3_vl_2b"), NoAdapterSpec()))
    assert counts["MLP"].total == 28 * 3 * 2048 * 6144
    assert "experts" not in counts
    assert "other" not in counts
    total, trainable = sum_parameters(counts)
    assert total == trainable


def test_an_unknown_part_is_counted_too() -> None:
    strange = nn.Linear(3, 2)
    strange.bias.requires_grad_(False)
    assert count_parameters(strange) == {"other": (8, 6)}
