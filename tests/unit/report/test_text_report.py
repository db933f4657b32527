"""The report, the card and the files of answers in text, from hand-made answers."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from aes.metrics.answers import AnswersEvaluation, AnswersResult, measure_answers
from aes.records import Answered
from aes.report.text_card import print_answers
from aes.report.text_examples import ShownSample, choose_examples
from aes.report.text_files import (
    flat_answer_metrics,
    write_answer_metrics,
    write_answer_references,
)
from aes.report.text_plots import draw_confusion
from aes.report.text_report import write_text_report

LABELS = ("正面", "负面", "<b>中性</b>")


def _labelled(preds: tuple[str, ...], *, sure: float = 0.6) -> AnswersResult:
    golds = ("正面", "负面", "<b>中性</b>", "正面", "负面", "正面")
    answered = [
        Answered(
            id=f"s{i}",
            source=f"s{i}",
            gold=gold,
            text=pred,
            probabilities={pred: sure + i / 100} if pred in LABELS else {},
        )
        for i, (pred, gold) in enumerate(zip(preds, golds, strict=True))
    ]
    return measure_answers(
        answered, choices=LABELS, num_resamples=50, seed=1, answering_s=2.0, preparation_s=0.5
    )


@pytest.fixture
def labelled() -> AnswersEvaluation:
    return AnswersEvaluation(
        facts={"split": "test", "run": "run-1", "left out": "2 samples over data.max_tokens=64"},
        models={
            "trained": _labelled(("正面", "负面", "正面", "正面", "正面", "?")),
            "base": _labelled(("负面",) * 6),
        },
        choices=LABELS,
    )


@pytest.fixture
def free() -> AnswersEvaluation:
    answered = [
        Answered(id=f"p{i}", source=f"p{i}", gold="右肺上叶结节。", text="右肺上叶结节。"[: 7 - i])
        for i in range(7)
    ]
    result = measure_answers(answered, choices=(), num_resamples=20, seed=1, answering_s=3.5)
    return AnswersEvaluation(facts={"split": "val"}, models={"trained": result})


def _show(id_: str) -> ShownSample:
    return ShownSample(f"<script>{id_}</script>", [Image.new("RGB", (64, 32))])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_report_on_labels_has_everything_and_escapes_it(
    labelled: AnswersEvaluation, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    write_text_report(labelled, path, show_sample=_show)
    html = _text(path)
    for name in ("numbers", "facts", "classes", "confusion", "examples"):
        assert f'id="{name}"' in html
    assert "<script>" not in html and "&lt;script&gt;s2&lt;/script&gt;" in html
    assert "<b>中性" not in html
    assert html.count("data:image/svg+xml") == 2, "a confusion matrix of each model"
    assert "2 samples over data.max_tokens=64" in html
    assert "50.0%" in html and "33.3%" in html, "accuracy of both models"
    assert not re.search(r'(src|href)="(?!data:|#)', html), "needs nothing beside it"


def test_the_report_on_free_answers_shows_worst_and_best(
    free: AnswersEvaluation, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    write_text_report(free, path, show_sample=_show)
    html = _text(path)
    assert 'id="confusion"' not in html and "ROUGE-L" in html
    assert html.count("<article") == 7
    assert "data:image/jpeg" in html
    assert html.index("&gt;p6&lt;") < html.index("&gt;p0&lt;"), "the worst comes first"


def test_the_surest_mistakes_come_first(labelled: AnswersEvaluation) -> None:
    worst, best = choose_examples(labelled.trained)
    assert worst == [5, 4, 2], "what is no label at all is the surest mistake"
    assert best == [3, 1, 0]


def test_no_example_is_shown_twice(free: AnswersEvaluation) -> None:
    worst, best = choose_examples(free.trained)
    assert worst[0] == 6 and best == [0]
    assert sorted((*worst, *best)) == list(range(7))


def test_metrics_stand_by_name_with_intervals_and_those_of_the_base(
    labelled: AnswersEvaluation, tmp_path: Path
) -> None:
    write_answer_metrics(labelled, tmp_path / "metrics.json", prefix="test")
    found = json.loads(_text(tmp_path / "metrics.json"))
    assert found["test/accuracy"] == 0.5 and found["test/num"] == 6
    assert found["test/accuracy/low"] <= 0.5 <= found["test/accuracy/high"]
    assert found["test/unparsed"] == pytest.approx(1 / 6)
    assert found["test/baseline/no_adapter/accuracy"] == pytest.approx(1 / 3)
    assert found["test/recall/正面"] == pytest.approx(2 / 3)
    assert found["test/answering_s"] == 2.0 and found["test/samples_per_s"] == 3.0


def test_what_is_undefined_is_null(free: AnswersEvaluation) -> None:
    empty = measure_answers([], choices=LABELS, num_resamples=0, seed=1)
    evaluation = AnswersEvaluation(facts={}, models={"trained": empty}, choices=LABELS)
    found = flat_answer_metrics(evaluation, prefix="val")
    assert found["val/f1"] is None and found["val/num"] == 0


def test_the_reference_files_have_the_names_of_the_reference(
    free: AnswersEvaluation, tmp_path: Path
) -> None:
    prompts = {one.id: f"问 {one.id}\ud800" for one in free.trained.answered}
    write_answer_references(free, tmp_path, prompts=prompts, batch_size=2)
    lines = [
        json.loads(line)
        for line in _text(tmp_path / "generated_predictions.jsonl").split("\n")[:-1]
    ]
    assert lines[0] == {
        "prompt": "问 p0\ud800",
        "predict": "右肺上叶结节。",
        "label": "右肺上叶结节。",
    }
    for name in ("predict_results.json", "all_results.json"):
        results = json.loads(_text(tmp_path / name))
        assert results["predict_runtime"] == 3.5
        assert results["predict_samples_per_second"] == 2.0
        assert results["predict_steps_per_second"] == round(4 / 3.5, 3)
        assert results["predict_bleu-4"] == free.trained.text["bleu-4"]


def test_the_card_shows_both_models_in_one_table(labelled: AnswersEvaluation) -> None:
    out = StringIO()
    print_answers(Console(file=out, width=80), labelled, Path("/runs/report.html"))
    text = out.getvalue()
    row = next(line.split() for line in text.splitlines() if line.startswith("accuracy"))
    assert row[1] == "50.0%" and "33.3%" in row
    assert text.count("95 % interval") == 2 and "left out of every number: 2 samples" in text
    assert any(
        line.split() == ["正面", "3", "0.500", "0.667", "0.571"] for line in text.splitlines()
    )


def test_several_runs_fit_a_narrow_terminal(labelled: AnswersEvaluation) -> None:
    models = dict(labelled.models) | {"2026-11-23/seed-2": _labelled(("正面",) * 6)}
    out = StringIO()
    evaluation = AnswersEvaluation(facts={}, models=models, choices=LABELS)
    print_answers(Console(file=out, width=80), evaluation, Path("/runs/report.html"))
    row = next(line for line in out.getvalue().splitlines() if line.startswith("accuracy"))
    assert row.replace("[", " [").split()[1] == "50.0%" and row.split()[-1] == "50.0%"
    assert out.getvalue().count("95 % interval") == 1


def test_so_many_labels_are_not_drawn() -> None:
    many = tuple(f"l{i}" for i in range(41))
    answered = [Answered(id="a", source="a", gold="l1", text="l1")]
    found = measure_answers(answered, choices=many, num_resamples=0, seed=1).labels
    assert found is not None
    drawing = draw_confusion(found, model="微调后")
    assert drawing.figure is None and "41" in drawing.alt
