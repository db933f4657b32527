"""Each way of computing by itself gives the loss and gradients of the plain way, on real pages.

And on text alone, by a model that reads nothing else.

Compiled layers are compared in ``test_compiling.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_options import OPTIONS

from aes.data.processor import Processor
from aes.kernels.vision import page_features
from aes.model import KernelSpec, LoraSpec, ModelSpec
from aes.model.adapters import trainable_lora_b
from aes.model.kernels import resolve_kernels
from aes.model.loading import load_model
from aes.model.spec import NoAdapterSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss


@pytest.fixture(scope="module")
def plain(read_conf: Callable[..., dict[str, Any]]) -> KernelSpec:
    return KernelSpec(**read_conf("kernels/plain"))


@pytest.fixture(scope="module")
def dense_spec(nano_spec: ModelSpec) -> ModelSpec:
    text = replace(nano_spec.text, num_experts=0, experts_per_token=0, expert_intermediate_size=0)
    return replace(nano_spec, architecture="qwen3_vl", text=text)


@pytest.fixture(scope="module")
def run(
    make_batch: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    essays: tuple[Essay, ...],
    processor: Processor,
    text_builder: ExampleBuilder,
    text_processor: Processor,
    session_cache: Path,
    plain: KernelSpec,
) -> Callable[..., tuple[float, dict[str, Tensor]]]:
    """Loss, and gradients of what is trained, of three samples."""

    def once(
        spec: ModelSpec,
        *,
        policy: Any = "none",
        features: bool = False,
        packed: bool = False,
        **changes: Any,
    ) -> tuple[float, dict[str, Tensor]]:
        kernels = replace(plain, **changes)
        adapter = make_lora(modules_to_save=spec.modules_to_save)
        model = load_model(
            spec,
            adapter,
            cache=session_cache,
            precision="fp32",
            accelerator="cpu",
            gradient_checkpointing=policy,
            seed=1,
            attention=kernels.attention,  # type: ignore[arg-type]
            kernels=resolve_kernels(kernels, spec, adapter),
        ).train()
        generator = torch.Generator().manual_seed(0)
        for b in trainable_lora_b(model):  # so that A gets a gradient
            b.data = torch.randn(b.shape, generator=generator) * 0.05
        of_text = {"builder": text_builder, "processor": text_processor}
        made_of = of_text if spec.reads_text_alone else {}
        batch = make_batch(essays[:3], is_packed=packed, **made_of)
        if features:
            pages = page_features(model, batch["pixel_values"], batch["image_grid_thw"])
            batch = {**batch, "page_features": pages}
        rows = kernels.logit_rows
        loss = summed_loss(
            model,
            batch,
            spec=LossSpec(name="ce", feedback_weight=0.5),
            score_steps=processor.guide.table,
            logit_rows=rows if isinstance(rows, int) else None,
        )
        torch.autograd.backward(loss)
        found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        return float(loss.detach()), found

    return once


@pytest.fixture(scope="module")
def specs(nano_spec: ModelSpec, dense_spec: ModelSpec, nano_text_spec: ModelSpec) -> Any:
    tied = replace(nano_text_spec.text, tie_embeddings=True)
    return {
        "mixture": nano_spec,
        "dense": dense_spec,
        "text": nano_text_spec,
        "tied text": replace(nano_text_spec, text=tied),
    }


@pytest.fixture(scope="module")
def truths(run: Any, specs: dict[str, ModelSpec]) -> Any:
    return {kind: run(spec) for kind, spec in specs.items()}


_DENSE = [name for name, changes in OPTIONS.items() if changes.keys() != {"experts"}]
_TEXT = [name for name in _DENSE if name != "page features"]
_CASES = [
    *((name, "mixture") for name in OPTIONS),
    *((name, "dense") for name in _DENSE),
    *((name, "text") for name in _TEXT),
    *((name, "tied text") for name in ("logits in chunks", "head as attention", "all at once")),
]


@pytest.mark.parametrize(("name", "kind"), _CASES)
def test_an_option_changes_no_result(
    name: str,
    kind: str,
    run: Callable[..., tuple[float, dict[str, Tensor]]],
    truths: Any,
    specs: dict[str, ModelSpec],
) -> None:
    changes = dict(OPTIONS[name])
    if kind != "mixture":
        changes["experts"] = "eager"
    if "text" in kind:
        changes.pop("features", None)
    loss, grads = run(specs[kind], **changes)
    true_loss, true_grads = truths[kind]
    assert loss == pytest.approx(true_loss, rel=1e-5)
    assert len(true_grads) >= 16
    for weight, truth in true_grads.items():
        assert truth.any(), weight
        assert (grads[weight] - truth).norm() <= 1e-4 * truth.norm(), weight


def test_a_frozen_tower_keeps_nothing_for_a_backward_pass(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    """So that there is no setting to run it without autograd."""
    kept: list[Tensor] = []
    batch = make_batch(essays[:2])
    visual = load_nano(make_lora()).train().get_base_model().model.visual
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda none: none):
        made = visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
    assert made.pooler_output.grad_fn is None
    assert not kept


def test_what_auto_means_for_the_experts(
    plain: KernelSpec,
    nano_spec: ModelSpec,
    dense_spec: ModelSpec,
    make_lora: Callable[..., LoraSpec],
) -> None:
    auto = replace(plain, experts="auto")
    trained = make_lora(targets=("attention", "experts"))
    assert resolve_kernels(auto, nano_spec, make_lora()).experts == "frozen"
    assert resolve_kernels(auto, nano_spec, None).experts == "frozen"
    assert resolve_kernels(auto, nano_spec, trained).experts == "grouped_mm"
    assert resolve_kernels(auto, nano_spec, NoAdapterSpec()).experts == "grouped_mm"
    assert resolve_kernels(auto, dense_spec, make_lora()).experts == "eager"
    assert resolve_kernels(plain, dense_spec, make_lora()) == plain
    with pytest.raises(ValueError, match="adapter trains them"):
        resolve_kernels(replace(plain, experts="frozen"), nano_spec, trained)
    with pytest.raises(ValueError, match="would do nothing"):
        resolve_kernels(replace(plain, experts="grouped_mm"), dense_spec, make_lora())
