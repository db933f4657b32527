"""``train.py`` on instruction data: alpaca, sharegpt, a registry and medical images, whole runs."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aes.cli import entry
from aes.cli.train import run
from aes.training.checkpoint.resumable import step_name

pytestmark = pytest.mark.command

Train = Callable[..., int]
ARGS = (
    *("logger=none", "hardware.num_workers=0", "callbacks.sample_table.num_examples=1"),
    *("decoding.max_answer_tokens=4", "trainer.val_every_n_epochs=1"),
)
TIMES = ("tokens_per_s", "data_wait_share", "elapsed_s", "remaining_s", "peak_memory_gib")


def write_alpaca(path: Path, num: int) -> Path:
    records = [
        {"instruction": f"Is number {i} even?", "input": "", "output": "no" if i % 2 else "yes"}
        for i in range(num)
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_medical(path: Path, num: int) -> Path:
    """Parquet with real PNG bytes; what is bright on the left is ill."""
    noise = np.random.default_rng(0)
    rows = []
    for i in range(num):
        pixels = (noise.random((64, 96, 3)) * 60).astype(np.uint8)
        at = 16 if i % 2 else 56
        pixels[16:48, at : at + 24] += 160
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        caption = "左侧病变" if i % 2 else "右侧正常"
        image = {"bytes": file.getvalue(), "path": None}
        rows.append({"id": f"m{i}", "image": image, "caption": caption})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lines(run_dir: Path, *, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in one.items() if k not in TIMES} for one in found if kind in one]


@pytest.fixture(scope="module")
def alpaca_run(session_cache: Path, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A finished run on labelled alpaca data, and the data."""
    folder = tmp_path_factory.mktemp("alpaca")
    data, run_dir = write_alpaca(folder / "alpaca.json", 40), folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AES_CACHE", str(session_cache))
        patch.setattr(sys, "argv", ["train.py", *_alpaca_args(data), f"run_dir={run_dir}"])
        with pytest.raises(SystemExit) as stop:
            entry.main("train", run)
    assert stop.value.code == 0
    return run_dir, data


def _alpaca_args(data: Path) -> tuple[str, ...]:
    return (
        *("data=alpaca", f"data.path={data}", "data.labels=[yes,no]", *ARGS),
        *("trainer.max_epochs=2", "trainer.log_every_n_steps=1"),
        *("callbacks.checkpoint.every_n_train_steps=3", "callbacks.checkpoint.keep_last=9"),
    )


def test_a_run_on_labels_learns_and_keeps_the_best(alpaca_run: tuple[Path, Path]) -> None:
    run_dir, _ = alpaca_run
    losses = [line["loss"] for line in lines(run_dir, kind="loss")]
    assert losses[-1] < losses[0] / 2
    validations = lines(run_dir, kind="val/loss")
    assert [line["step"] for line in validations] == [5, 10]
    assert validations[1]["val/loss"] < validations[0]["val/loss"]
    assert all(0 <= line["val/f1"] <= 1 for line in validations)
    assert json.loads((run_dir / "metrics.json").read_text()).keys() >= {
        "val/loss",
        "val/accuracy",
        "val/f1",
    }
    best = max(validations, key=lambda line: line["val/f1"])["step"]
    assert (run_dir / "checkpoints" / "best").readlink().name == step_name(best)
    page = (run_dir / "samples.html").read_text(encoding="utf-8")
    assert "predicted answer" in page
    assert json.loads((run_dir / "check.json").read_text())["counts"]["kept"] == 40
    assert {"train", "val", "test"} == json.loads((run_dir / "split.json").read_text()).keys()


