"""The loss plot is a real picture of the log."""

import json
from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aes.report.plots import plot_training_loss, read_losses, smooth


def write_log(path: Path, losses: Sequence[float | None]) -> Path:
    lines = [json.dumps({"step": i + 1, "epoch": 1, "loss": v}) for i, v in enumerate(losses)]
    lines.insert(1, json.dumps({"step": 1, "epoch": 1, "val/qwk/total": 0.1}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_reads_losses_and_nothing_else(tmp_path: Path) -> None:
    log = write_log(tmp_path / "metrics.jsonl", [2.0, None, 1.0])
    with log.open("a") as file:
        file.write('{"step": 4, "lo')
    (one, first), (two, gap), last = read_losses(log)
    assert (one, first, two, last) == (1, 2.0, 2, (3, 1.0))
    assert isnan(gap)


def test_smooth_starts_unbiased_and_skips_nan() -> None:
    assert smooth([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0] * 3)
    assert smooth([1.0, 3.0], 0.5) == pytest.approx([1.0, (0.5 * 0.5 * 1 + 0.5 * 3) / 0.75])
    start, first, gap = smooth([nan, 2.0, nan], 0.9)
    assert isnan(start)
    assert first == pytest.approx(2.0)
    assert gap == pytest.approx(2.0)


def test_draws_both_curves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    losses = [float(v) for v in 1 + 3 * np.exp(-np.arange(40) / 8) + rng.normal(0, 0.2, 40)]
    target = tmp_path / "training_loss.png"
    assert plot_training_loss(write_log(tmp_path / "m.jsonl", losses), target)
    pixels = np.asarray(Image.open(target).convert("RGB")).reshape(-1, 3)
    assert len(pixels) == 960 * 600
    for colour in [(0x9D, 0xB4, 0xD0), (0x1F, 0x4E, 0x8C)]:
        assert (pixels == colour).all(axis=1).sum() > 200
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_without_a_loss_nothing_is_drawn(tmp_path: Path) -> None:
    target = tmp_path / "training_loss.png"
    assert not plot_training_loss(write_log(tmp_path / "m.jsonl", [None]), target)
    assert not target.exists()
