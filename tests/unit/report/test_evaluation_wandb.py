"""The panels in a real W&B run that never meets a server."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from aes.metrics.results import Evaluation
from aes.report.evaluation_wandb import log_evaluation, tables
from aes.rubric import Rubric

wandb = pytest.importorskip("wandb")


def test_an_offline_run_holds_all_panels(
    make_evaluation: Callable[..., Evaluation],
    make_rubric: Callable[[str], Rubric],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    rubric = make_rubric("five_by_twenty")
    evaluation = make_evaluation(40, rubric)
    page = Image.new("RGB", (64, 96), "white")
    run = wandb.init(dir=str(tmp_path), mode="offline", project="test")
    log_evaluation(run, evaluation, rubric, split="test", page_images=lambda _: [page] * 2)
    summary = {key: run.summary[key] for key in run.summary.keys()}  # noqa: SIM118
    run.finish()
    start = "evaluation/test/"
    assert summary[f"{start}qwk/total"] == pytest.approx(evaluation.agreement.metrics["qwk/total"])
    assert summary[f"{start}double/arbitration_rate"] == 0.173
    assert summary[f"{start}figures/scatter"]["_type"] == "image-file"
    for name in ("agreement", "baselines", "by_band", "verdict", "attacks", "unread", "worst"):
        assert summary[f"{start}tables/{name}"]["_type"] == "table-file"
    (worst,) = tmp_path.glob("wandb/offline-run-*/files/media/table/**/worst*.table.json")
    rows = json.loads(worst.read_text(encoding="utf-8"))["data"]
    assert len(rows) == 10
    assert rows[0][1] == "Image"
    # Pictures of tables travel as an artifact, which waits beside the run for its upload.
    staged = [path.read_bytes() for path in tmp_path.glob("wandb/artifacts/staging/*")]
    sheets = [Image.open(io.BytesIO(file)) for file in staged if file.startswith(b"\x89PNG")]
    assert {sheet.size for sheet in sheets} == {(128, 96)}
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png"))) == 6


def test_each_number_has_its_interval_and_n(
    make_evaluation: Callable[..., Evaluation], make_rubric: Callable[[str], Rubric]
) -> None:
    evaluation = make_evaluation(40, make_rubric("five_by_twenty"))
    found = tables(evaluation)
    columns, rows = found["baselines"]
    assert columns == ["of", "metric", "value", "low", "high", "n", "sources"]
    ridge = {row[1]: row for row in rows if row[0] == "length_ridge"}
    baseline = evaluation.baselines["length_ridge"]
    interval = baseline.intervals["mae/total"]
    assert ridge["mae/total"][2:] == [
        baseline.metrics["mae/total"],
        interval.low,
        interval.high,
        40,
        baseline.num_sources,
    ]
    rates = [row[found["attacks"][0].index("success_rate")] for row in found["attacks"][1]]
    assert rates[:-1] == [0.62, 0.4, 0.34, 0.2, 0.02, 0.0], "the worst first"
    assert math.isnan(rates[-1]), "undefined last"


def test_a_bare_evaluation_leaves_tables_out(
    make_evaluation: Callable[..., Evaluation], make_rubric: Callable[[str], Rubric]
) -> None:
    found = tables(make_evaluation(5, make_rubric("holistic100"), full=False))
    assert set(found) == {"agreement", "baselines", "verdict", "facts"}
