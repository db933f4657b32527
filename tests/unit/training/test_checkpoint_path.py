"""A run that goes on from a checkpoint takes the path of one that was never interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.training.checkpoint import find_resumable, read_checkpoint
from aes.training.checkpoint.manifest import read_manifest
from aes.training.checkpoint.resumable import checkpoint_folders, step_name
from aes.training.fit import Fitted
from aes.training.module import TuningModule

TIMES = (
    *("tokens_per_s", "data_wait_share", "elapsed_s", "remaining_s", "peak_memory_gib"),
    "vision_cache_hits",  # a resumed run has seen no page yet
)
Training = Callable[..., tuple[TuningModule, Callable[..., Fitted]]]

# Ten essays in steps of 4: three steps an epoch, the last one of a single micro-batch.
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    # Within an epoch, at its end without and with a validation, and behind the last step.
    "epochs": ({"max_epochs": 3, "val_every_n_epochs": 2}, (2, 3, 6, 9)),
    "max_steps": ({"max_epochs": 3, "max_steps": 5}, (4, 5)),
    "max_steps at an epoch's end": ({"max_epochs": 3, "max_steps": 6}, (3, 6)),
    # Steps of unlike numbers of micro-batches.
    "limited": ({"max_epochs": 2}, (2, 3, 4)),
}
LIMITED = {"layout": "packed", "max_tokens": 400}


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, times left out."""
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def trained(module: TuningModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])


def cut_back(run_dir: Path, step: int, place: Path) -> Path:
    """The run as a kill right behind the save of ``step`` would have left it, and a bit of log."""
    shutil.copytree(run_dir, place, symlinks=True)
    saved = place / "checkpoints"
    for folder in checkpoint_folders(saved):
        if folder.name > step_name(step):
            shutil.rmtree(folder)
    (saved / "best").unlink(missing_ok=True)
    size = read_manifest(saved / step_name(step)).log_bytes
    log = (place / "metrics.jsonl").read_bytes()
    (place / "metrics.jsonl").write_bytes(log[:size] + b'{"step": 99, "lo')
    (place / "metrics.json").unlink()
    return place


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_lead_to_the_same_end(
    make_training: Training, make_batching: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    options, steps = CASES[name]
    cut = {"batching": make_batching(**LIMITED), "micro": 4} if name == "limited" else {}
    options = options | {"every_n_train_steps": 1, "keep_last": 99}
    whole = tmp_path / "whole"
    module, run = make_training(dropout=0.2, **cut)
    fitted = run(whole, **options)
    expected = lines(whole)
    saves = checkpoint_folders(whole / "checkpoints")
    assert len(saves) == fitted.num_steps
    for step in steps:
        run_dir = cut_back(whole, step, tmp_path / f"from-{step}")
        again, rerun = make_training(dropout=0.2, **cut)
        refitted = rerun(run_dir, start=find_resumable(run_dir / "checkpoints"), **options)
        assert lines(run_dir) == expected, f"after step {step}"
        assert torch.equal(trained(again), trained(module)), f"after step {step}"
        assert refitted == fitted
        assert (run_dir / "metrics.json").read_text() == (whole / "metrics.json").read_text()
        for one, other in zip(checkpoint_folders(run_dir / "checkpoints"), saves, strict=True):
            found, meant = read_manifest(one), read_manifest(other)
            assert (found.best, found.validations) == (meant.best, meant.validations)
        best = run_dir / "checkpoints" / "best"
        assert best.readlink() == (whole / "checkpoints" / "best").readlink()


def test_loader_processes_go_on_with_the_right_samples(
    make_training: Training, tmp_path: Path
) -> None:
    """They fetch ahead, before Lightning says which epoch it is."""
    options = {"max_epochs": 3, "val_every_n_epochs": 3, "every_n_train_steps": 1, "keep_last": 99}
    whole = tmp_path / "whole"
    _, run = make_training(dropout=0.2)
    run(whole, **options)
    for step in (5, 6):  # within the second epoch, and at its end
        run_dir = cut_back(whole, step, tmp_path / f"from-{step}")
        _, rerun = make_training(dropout=0.2, num_workers=1)
        rerun(run_dir, start=find_resumable(run_dir / "checkpoints"), **options)
        assert lines(run_dir) == lines(whole)


def test_a_run_branches_off_another_one(make_training: Training, tmp_path: Path) -> None:
    _, run = make_training(dropout=0.2)
    run(tmp_path / "old", every_n_train_steps=2, keep_last=99)
    start = read_checkpoint(tmp_path / "old" / "checkpoints" / step_name(4))
    _, rerun = make_training(dropout=0.2)
    rerun(tmp_path / "new", start=start)
    assert lines(tmp_path / "new") == lines(tmp_path / "old")[-3:]  # steps 5, 6 and the validation
    names = {path.name for path in (tmp_path / "new" / "checkpoints").iterdir()}
    assert names == {step_name(4), step_name(6), "best"}
    assert find_resumable(tmp_path / "old" / "checkpoints").manifest.step == 6  # type: ignore[union-attr]


def test_another_micro_batch_changes_only_the_order_of_additions(
    make_training: Training, tmp_path: Path
) -> None:
    _, run = make_training(micro=4)
    run(tmp_path / "run", every_n_train_steps=2, keep_last=99)
    expected = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    run_dir = cut_back(tmp_path / "run", 4, tmp_path / "from-4")
    _, rerun = make_training(micro=1)
    rerun(run_dir, start=find_resumable(run_dir / "checkpoints"))
    found = [line["loss"] for line in lines(run_dir) if "loss" in line]
    assert found == pytest.approx(expected, rel=1e-5)
