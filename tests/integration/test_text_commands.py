"""Evaluation and prediction of runs that learned labels, or captions of images."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.command

LABELS = {
    "天气": ("晴天", "下雨", "刮风"),
    "体育": ("足球", "跑步", "进球"),
    "美食": ("面条", "饺子", "甜点"),
}
ASK_LABELS = (
    "model=nano_text",
    "data=alpaca",
    f"data.labels=[{','.join(LABELS)}]",
    "data.test_fraction=0.3",
    "data.split_seed=3",
)
QUICK = ("trainer.max_steps=2", "logger=none", "hardware.num_workers=0")
FEW = "num_resamples=20"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def label_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty sentences about three things."""
    rng = random.Random(1)
    rows = []
    for number in range(30):
        label = list(LABELS)[number % 3]
        said = "，".join(rng.choice(LABELS[label]) for _ in range(3))
        asked = {"instruction": "这句话说的是什么？", "input": f"第{number}句：{said}。"}
        rows.append(asked | {"output": label})
    path = tmp_path_factory.mktemp("labels") / "labels.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def caption_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with captions, as a table."""
    import datasets

    images = []
    for number in range(12):
        content = io.BytesIO()
        Image.new("RGB", (96, 64), (20 * number, 90, 120)).save(content, format="PNG")
        images.append({"bytes": content.getvalue(), "path": None})
    columns = {
        "id": [f"m{number}" for number in range(12)],
        "image": images,
        "caption": [f"第{number}张影像，边缘清晰。" for number in range(12)],
    }
    path = tmp_path_factory.mktemp("captions") / "part.parquet"
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.to_parquet(str(path))
    return path


def _train(session_cache: Path, *args: str) -> None:
    from aes.cli import entry
    from aes.cli.train import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AES_CACHE", str(session_cache))
        patch.setattr(sys, "argv", ["train.py", *QUICK, *args])
        with pytest.raises(SystemExit) as stop:
            entry.main("train", run)
    assert stop.value.code == 0


@pytest.fixture(scope="session")
def label_run(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, label_file: Path
) -> Path:
    run_dir = tmp_path_factory.mktemp("label_run") / "run"
    _train(session_cache, *ASK_LABELS, f"data.path={label_file}", f"run_dir={run_dir}")
    return run_dir


@pytest.fixture(scope="session")
def caption_run(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, caption_file: Path
) -> Path:
    run_dir = tmp_path_factory.mktemp("caption_run") / "run"
    _train(
        session_cache,
        "data=medtrinity",
        f"data.path={caption_file}",
        "decoding.max_answer_tokens=6",
        f"run_dir={run_dir}",
    )
    return run_dir


def test_labels_of_all_models_stand_in_one_table(
    evaluate: Callable[..., int], label_run: Path, tmp_path: Path, capsys: Any
) -> None:
    other = Path(shutil.copytree(label_run, tmp_path / "other"))
    out = tmp_path / "out"
    command = (f"run={label_run}", "baseline=true", f"compare=[{other}]", FEW, f"out={out}")
    assert evaluate(*command) == 0
    shown = capsys.readouterr().out
    assert "fine-tuned" in shown and "base model" in shown and "macro F1" in shown
    found = _metrics(out)
    assert found["test/compare/other/accuracy"] == found["test/accuracy"]
    kept = _lines(out / "predictions.jsonl")
    assert found["test/num"] == len(kept) == 9
    hits = sum(line["text"] == line["gold"] for line in kept)
    assert found["test/accuracy"] == pytest.approx(hits / 9)
    assert found["test/unparsed"] == 0
    assert 0 <= found["test/baseline/no_adapter/f1"] <= 1
    assert all(sum(line["probabilities"].values()) == pytest.approx(1) for line in kept)
    results = json.loads((out / "predict_results.json").read_text())
    assert results["predict_accuracy"] == found["test/accuracy"]
    assert "predict_rouge-l" in results and results["predict_samples_per_second"] > 0
    generated = _lines(out / "generated_predictions.jsonl")
    assert [line["predict"] for line in generated] == [line["text"] for line in kept]
    assert 'id="confusion"' in (out / "report.html").read_text(encoding="utf-8")


