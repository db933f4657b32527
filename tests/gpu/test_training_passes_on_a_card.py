"""Each way of computing a training pass on a CUDA device, by value.

In float32 against the plain way on the same device, which is held against the CPU's: the loss to
1e-5 of it, each weight's gradient to 1e-4 of its norm. In bfloat16 against float32 on the CPU: no
further from it than twice what the plain way is, or 0.2 % of the loss and 2 % of the norm of all
gradients. A few are tried on the CPU wherever these tests run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from training_options import OPTIONS

from aes.data.feature_store import MemoryStore, SamplePages
from aes.data.processor import Processor
from aes.kernels.compiling import compile_layers
from aes.kernels.forward import autocast
from aes.model import KernelSpec, LoraSpec, ModelSpec
from aes.model.adapters import trainable_lora_b
from aes.model.kernels import resolve_kernels
from aes.model.loading import load_model
from aes.model.vision_cache import VisionCache
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss

Accelerator = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

WAYS: dict[str, dict[str, Any]] = {
    **OPTIONS,
    "compiled": {"compiled": True},
    "all at once, compiled": OPTIONS["all at once"] | {"compiled": True},
}
ON_A_CARD = [
    pytest.param("cuda", precision, name, marks=pytest.mark.gpu)
    for name in WAYS
    for precision in ("fp32", "bf16")
]
ON_THE_CPU = [
    ("cpu", "fp32", "frozen experts"),
    ("cpu", "fp32", "page features"),
    ("cpu", "fp32", "compiled"),
    ("cpu", "bf16", "fused"),
    ("cpu", "bf16", "all at once"),
]


@dataclass(frozen=True)
class Pass:
    """A loss, and the gradient of each weight that is trained, on the CPU."""

    loss: float
    gradients: dict[str, Tensor]

    def loss_error(self, truth: Pass) -> float:
        """As a share of the true loss."""
        return abs(self.loss - truth.loss) / abs(truth.loss)

    def gradient_errors(self, truth: Pass) -> dict[str, float]:
        """As shares of each weight's true norm."""
        assert self.gradients.keys() == truth.gradients.keys()
        return {
            name: float((self.gradients[name] - true).norm() / true.norm())
            for name, true in truth.gradients.items()
        }

    def gradient_error(self, truth: Pass) -> float:
        """Of all weights together, as a share of their true norm."""
        names = sorted(truth.gradients)
        found, true = (torch.cat([p.gradients[n].flatten() for n in names]) for p in (self, truth))
        return float((found - true).norm() / true.norm())


@pytest.fixture(scope="module")
def run(
    make_batch: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    essays: Sequence[Essay],
    processor: Processor,
    nano_spec: ModelSpec,
    session_cache: Path,
    read_conf: Callable[..., dict[str, Any]],
) -> Callable[..., Pass]:
    """Function from a device, a precision and a way to the pass of three samples with pages."""
    plain = KernelSpec(**read_conf("kernels/plain"))

    def run(
        accelerator: Accelerator,
        precision: Precision,
        *,
        policy: Any = "none",
        features: bool = False,
        packed: bool = False,
        compiled: bool = False,
        **changes: Any,
    ) -> Pass:
        kernels = replace(plain, **changes)
        adapter = make_lora(modules_to_save=("visual.merger",))
        model = load_model(
            nano_spec,
            adapter,
            cache=session_cache,
            precision=precision,
            accelerator=accelerator,
            gradient_checkpointing=policy,
            seed=1,
            attention=kernels.attention,  # type: ignore[arg-type]
            kernels=resolve_kernels(kernels, nano_spec, adapter),
        ).train()
        generator = torch.Generator().manual_seed(0)
        for b in trainable_lora_b(model):  # so that A gets a gradient
            b.data = (torch.randn(b.shape, generator=generator) * 0.05).to(b.device)
        if compiled:
            compile_layers(model)
        device = next(model.parameters()).device
        assert device.type == accelerator
        batch = make_batch(essays[:3], is_packed=packed)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        rows = kernels.logit_rows
        with autocast(precision, device):
            loss = summed_loss(
                model,
                with_kept_features(model, batch) if features else batch,
                spec=LossSpec(name="ce", feedback_weight=0.5),
                score_steps=processor.guide.table,
                logit_rows=rows if isinstance(rows, int) else None,
            )
        torch.autograd.backward(loss)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in trained.values())
        gradients = {n: p.grad.float().cpu() for n, p in trained.items() if p.grad is not None}
        return Pass(float(loss.detach()), gradients)

    return run


def with_kept_features(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch of a second epoch: features come from host memory, and nothing was drawn."""
    store = MemoryStore(len(batch["image_grid_thw"]), max_bytes=2**30)
    cache = VisionCache(store)
    grids = [(height, width) for _, height, width in batch["image_grid_thw"].tolist()]
    drawn = [SamplePages(row, (grid,), "", True, None) for row, grid in enumerate(grids)]
    cache.fill(model, batch | {"pages": drawn})
    known = [page._replace(is_drawn=not store.reader.is_kept[page.row]) for page in drawn]
    filled = cache.fill(model, batch | {"pages": known, "pixel_values": batch["pixel_values"][:0]})
    assert cache.count() == (2 * len(grids), len(grids))
    return filled


@pytest.fixture(scope="module")
def plain_pass(run: Callable[..., Pass]) -> Callable[[Accelerator, Precision], Pass]:
    """The plain way, computed once for each device and precision."""
    return cache(run)


@pytest.fixture(autouse=True)
def _exact_and_quiet(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if accelerator == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    # Else pytest keeps thousands of its lines for each graph.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    if accelerator == "cpu":  # to generate code takes a minute there
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    products.allow_tf32, convolutions.allow_tf32 = allowed


@pytest.mark.parametrize(("accelerator", "precision", "name"), [*ON_THE_CPU, *ON_A_CARD])
def test_a_way_computes_what_the_plain_way_does(
    accelerator: Accelerator,
    precision: Precision,
    name: str,
    run: Callable[..., Pass],
    plain_pass: Callable[[Accelerator, Precision], Pass],
) -> None:
    found, plain = run(accelerator, precision, **WAYS[name]), plain_pass(accelerator, precision)
    if precision == "fp32":
        assert found.loss_error(plain) <= 1e-5
        for weight, error in found.gradient_errors(plain).items():
            assert error <= 1e-4, weight
        return
    truth = plain_pass("cpu", "fp32")
    assert found.loss_error(truth) <= max(2 * plain.loss_error(truth), 0.002)
    assert found.gradient_error(truth) <= max(2 * plain.gradient_error(truth), 0.02)


@pytest.mark.parametrize(
    ("accelerator", "precision", "loss_tolerance", "gradient_tolerance"),
    [
        ("cpu", "bf16", 0.002, 0.03),
        pytest.param("cuda", "fp32", 1e-4, 1e-3, marks=pytest.mark.gpu),
        pytest.param("cuda", "bf16", 0.002, 0.03, marks=pytest.mark.gpu),
    ],
)
def test_the_plain_way_is_that_of_the_cpu_in_float32(
    accelerator: Accelerator,
    precision: Precision,
    loss_tolerance: float,
    gradient_tolerance: float,
    plain_pass: Callable[[Accelerator, Precision], Pass],
) -> None:
    found, truth = plain_pass(accelerator, precision), plain_pass("cpu", "fp32")
    assert all(bool(gradient.any()) for gradient in truth.gradients.values())
    assert found.loss_error(truth) <= loss_tolerance
    assert found.gradient_error(truth) <= gradient_tolerance
