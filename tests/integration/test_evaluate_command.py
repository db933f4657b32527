"""``python evaluate.py`` as a user runs it: results, resumption, pooling, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ("num_resamples=20", "decoding.max_feedback_tokens=4")


def metrics_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return values


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_run_is_evaluated_beside_its_baselines(
    evaluate: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    assert evaluate(f"run={run}", "baseline=true", *QUICK) == 0
    folder = run / "evaluation" / "test"
    metrics = metrics_of(folder)
    split = json.loads((run / "split.json").read_text())
    lines = lines_of(folder / "predictions.jsonl")
    assert {line["source"] for line in lines} == set(split["test"])
    assert metrics["test/num"] == len(lines) == 12
    for name in ("qwk", "continuous_qwk", "pearson", "spearman", "mae", "rmse", "exact", "smd"):
        assert f"test/{name}/total" in metrics and f"test/{name}/content" in metrics
    for name in ("within_threshold", "band_qwk"):
        assert f"test/{name}/total" in metrics
    assert metrics["test/qwk/total/low"] <= metrics["test/qwk/total/high"]
    assert metrics["test/parse_rate"] == 1.0
    for name in ("mean", "length_ridge", "tfidf_ridge", "tfidf_ridge_rescaled", "no_adapter"):
        assert f"test/baseline/{name}/mae/total" in metrics
    base = lines_of(folder / "predictions_without_adapter.jsonl")
    ours = [line["expected"] for line in lines]
    assert ours != [line["expected"] for line in base], "two steps changed no score"
    answers = lines_of(folder / "generated_predictions.jsonl")
    assert [set(answer) for answer in answers] == [{"prompt", "predict", "label"}] * 12
    # A question for a comment in some prompts only would tell which essays are untouched.
    assert len({answer["prompt"].split("feedback")[-1] for answer in answers}) == 1
    assert all("feedback" in answer["prompt"] for answer in answers)
    assert answers[0]["label"] == lines[0]["gold_text"]
    reference = json.loads((folder / "predict_results.json").read_text())
    assert reference == json.loads((folder / "all_results.json").read_text())
    assert metrics["test/predict_bleu-4"] == reference["predict_bleu-4"]
    assert reference["predict_samples_per_second"] > 0
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert lines[0]["id"] in report and "http://" not in report and "https://" not in report
    shown = capsys.readouterr().out
    assert "report.html" in shown and "without adapter" in shown and "SAMPLE" in shown
    assert evaluate(f"run={run}", *QUICK) == 0
    assert metrics_of(folder) == metrics, "what lies there is reported again"


def test_a_killed_evaluation_goes_on(
    trained_run: Path, session_cache: Path, tmp_path: Path
) -> None:
    def command(out: Path) -> list[str]:
        options = ["decoding.batch_size=2", "num_resamples=0", "decoding.max_feedback_tokens=32"]
        return [sys.executable, "evaluate.py", f"run={trained_run}", f"out={out}", *options]

    environment = os.environ | {"AES_CACHE": str(session_cache)}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        command(killed), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    path = killed / "predictions.jsonl"
    deadline = time.monotonic() + 300
    while not (path.is_file() and path.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 2 <= kept.count(b"\n") < 12
    assert not (killed / "metrics.json").exists()
    for out in (killed, whole):
        subprocess.run(
            command(out), cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL
        )
    assert path.read_bytes().startswith(kept), "what was graded was graded again"
    ours, theirs = (
        sorted(without_times(lines_of(folder / "predictions.jsonl")), key=lambda line: line["id"])
        for folder in (killed, whole)
    )
    assert [line["scores"] for line in ours] == [line["scores"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["expected"] == pytest.approx(b["expected"], abs=1e-4)
    assert metrics_of(killed)["test/qwk/total"] == metrics_of(whole)["test/qwk/total"]


def test_grades_of_other_settings_are_not_mixed_in(
    evaluate: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = f"out={tmp_path / 'results'}"
    assert evaluate(f"run={trained_run}", out, *QUICK) == 0
    changed = (f"run={trained_run}", out, *QUICK, "decoding.score=greedy")
    assert evaluate(*changed) == 1
    error = capsys.readouterr().err
    assert "other settings" in error and "fresh=true" in error and "Traceback" not in error
    assert evaluate(*changed, "fresh=true") == 0
    assert evaluate(*changed, "page.font=serif") == 1
    assert "other settings (page was" in capsys.readouterr().err


def test_validation_essays_make_the_calibration_that_test_and_predict_use(
    evaluate: Callable[..., int],
    predict: Callable[..., int],
    train_once: Callable[..., Path],
    tmp_path: Path,
) -> None:
    run = train_once("calibrated", "data.val_fraction=0.4")
    assert evaluate(f"run={run}", "split=val", *QUICK) == 0
    assert evaluate(f"run={run}", *QUICK) == 0
    metrics = metrics_of(run / "evaluation" / "test")
    for method in ("linear", "isotonic"):
        assert f"test/calibrated/{method}/qwk/total" in metrics
    raw, mapped = metrics["test/sd_ratio/total"], metrics["test/calibrated/linear/sd_ratio/total"]
    assert mapped > 2 * raw, "linear linking did not widen grades that two steps left narrow"
    calibration = (run / "calibration.json").read_bytes()
    other = ("split=val", "page.font=serif", "fresh=true", *QUICK)
    assert evaluate(f"run={run}", *other) == 0
    assert (run / "calibration.json").read_bytes() == calibration, "made under other settings"
    essay = tmp_path / "essay.txt"
    essay.write_text("春天\n" + "今天天气很好，我们去公园看花。" * 20, encoding="utf-8")
    plain, linked = tmp_path / "plain.jsonl", tmp_path / "linked.jsonl"
    assert predict(f"run={run}", f"input={essay}", f"output={plain}", "feedback=false") == 0
    assert (
        predict(
            f"run={run}",
            f"input={essay}",
            f"output={linked}",
            "feedback=false",
            "calibration=linear",
        )
        == 0
    )
    a, b = lines_of(plain)[0], lines_of(linked)[0]
    assert a["expected_subtotal"] != b["expected_subtotal"]
    assert sum(b["scores"].values()) == b["total_score"]


def test_folds_are_pooled_into_one_report(
    evaluate: Callable[..., int],
    train_once: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folds = tmp_path / "sweep"
    for number in (0, 1):
        run = train_once(f"fold{number}", f"data.fold={number}", "data.num_folds=2")
        shutil.move(run, folds / str(number))
    assert evaluate(f"run={folds}", *QUICK) == 0
    folder = folds / "evaluation" / "test"
    metrics = metrics_of(folder)
    assert metrics["test/num"] == 28 * 2
    assert "test/baseline/tfidf_ridge/qwk/total" in metrics
    assert (folder / "calibration.json").is_file()
    lines = [
        line
        for number in (0, 1)
        for line in lines_of(folds / str(number) / "evaluation" / "test" / "predictions.jsonl")
    ]
    assert len({line["source"] for line in lines}) == 28
    assert {line["fold"] for line in lines} == {0, 1}
    errors = [abs(line["expected_subtotal"] - line["gold_total"]) for line in lines]
    assert metrics["test/mae/total"] == pytest.approx(mean(errors), abs=1e-3)
    assert "2 of 2" in (folder / "report.html").read_text(encoding="utf-8")
    twice = f"run=[{folds / '0'},{folds / '0'}]"
    assert evaluate(twice, f"out={tmp_path / 'x'}", *QUICK) == 1
    assert "is named more than once; leave one of them out" in capsys.readouterr().err


def test_two_runs_as_two_markers(
    evaluate: Callable[..., int], trained_run: Path, train_once: Callable[..., Path], tmp_path: Path
) -> None:
    other = train_once("second", "seed=2", "data.split_seed=1")
    out = tmp_path / "double"
    assert evaluate(f"run={trained_run}", f"second={other}", f"out={out}", *QUICK) == 0
    metrics = metrics_of(out)
    (beside,) = out.glob("predictions_second_*.jsonl")
    ours, theirs = (
        {line["id"]: line for line in lines_of(path)}
        for path in (out / "predictions.jsonl", beside)
    )
    assert ours.keys() == theirs.keys()
    apart = [abs(ours[id]["subtotal"] - theirs[id]["subtotal"]) for id in ours]
    assert metrics["test/double/arbitration_rate"] == pytest.approx(
        sum(points > 10 for points in apart) / len(apart)
    )
    errors = [
        abs((ours[id]["expected_subtotal"] + theirs[id]["expected_subtotal"]) / 2 - gold)
        for id in ours
        for gold in [ours[id]["gold_total"]]
    ]
    assert metrics["test/double/mean/mae/total"] == pytest.approx(mean(errors), abs=1e-3)


def test_a_second_marker_that_trained_on_the_essays_is_refused(
    evaluate: Callable[..., int],
    trained_run: Path,
    train_once: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = train_once("leaky", "seed=2")
    out = f"out={tmp_path / 'leak'}"
    assert evaluate(f"run={trained_run}", f"second={other}", out, *QUICK) == 1
    assert "was trained on" in capsys.readouterr().err


def test_the_robustness_suite(
    evaluate: Callable[..., int], trained_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "robust"
    # Untouched essays, so that there is another topic to take.
    options = ("suite=robustness", "suite.num_essays=1", "split=val", "data.ladder=false")
    assert evaluate(f"run={trained_run}", f"out={out}", *options, *QUICK) == 0
    metrics = metrics_of(out)
    points = {
        line["id"]: line["expected_subtotal"]
        for line in lines_of(out / "predictions_robustness.jsonl")
    }
    (honest,) = (value for id, value in points.items() if id.endswith("~honest"))
    (padded,) = (value for id, value in points.items() if id.endswith("~padding"))
    assert metrics["val/attack/padding/mean_change"] == pytest.approx(padded - honest)
    rungs = [points[id] for level in (75, 50, 25) for id in points if id.endswith(f"~cut_{level}")]
    pairs = list(combinations([honest, *rungs], 2))
    in_order = mean(better > worse for better, worse in pairs)
    assert metrics["val/ladder/cut/share_in_order"] == pytest.approx(in_order, abs=0.01)
    attacks = {name.split("/attack/")[1] for name in metrics if "/attack/" in name}
    for kind in ("order", "padding", "duplication", "copied_prompt", "off_topic", "white_text"):
        assert any(attack.startswith(kind) for attack in attacks), kind
    assert len(lines_of(out / "predictions_robustness.jsonl")) > 30
    assert not (out / "suite_pages").exists()


def test_unreadable_answers_are_counted(
    evaluate: Callable[..., int], trained_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "free"
    options = ("decoding=unconstrained", "decoding.max_answer_tokens=6", "num_resamples=20")
    assert evaluate(f"run={trained_run}", f"out={out}", *options) == 0
    lines = lines_of(out / "predictions.jsonl")
    assert all(line["parse_error"] and line["raw"] for line in lines)
    metrics = metrics_of(out)
    assert metrics["test/parse_rate"] == 0.0
    gold = [line["gold_total"] for line in lines]
    assert metrics["test/mae/total"] == pytest.approx(sum(gold) / len(gold))


def test_other_data_is_evaluated_whole(
    evaluate: Callable[..., int],
    train: Callable[..., int],
    cheap: tuple[str, ...],
    essay_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ("data=aes_dataset", f"data.root={essay_folder}", "data.min_chars=50")
    assert train(*data, *cheap, "run_dir=run") == 0
    small = tmp_path / "other"
    shutil.copytree(essay_folder, small)
    rows = (small / "scores.txt").read_bytes().splitlines(keepends=True)
    (small / "scores.txt").write_bytes(b"".join(rows[:5]))
    for file in (small / "essays").iterdir():
        if not any(row.startswith(file.stem.encode()) for row in rows[:5]):
            file.unlink()
    arguments = ("run=run", f"data.root={small}", "split=all", f"out={tmp_path / 'out'}")
    assert evaluate(*arguments, *QUICK) == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["all/num"] == 5
    assert "all/baseline/mean/mae/total" in metrics
    # Another name of the same folder is no way around the essays that were trained on.
    alias = tmp_path / "alias"
    alias.symlink_to(essay_folder)
    capsys.readouterr()
    assert evaluate("run=run", f"data.root={alias}", "data.split_seed=9", *QUICK) == 1
    assert "was trained on" in capsys.readouterr().err


def test_a_run_without_an_adapter_has_no_baseline_without_one(
    evaluate: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    (run / "adapter").rename(run / "model")
    (run / "model" / "config.json").write_text("{}")
    assert evaluate(f"run={run}", "baseline=true", *QUICK) == 1
    assert "has no adapter to leave off" in capsys.readouterr().err
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run=nowhere"], "there is no run directory nowhere"),
        ([], "run is not set"),
        (["split=tset"], "split: must be"),
        (["optim.lr=1"], "optim.lr has no effect on a run that is trained"),
        (["run_dir=x"], "run_dir has no effect"),
        (["rubric=holistic100"], "leave rubric= out"),
        (["data.split_seed=9"], "was trained on"),
        (["data=aes_dataset", "data.root=gone"], "data"),
        (["suite=robust"], "did you mean suite=robustness"),
        (["hardware=h800x1"], "CUDA"),
        (["num_resamples=-1"], "num_resamples: must be at least 0"),
        (["second=nowhere"], "there is no run directory nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else None,
)
def test_mistakes_get_a_sentence(
    evaluate: Callable[..., int],
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    given = arguments and arguments[0].startswith("run=")
    run = [] if given or not arguments else [f"run={trained_run}"]
    assert evaluate(*run, *arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not (trained_run / "evaluation").exists()


@pytest.mark.parametrize(
    "missing", ["adapter", "adapter/grading.json", "config.yaml", "split.json"]
)
def test_an_incomplete_run_is_refused(
    evaluate: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    path = run / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert evaluate(f"run={run}", *QUICK) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert not (run / "evaluation").exists()