def test_answers_that_are_there_are_not_made_again_and_free_ones_are_read(
    evaluate: Callable[..., int], label_run: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    command = (f"run={label_run}", "num_resamples=0", f"out={out}")
    assert evaluate(*command) == 0
    whole = (out / "predictions.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    marked = lines[0].replace(b'"seconds": ', b'"seconds": 5')
    (out / "predictions.jsonl").write_bytes(marked + b"".join(lines[1:3]) + lines[3][:20])
    assert evaluate(*command) == 0
    again = (out / "predictions.jsonl").read_bytes()
    assert again.startswith(marked), "what was there stays"
    texts = [[line["text"] for line in map(json.loads, c.splitlines())] for c in (whole, again)]
    assert texts[0] == texts[1]
    free = ("decoding.constrained=false", "decoding.max_answer_tokens=4")
    assert evaluate(*command, *free) == 1
    error = capsys.readouterr().err
    assert "holds answers made under other settings (decoding" in error and "fresh=true" in error
    assert evaluate(*command, *free, "fresh=true") == 0
    kept = _lines(out / "predictions.jsonl")
    read = sum(line["text"].strip("。 ") in LABELS for line in kept)
    assert _metrics(out)["test/unparsed"] == pytest.approx(1 - read / len(kept))
    assert not any(line["probabilities"] for line in kept)


def test_captions_are_measured_as_text(
    evaluate: Callable[..., int], caption_run: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    command = (f"run={caption_run}", "split=val", "baseline=true", FEW, f"out={out}")
    assert evaluate(*command) == 0
    shown = capsys.readouterr().out
    assert "BLEU-4" in shown and "ROUGE-L" in shown and "base model" in shown
    found = _metrics(out)
    assert {"val/predict_bleu-4", "val/predict_rouge-l/low"} <= found.keys()
    assert "val/baseline/no_adapter/predict_rouge-1" in found and "val/accuracy" not in found
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in report and "图片中的诊断结果是怎样" in report


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["second={run}"], "second= is about scores of essays"),
        (["suite=robustness"], "suite= is about scores of essays"),
        (["arbitration_threshold=3"], "arbitration_threshold= is about scores of essays"),
        (["split=val", "data.val_fraction=0"], "holds no samples out for split=val"),
        (["data.split_seed=99"], "the data or the split is not what it was"),
        (["compare=[{run}]"], "more than once"),
    ],
)
def test_what_makes_no_sense_is_refused(
    evaluate: Callable[..., int], label_run: Path, args: list[str], said: str, capsys: Any
) -> None:
    given = [arg.format(run=label_run) for arg in args]
    assert evaluate(f"run={label_run}", *given) == 1
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_what_can_be_asked_is_answered_and_the_rest_has_its_reason(
    predict: Callable[..., int], label_run: Path, tmp_path: Path, capsys: Any
) -> None:
    asked = [
        {"instruction": "这句话说的是什么？", "input": "今天足球，明天进球。"},
        {"instruction": "这句话说的是什么？", "input": "下雨了。", "output": "不知道"},
        {"nothing": 1},
        {"instruction": "看<image>", "images": "../../secret.png"},
        {"instruction": "今天天气很好，" * 1500},
    ]
    path, out = tmp_path / "asked.json", tmp_path / "out.jsonl"
    path.write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
    assert predict(f"run={label_run}", f"input={path}", f"output={out}") == 0
    lines = _lines(out)
    assert [line["id"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert all(line["answer"] in LABELS and not line["error"] for line in lines[:2])
    assert list(lines[0]["probabilities"]) == list(LABELS)
    assert [line["answer"] for line in lines[2:]] == [None] * 3
    assert "outside" in lines[3]["error"] and "data.max_tokens" in lines[4]["error"]
    assert "2 answered, 3 could not be" in capsys.readouterr().err
    before = lines[:2]
    assert predict(f"run={label_run}", f"input={path}", f"output={out}") == 0
    assert _lines(out)[:2] == before, "what is answered stays"
    assert predict(f"run={label_run}", f"input={path}", f"output={out}", "base=true") == 1
    assert "another model, adapter or settings" in capsys.readouterr().err


def test_images_are_asked_the_question_of_the_data(
    predict: Callable[..., int], caption_run: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (96, 64), (90 * number, 20, 20)).save(folder / f"s-{number}.png")
    (folder / "torn.png").write_bytes(b"no image")
    out = tmp_path / "out.jsonl"
    assert predict(f"run={caption_run}", f"input={folder}", f"output={out}") == 0
    first = _lines(out)
    assert [line["id"] for line in first] == ["s-0.png", "s-1.png", "torn.png"]
    assert first[0]["answer"] and "cannot be read as an image" in first[2]["error"]
    assert str(folder) not in first[2]["error"]
    capsys.readouterr()
    one = (f"run={caption_run}", f"input={folder / 's-0.png'}")
    assert predict(*one, "question=图片中的诊断结果是怎样?") == 0
    assert capsys.readouterr().out == first[0]["answer"] + "\n", "streamed, and the same"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["output=o.jsonl", "calibration=linear"], "calibration= is about scores of essays"),
        (["output=o.jsonl", "feedback=true"], "feedback= is about scores of essays"),
        (["output=o.xlsx"], "must end in .jsonl"),
        ([], "give output=FILE.jsonl"),
        (["question=什么？"], "holds no image, .pdf or .txt"),
        (["output=o.jsonl", "input=nowhere.json"], "does not exist"),
    ],
)
def test_a_prediction_that_makes_no_sense_is_refused(
    predict: Callable[..., int],
    label_run: Path,
    label_file: Path,
    args: list[str],
    said: str,
    capsys: Any,
) -> None:
    assert predict(f"run={label_run}", f"input={label_file}", *args) == 1
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


@pytest.fixture
def write_prompt(
    monkeypatch: pytest.MonkeyPatch, session_cache: Path, tmp_path: Path
) -> Callable[..., int]:
    """``python -m aes.cli.system_prompt`` in this process."""
    from aes.cli import entry
    from aes.cli.system_prompt import run

    def command(*args: str) -> int:
        monkeypatch.setenv("AES_CACHE", str(session_cache))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["system_prompt", *args])
        with pytest.raises(SystemExit) as stop:
            entry.main_on_run("system_prompt", run)
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return command


def test_the_base_writes_a_system_prompt_from_training_samples(
    write_prompt: Callable[..., int], label_file: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "prompt.txt"
    data = (*ASK_LABELS, f"data.path={label_file}")
    short = ("num_samples=7", "decoding.max_answer_tokens=12")
    assert write_prompt(*data, *short, f"out={out}") == 0
    facts = json.loads((tmp_path / "prompt.txt.json").read_text(encoding="utf-8"))
    assert facts["model"] == "nano_text" and len(set(facts["samples"])) == 7
    assert out.read_text(encoding="utf-8").strip()
    assert write_prompt(*data, *short, f"out={out}") == 1
    assert "is there already" in capsys.readouterr().err


def test_a_system_prompt_needs_labels(
    write_prompt: Callable[..., int], label_file: Path, capsys: Any
) -> None:
    data = ("model=nano_text", "data=alpaca", f"data.path={label_file}")
    assert write_prompt(*data, "out=prompt.txt") == 1
    assert "data.labels=[A,B]" in capsys.readouterr().err
