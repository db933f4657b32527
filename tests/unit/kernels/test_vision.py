"""Features computed apart, page by page, against the pass with the tower in it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from aes.kernels.attention import AttentionName, use_attention
from aes.kernels.forward import hidden_states
from aes.kernels.vision import (
    PageFeatures,
    feature_widths,
    fixed_weights,
    has_frozen_blocks,
    join_pages,
    page_features,
)
from aes.model import LoraSpec
from aes.model.spec import NoAdapterSpec
from aes.records import Essay

TRAINED = ((), ("visual.merger",), ("visual.merger", "deepstack_merger_list.0"))


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Any], essays: tuple[Essay, ...]) -> dict[str, Tensor]:
    """Pages of several heights; the second sample has more than one."""
    texts = {1: essays[1].text * 2, 4: essays[4].text * 10, 0: essays[0].text}
    found: dict[str, Tensor] = make_batch([replace(essays[i], text=t) for i, t in texts.items()])
    return found


def page_by_page(model: Any, batch: dict[str, Tensor]) -> list[PageFeatures]:
    grids = batch["image_grid_thw"]
    patches = torch.split(batch["pixel_values"], grids.prod(1).tolist())
    assert len(patches) > 3
    assert len({len(page) for page in patches}) > 1, "pages of one size would show less"
    return [page_features(model, p, g[None]) for p, g in zip(patches, grids, strict=True)]


def with_features(batch: dict[str, Tensor], features: PageFeatures) -> dict[str, Any]:
    rest = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
    return {**rest, "page_features": features}


@pytest.mark.parametrize("trained", TRAINED)
def test_states_and_gradients_equal_those_of_the_plain_pass(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    batch: dict[str, Tensor],
    trained: tuple[str, ...],
) -> None:
    model = load_nano(make_lora(modules_to_save=trained))
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():  # else LoRA's A gets no gradient
        for name, weight in weights.items():
            if "lora_B" in name:
                weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
    plain = hidden_states(model, batch)
    features = join_pages(page_by_page(model, batch))
    ours = hidden_states(model, with_features(batch, features))
    assert torch.equal(ours, plain)
    direction = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((plain * direction).sum(), list(weights.values()))
    found = torch.autograd.grad((ours * direction).sum(), list(weights.values()))
    for name, one, other in zip(weights, found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=name)
    assert any(g.abs().sum() > 0 for name, g in zip(weights, found, strict=True) if "lora" in name)


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_packed_rows_take_features_too(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    attention: AttentionName,
) -> None:
    model = load_nano(make_lora())
    use_attention(model, attention)
    batch = make_batch([replace(essays[4], text=essays[4].text * 10), essays[0]], is_packed=True)
    features = page_features(model, batch["pixel_values"], batch["image_grid_thw"])
    ours = hidden_states(model, with_features(batch, features))
    assert torch.equal(ours, hidden_states(model, batch))


def test_a_trained_merger_acts_on_features_that_were_made_before(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec], batch: dict[str, Tensor]
) -> None:
    model = load_nano(make_lora(modules_to_save=("visual.merger",)))
    features = page_features(model, batch["pixel_values"], batch["image_grid_thw"])
    before = hidden_states(model, with_features(batch, features))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "merger" in name and weight.requires_grad:
                weight.add_(0.1)
    after = hidden_states(model, with_features(batch, features))
    assert not torch.equal(after, before)
    assert torch.equal(after, hidden_states(model, batch))


def test_a_page_has_the_same_features_whatever_stands_beside_it(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec], batch: dict[str, Tensor]
) -> None:
    model = load_nano(make_lora())
    parts = page_by_page(model, batch)
    turned = join_pages(parts[::-1])
    for tensors in zip(turned.tensors, *(part.tensors for part in parts), strict=True):
        assert torch.equal(tensors[0], torch.cat(tensors[:0:-1]))


@pytest.mark.parametrize("trained", TRAINED)
def test_the_size_of_features_is_known_without_them(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    batch: dict[str, Tensor],
    trained: tuple[str, ...],
) -> None:
    model = load_nano(make_lora(modules_to_save=trained))
    features = page_features(model, batch["pixel_values"], batch["image_grid_thw"])
    widths = feature_widths(model.get_base_model().model.visual)
    num_tokens = len(batch["pixel_values"]) // 4
    assert [tensor.numel() for tensor in features.tensors] == [num_tokens * n for n in widths]
    assert features.num_bytes == 4 * num_tokens * sum(widths)
    assert not any(tensor.requires_grad for tensor in features.tensors)


def test_knows_whether_the_blocks_are_frozen(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    def frozen(adapter: Any) -> bool:
        model = load_nano(adapter)
        inner = model.get_base_model() if isinstance(adapter, LoraSpec) else model
        return has_frozen_blocks(inner.model.visual)

    assert frozen(make_lora())
    assert frozen(make_lora(modules_to_save=("visual.merger", "lm_head")))
    assert not frozen(make_lora(targets=("attention", "vision")))
    assert not frozen(make_lora(modules_to_save=("visual.patch_embed",)))
    assert not frozen(NoAdapterSpec())


def test_weights_of_a_trained_merger_do_not_decide_features(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    visual = load_nano(make_lora(modules_to_save=("visual.merger",))).get_base_model().model.visual
    names = {name for name, _ in fixed_weights(visual)}
    assert "patch_embed.proj.weight" in names
    assert "deepstack_merger_list.0.norm.weight" in names
    assert not any(name.startswith("merger.") for name in names)
