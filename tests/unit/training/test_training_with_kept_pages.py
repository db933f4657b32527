"""Training on kept features goes the way of training on pages, to the bit; it says what it kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.data.feature_files import DiskStore
from aes.data.feature_store import FeatureStore, MemoryStore
from aes.model.vision_cache import VisionCache
from aes.prompt.build import ExampleBuilder
from aes.training.checkpoint import find_resumable
from aes.training.module import TuningModule


def _lines(run_dir: Path, name: str) -> list[Any]:
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    return [line.get(name) for line in map(json.loads, text.splitlines()) if "loss" in line]


def _weights(module: TuningModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])


@pytest.fixture(scope="module")
def plain(
    make_training: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[float], torch.Tensor]:
    """Losses and weights of a run that draws every page anew."""
    run_dir = tmp_path_factory.mktemp("plain")
    module, run = make_training()
    run(run_dir)
    assert _lines(run_dir, "vision_cache_hits") == [None] * 6
    return _lines(run_dir, "loss"), _weights(module)


def _store(kind: str, folder: Path, builder: ExampleBuilder) -> FeatureStore:
    if kind == "memory":
        return MemoryStore(10, max_bytes=2**30)
    return DiskStore(
        folder,
        fingerprint="tower",
        renderer=builder.renderer,
        max_bytes=2**30,
        expected_bytes=0,
    )


@pytest.mark.parametrize(("kind", "num_workers"), [("memory", 0), ("memory", 1), ("disk", 1)])
def test_the_curve_is_that_of_a_run_without_it(
    make_training: Callable[..., Any],
    plain: tuple[list[float], torch.Tensor],
    builder: ExampleBuilder,
    tmp_path: Path,
    kind: str,
    num_workers: int,
) -> None:
    cache = VisionCache(_store(kind, tmp_path / "cache", builder))
    module, run = make_training(vision_cache=cache, num_workers=num_workers)
    run(tmp_path / "run")
    assert _lines(tmp_path / "run", "loss") == plain[0]
    assert torch.equal(_weights(module), plain[1])
    hits = _lines(tmp_path / "run", "vision_cache_hits")
    assert hits[:3] == [0, 0, 0]
    assert hits[3:] == [1, 1, 1]
    assert "10 of 20 pages shown came from there" in cache.close()


def test_a_resumed_run_goes_the_same_way(
    make_training: Callable[..., Any],
    plain: tuple[list[float], torch.Tensor],
    builder: ExampleBuilder,
    tmp_path: Path,
) -> None:
    """It computes features again, in other batches than those in which they were first needed."""
    for max_steps, second_epoch in ((4, [1]), (None, [1, 0, 0])):
        module, run = make_training(vision_cache=VisionCache(_store("memory", tmp_path, builder)))
        start = find_resumable(tmp_path / "run" / "checkpoints") if max_steps is None else None
        assert (start is None) == (max_steps is not None)
        run(tmp_path / "run", max_steps=max_steps, start=start)
        assert _lines(tmp_path / "run", "vision_cache_hits")[3:] == second_epoch
    assert _lines(tmp_path / "run", "loss") == plain[0]
    assert torch.equal(_weights(module), plain[1])
