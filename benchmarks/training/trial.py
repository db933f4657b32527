"""One way of computing, made ready and run: the product's own pass through its own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from aes.kernels.attention import use_attention
from aes.kernels.checkpointing import checkpoint_layers
from aes.kernels.compiling import compile_layers
from aes.kernels.experts import use_experts
from aes.kernels.forward import autocast, hidden_states
from aes.kernels.fused import fuse_ops
from aes.kernels.logits import summed_cross_entropy
from aes.kernels.patches import linear_patches
from aes.kernels.vision import PageFeatures, join_pages, page_features
from training.batches import IGNORED, Batching, Sample, cut, move
from training.geometry import Geometry
from training.options import Options
from training.random_model import build_model, trained, watched_load

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What all ways have in common.

    Attributes:
        weights: Of the base, shared by all models.
        samples: Of one step.
    """

    geometry: Geometry
    weights: Mapping[str, Tensor]
    samples: Sequence[Sample]
    precision: Precision
    device: torch.device

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [len(sample.input_ids) for sample in self.samples]

    @property
    def num_supervised(self) -> int:
        """Supervised tokens of a step."""
        return sum(int((sample.labels != IGNORED).sum()) for sample in self.samples)

    @cache  # noqa: B019 (there is one setting, and a page's patches are 14 MB)
    def batches(self, micro_batch: int, batching: Batching) -> list[dict[str, Tensor]]:
        """Micro-batches of the step, on the host, shared by all trials."""
        return cut(self.samples, micro_batch, batching)


class Trial:
    """A model made ready for one way, with an optimiser and the micro-batches of one step.

    Args:
        options: The way.
        setting: The rest.
    """

    def __init__(self, options: Options, setting: Setting) -> None:
        self.options, self.setting = options, setting
        self.model = build_model(setting.geometry, dict(setting.weights))
        self.batches = setting.batches(options.micro_batch, options.batching)
        if options.vision == "cached":
            self.batches = [self._with_features(batch) for batch in self.batches]
        use_attention(self.model, options.attention)
        use_experts(self.model, options.experts)
        if options.fused:
            fuse_ops(self.model)
            linear_patches(self.model)
        checkpoint_layers(self.model, options.checkpointing, options.every)
        if options.compiled:
            compile_layers(self.model)
        self.optimizer = torch.optim.AdamW(trained(self.model).values(), lr=1e-4)

    def first_pass(self) -> tuple[float, dict[str, Tensor], float | None]:
        """Loss of the step, gradients of what is trained, and the experts' uneven load."""
        loads: list[float] = []
        with ExitStack() as stack:
            if not self.options.compiled:  # a hook would break compiled layers in two
                loads = stack.enter_context(watched_load(self.model))
            loss = self.accumulate()
        gradients = {
            name: p.grad.float().cpu()
            for name, p in trained(self.model).items()
            if p.grad is not None
        }
        self.optimizer.zero_grad()
        return loss, gradients, sum(loads) / len(loads) if loads else None

    def step(self) -> float:
        """A whole optimiser step; gives its loss."""
        loss = self.accumulate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def accumulate(self) -> float:
        """Forward and backward of all micro-batches; gives the mean loss of a token."""
        total = torch.zeros((), device=self.setting.device)
        for kept in self.batches:
            batch = move(kept, self.setting.device)
            with autocast(self.setting.precision, self.setting.device):
                share = self._summed_loss(batch) / self.setting.num_supervised
            share.backward()  # type: ignore[no-untyped-call]
            total += share.detach()
        return float(total)

    def _summed_loss(self, batch: dict[str, Any]) -> Tensor:
        if self.options.forward == "transformers":
            at_pages = batch["input_ids"] == self.setting.geometry.image_token
            mean: Tensor = self.model(**batch, mm_token_type_ids=at_pages.int()).loss
            return torch.mul(mean, (batch["labels"] != IGNORED).sum())
        if self.options.vision == "no_grad":
            features = self._features(batch["pixel_values"], batch["image_grid_thw"])
            batch = batch | {"page_features": features}
        states = hidden_states(self.model, batch)
        targets = batch["labels"][:, 1:]
        supervised = targets != IGNORED
        return summed_cross_entropy(
            self.model,
            states[:, :-1][supervised],
            targets[supervised],
            weights=None,
            rows=self.options.logit_rows,
        )

    def page_features(self) -> list[PageFeatures]:
        """Features of the step's pages, each computed by itself, as a cache is filled."""
        return [self._features(s.patches, s.grid[None]) for s in self.setting.samples]

    @torch.no_grad()
    def _features(self, patches: Tensor, grids: Tensor) -> PageFeatures:
        """Features of one page or more, from the host or the device."""
        device = self.setting.device
        with autocast(self.setting.precision, device):
            return page_features(self.model, move(patches, device), move(grids, device))

    def _with_features(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The batch with its pages' features on the host in place of their patches."""
        grids, host = batch["image_grid_thw"], torch.device("cpu")
        pages = torch.split(batch["pixel_values"], grids.prod(dim=1).tolist())
        parts = [self._features(page, grid[None]) for page, grid in zip(pages, grids, strict=True)]
        rest = {name: value for name, value in batch.items() if name != "pixel_values"}
        return rest | {"page_features": move(join_pages(parts), host)}
