"""Features of pages in place of their pixels: where they are kept, whether they may be, and how.

What a frozen tower made of a page is used again in every epoch. Features are computed page by page,
so they do not depend on what stood beside a page in its batch, and a resumed run, which computes
them again, goes the same way to the bit. A page is the same in every epoch: the noise of scanned
ones is seeded by the essay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor

from aes.data.feature_store import FeatureStore, SamplePages
from aes.hardware import StrategySpec
from aes.kernels.parts import tower_of
from aes.kernels.vision import (
    PATCHES_PER_TOKEN,
    PageFeatures,
    feature_widths,
    fixed_weights,
    has_frozen_blocks,
    join_pages,
    page_features,
)
from aes.model.spec import VisionCacheSpec

Place = Literal["none", "memory", "disk"]


@dataclass(frozen=True, kw_only=True)
class KeptFeatures:
    """What becomes of pages' features in a run.

    Attributes:
        place: Where they are kept.
        num_bytes: What those of all pages would take; 0 where none are kept.
        max_bytes: Bound of what is kept.
    """

    place: Place
    num_bytes: int = 0
    max_bytes: int = 0

    def found_share(self, epoch: int, *, num_ranks: int) -> float:
        """Share of an epoch's pages whose features are expected to be there.

        Samples are dealt anew in each epoch. Host memory has what its own rank has seen, the disk
        what any has; nothing is counted that an earlier run left there.

        Args:
            epoch: Counted from 0.
        """
        if self.place == "none" or epoch == 0:
            return 0.0
        seen = 1 - (1 - 1 / num_ranks) ** epoch if self.place == "memory" else 1.0
        return min(seen, self.max_bytes / max(1, self.num_bytes))


def choose_place(
    spec: VisionCacheSpec,
    model: Any,
    *,
    strategy: StrategySpec,
    precision: Literal["fp32", "bf16"],
    num_page_tokens: int,
    max_epochs: int,
) -> KeptFeatures:
    """Where features are kept; ``auto`` becomes host memory where that is of use.

    With several ranks too, though the disk would share what each computed: nobody has measured
    whether reading pays there, and gigabytes made of pupils' pages are not left on a disk unasked.

    Args:
        model: With its adapter; may be on the meta device.
        num_page_tokens: Of all samples to train on.
        max_epochs: Passes over them.

    Raises:
        ValueError: If a place was named and nothing could be used again.
    """
    if spec.place == "none":
        return KeptFeatures(place="none")
    obstacle = _obstacle(model, strategy=strategy)
    if num_page_tokens == 0:
        obstacle = "no sample has a page"
    if obstacle is None and spec.place != "disk" and max_epochs == 1:
        obstacle = "trainer.max_epochs=1 shows no page twice"
    if obstacle is None:
        return KeptFeatures(
            place="memory" if spec.place == "auto" else spec.place,
            num_bytes=num_page_tokens * bytes_per_token(model, precision=precision),
            max_bytes=int(spec.max_gib * 2**30),
        )
    if spec.place == "auto":
        return KeptFeatures(place="none")
    raise ValueError(
        f"vision_cache.place={spec.place} would keep nothing of use: {obstacle}; set "
        "vision_cache=auto or none"
    )


def _obstacle(model: Any, *, strategy: StrategySpec) -> str | None:
    tower = tower_of(model)
    if tower is None:
        return "this model reads text alone"
    if strategy.shards_weights:
        return (
            f"under strategy={strategy.name} no rank holds the vision tower, and all must run it "
            "together"
        )
    if not has_frozen_blocks(tower):
        return "the vision tower is trained, so what it makes of a page changes"
    return None


def bytes_per_token(model: Any, *, precision: Literal["fp32", "bf16"]) -> int:
    """What is kept for each token of a page; ``model`` may be on the meta device."""
    return sum(feature_widths(_visual(model))) * (2 if precision == "bf16" else 4)


def tower_fingerprint(model: Any, *, precision: str, fused_ops: str, image_processor: Any) -> str:
    """Digest of all that decides what the tower makes of patches, and of how patches are cut.

    Args:
        fused_ops: Of ``KernelSpec``, which changes how the tower reads patches.
    """
    visual = _visual(model)
    digest = hashlib.sha256()
    for part in (
        *(version(name) for name in ("torch", "transformers")),
        precision,
        fused_ops,
        *_device_facts(visual.device),
        visual.config.to_json_string(),
        visual.config._attn_implementation,
        image_processor.to_json_string(),
        feature_widths(visual),
    ):
        digest.update(f"{part}\n".encode())
    for name, tensor in fixed_weights(visual):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _device_facts(device: torch.device) -> tuple[object, ...]:
    """What decides how a device rounds."""
    if device.type == "cpu":
        return "cpu", torch.backends.cpu.get_cpu_capability()
    precision = torch.get_float32_matmul_precision()  # TF32 or not
    return torch.cuda.get_device_name(device), precision, torch.backends.cudnn.allow_tf32


class VisionCache:
    """Puts features in place of a training batch's pages.

    Args:
        store: Keeps them.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._num_pages = self._num_hits = 0
        self._counted = (0, 0)

    def fill(self, model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with ``page_features`` instead of ``pixel_values``.

        To be called in the precision of training. Features that were not there are computed and
        kept.

        Args:
            batch: As ``Collator`` gives it; one without ``pages`` stays as it is.
        """
        if "pages" not in batch:
            return dict(batch)
        samples: list[SamplePages] = batch["pages"]
        rest = {name: batch[name] for name in batch if name not in ("pages", "pixel_values")}
        patches = batch["pixel_values"]
        found, at = [], 0
        for sample in samples:
            num = sum(h * w for h, w in sample.grids) if sample.is_drawn else 0
            found.append(self._features(model, sample, patches[at : at + num]))
            at += num
        assert at == len(patches), "patches of pages that no sample has"
        return {**rest, "page_features": join_pages(found)}

    def _features(self, model: Any, sample: SamplePages, patches: Tensor) -> PageFeatures:
        self._num_pages += len(sample.grids)
        features = self.store.find(sample)
        if features is not None:
            self._num_hits += len(sample.grids)
            return _to(features, patches.device)
        assert sample.is_drawn, "neither pixels nor features of a page"
        features = compute_features(model, patches, sample.grids)
        self.store.keep(sample, features)
        return features

    def count(self) -> tuple[int, int]:
        """Pages since the last call, and those of them whose features were there."""
        pages, hits = self._counted
        self._counted = self._num_pages, self._num_hits
        return self._num_pages - pages, self._num_hits - hits

    def close(self) -> str:
        """Finish what is under way; tell what is kept and how often it was of use."""
        self.store.close()
        return f"{self.store.describe()}; {self._describe_use()}"

    def _describe_use(self) -> str:
        """A page counts once an epoch."""
        num, hits = self._num_pages, self._num_hits
        if num == 0:
            return "no page was shown"
        if hits == 0:
            return f"the tower ran over all {num:,} pages shown, of which none was there yet"
        if hits == num:
            return f"all {num:,} pages shown came from there, and the tower ran over none"
        return f"{hits:,} of {num:,} pages shown came from there, the tower ran over the others"


def compute_features(
    model: Any, patches: Tensor, grids: tuple[tuple[int, int], ...]
) -> PageFeatures:
    """Features of a sample's pages, each computed by itself.

    Args:
        patches: Of all its pages, ``[patches, 1536]``.
        grids: Height and width of each page in patches.
    """
    parts, at = [], 0
    for height, width in grids:
        own = patches[at : at + height * width]
        grid = torch.tensor([[1, height, width]], device=patches.device)
        parts.append(page_features(model, own, grid))
        at += len(own)
    features = join_pages(parts)
    num_tokens = at // PATCHES_PER_TOKEN
    assert all(len(tensor) in (num_tokens, at) for tensor in features.tensors)
    return features


def _to(features: PageFeatures, device: torch.device) -> PageFeatures:
    pooled, *deepstack = (tensor.to(device, non_blocking=True) for tensor in features.tensors)
    return PageFeatures(pooled, tuple(deepstack))


def _visual(model: Any) -> Any:
    tower = tower_of(model)
    assert tower is not None, "a model that reads text alone has no features of pages"
    return tower
