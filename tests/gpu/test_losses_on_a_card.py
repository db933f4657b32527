"""Losses and their gradients on a CUDA device against those on the CPU, where they are proven.

The losses on scores need attention under a mask of their own, which other kernels compute there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch import Tensor

from aes.data.branches import add_branches
from aes.data.processor import Processor
from aes.kernels.forward import autocast, hidden_states
from aes.model import LoraSpec, ModelSpec
from aes.model.loading import load_model
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss
from aes.training.score_loss import score_log_shares
from aes.training.spec import ExpectedLossSpec, OrdinalLossSpec

if TYPE_CHECKING:
    from conftest import Cards

Precision = Literal["fp32", "bf16"]

LOSSES = {
    "ce": LossSpec(name="ce", feedback_weight=1.0),
    "valid_digits": LossSpec(name="valid_digits", feedback_weight=1.0),
    "expected": ExpectedLossSpec(name="expected", feedback_weight=1.0, score_weight=0.97),
    "ordinal": OrdinalLossSpec(
        name="ordinal", feedback_weight=1.0, score_weight=0.5, ordinal_sigma=0.05
    ),
}

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def load(
    nano_spec: ModelSpec, session_cache: Path, make_lora: Callable[..., LoraSpec]
) -> Callable[..., Any]:
    """The nano with an adapter that is not zero, made so that what a token sees matters."""

    def load(accelerator: Literal["cpu", "cuda"], precision: Precision) -> Any:
        model = load_model(
            nano_spec,
            make_lora(modules_to_save=("visual.merger",)),
            cache=session_cache,
            precision=precision,
            accelerator=accelerator,
            gradient_checkpointing="none",
            seed=1,
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    draws = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                    parameter.copy_(0.02 * draws)
                elif "language_model" in name and ".o_proj." in name:
                    parameter.mul_(10)
                elif "language_model" in name and ".q_norm." in name:
                    parameter.mul_(4)
        return model.train()

    return load


@pytest.fixture(scope="module")
def batch(
    make_batch: Callable[..., Any], essays: Sequence[Essay], processor: Processor
) -> dict[str, Tensor]:
    """Three samples of unlike lengths, so that some are padded, with branches."""
    return add_branches(make_batch(essays[:3]), processor.guide)


@pytest.fixture(scope="module")
def on_cpu(
    load: Callable[..., Any], batch: dict[str, Tensor], processor: Processor
) -> dict[str, tuple[float, Tensor]]:
    """Each loss and its gradient in float32."""
    model = load("cpu", "fp32")
    return {name: _loss(model, batch, name, processor, "fp32") for name in LOSSES}


def _loss(
    model: Any, batch: dict[str, Tensor], name: str, processor: Processor, precision: Precision
) -> tuple[float, Tensor]:
    """A loss, and its gradient as one vector on the CPU."""
    device = next(model.parameters()).device
    there = {key: tensor.to(device) for key, tensor in batch.items()}
    model.zero_grad()
    with autocast(precision, device):
        loss = summed_loss(model, there, spec=LOSSES[name], score_steps=processor.guide.table)
    loss.backward()
    gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.01)])
def test_a_loss_on_a_card_is_that_on_the_cpu(
    name: str,
    precision: Precision,
    tolerance: float,
    cards: Cards,
    load: Callable[..., Any],
    batch: dict[str, Tensor],
    processor: Processor,
    on_cpu: dict[str, tuple[float, Tensor]],
) -> None:
    loss, gradient = _loss(load(cards.accelerator, precision), batch, name, processor, precision)
    expected, expected_gradient = on_cpu[name]
    assert loss == pytest.approx(expected, rel=tolerance)
    assert bool(gradient.isfinite().all())
    alike = torch.nn.functional.cosine_similarity(gradient, expected_gradient, dim=0)
    assert float(alike) > 1 - 2 * tolerance


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.02), ("bf16", 0.5)])
def test_scores_read_beside_the_answer_are_as_likely_as_on_the_cpu(
    precision: Precision,
    tolerance: float,
    cards: Cards,
    load: Callable[..., Any],
    batch: dict[str, Tensor],
    processor: Processor,
) -> None:
    def shares(accelerator: Literal["cpu", "cuda"], precision: Precision) -> Tensor:
        model = load(accelerator, precision).eval()
        device = next(model.parameters()).device
        there = {key: tensor.to(device) for key, tensor in batch.items()}
        with torch.no_grad(), autocast(precision, device):
            states = hidden_states(model, there | {"attention_mask": there["branch_mask"]})
            found = score_log_shares(model, states, there, score_steps=processor.guide.table)
        return found.cpu()

    # Where the mask is not heeded, they differ by 1.7.
    found, expected = shares(cards.accelerator, precision), shares("cpu", "fp32")
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    present = batch["gold_scores"] >= 0
    torch.testing.assert_close(found.exp().sum(dim=2)[present], torch.ones(int(present.sum())))