def test_a_run_goes_on_by_the_same_path(
    alpaca_run: tuple[Path, Path], train: Train, tmp_path: Path
) -> None:
    whole, data = alpaca_run
    cut = tmp_path / "run"
    shutil.copytree(whole, cut, symlinks=True)
    for name in ("metrics.json", "training_loss.png", "checkpoints/best"):
        (cut / name).unlink()
    shutil.rmtree(cut / "adapter")
    for folder in (cut / "checkpoints").iterdir():
        if folder.name > step_name(5):
            shutil.rmtree(folder)
    moved = shutil.copy(data, tmp_path / "moved.json")
    assert train(*_alpaca_args(Path(moved)), f"run_dir={cut}", "resume=auto") == 0
    for kind in ("loss", "val/loss"):
        assert lines(cut, kind=kind) == lines(whole, kind=kind)
    name = "adapter/adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_other_data_is_no_continuation(
    alpaca_run: tuple[Path, Path], train: Train, tmp_path: Path, capsys: Any
) -> None:
    whole, _ = alpaca_run
    other = write_alpaca(tmp_path / "other.json", 41)
    resume = f"resume={whole / 'checkpoints' / step_name(5)}"
    assert train(*_alpaca_args(other), f"run_dir={tmp_path / 'run'}", resume) == 1
    assert "the samples of train are others" in capsys.readouterr().err


def test_medical_images_train(train: Train, tmp_path: Path) -> None:
    data, run_dir = write_medical(tmp_path / "med.parquet", 30), tmp_path / "run"
    command = ("data=medtrinity", f"data.path={data}", *ARGS, f"run_dir={run_dir}")
    assert train(*command, "trainer.max_epochs=4", "trainer.log_every_n_steps=1") == 0
    losses = [line["loss"] for line in lines(run_dir, kind="loss")]
    assert losses[-1] < losses[0] / 2
    parts = json.loads((run_dir / "split.json").read_text())
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 24, "val": 6, "test": 0}
    values = [line["val/loss"] for line in lines(run_dir, kind="val/loss")]
    best = 1 + values.index(min(values))
    assert (run_dir / "checkpoints" / "best").readlink().name == step_name(3 * best)
    assert "data:image/png" in (run_dir / "samples.html").read_text()


@pytest.mark.parametrize("recipe", ["med_zero3", "med_matched"])
def test_the_medical_recipes_are_planned(
    train: Train, tmp_path: Path, capsys: Any, recipe: str
) -> None:
    data = write_medical(tmp_path / "med.parquet", 10)
    shape = () if recipe != "med_matched" else ("hydra.mode=RUN", "strategy=zero3")
    command = (f"experiment={recipe}", f"data.path={data}", "check_only=true", *shape)
    assert train(*command) == 0
    told = capsys.readouterr().out
    assert "8 train, 2 validation, 0 test" in told


def test_a_registry_is_planned_with_all_turns(train: Train, tmp_path: Path, capsys: Any) -> None:
    talks = [
        {
            "conversations": [
                {"from": "human", "value": f"question {i}"},
                {"from": "gpt", "value": "first answer"},
                {"from": "human", "value": "and then?"},
                {"from": "gpt", "value": "second"},
            ]
        }
        for i in range(12)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    registry = {"aes_data": {"file_name": "talks.json", "formatting": "sharegpt"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry))
    command = (
        *("data=registry", f"data.info={tmp_path}/dataset_info.json", "data.name=aes_data"),
        "check_only=true",
    )
    for turns, most in (("last", 2), ("all", 5)):
        assert train(*command, f"data.train_on={turns}") == 0
        assert f"supervised: mean {most}, most {most};" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("loss=valid_digits", "loss=valid_digits is about scores"),
        ("rubric=holistic100", "rubric=holistic100 would do nothing"),
        ("page=squared_paper", "page=squared_paper sets typed essays"),
        ("loss.feedback_weight=0.5", "weighs feedback against scores"),
        ("callbacks.checkpoint.monitor=val/f1", "must be one of auto, val/loss, got val/f1"),
        ("data.on_overlong=shrink", "would do nothing here"),
    ],
)
def test_what_would_do_nothing_is_refused(
    train: Train, tmp_path: Path, capsys: Any, option: str, told: str
) -> None:
    data = write_alpaca(tmp_path / "alpaca.json", 10)
    assert train("data=alpaca", f"data.path={data}", "check_only=true", option) == 1
    assert told in capsys.readouterr().err


def test_essays_need_a_rubric(train: Train, capsys: Any) -> None:
    assert train("rubric=none", "check_only=true") == 1
    assert "rubric=none scores nothing, but data=sample is essays" in capsys.readouterr().err
