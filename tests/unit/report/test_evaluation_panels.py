"""What single panels of the report say: warnings, facts, calibration, robustness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aes.metrics.results import Evaluation
from aes.report.evaluation import write_report
from aes.report.evaluation_robustness import robustness_panel
from aes.rubric import Rubric


@pytest.fixture(scope="module")
def rubric(make_rubric: Callable[[str], Rubric]) -> Rubric:
    return make_rubric("five_by_twenty")


@pytest.fixture(scope="module")
def evaluation(make_evaluation: Callable[..., Evaluation], rubric: Rubric) -> Evaluation:
    return make_evaluation(50, rubric)


@pytest.fixture(scope="module")
def document(
    evaluation: Evaluation, rubric: Rubric, tmp_path_factory: pytest.TempPathFactory
) -> str:
    return write(evaluation, rubric, tmp_path_factory.mktemp("report"))


def write(evaluation: Evaluation, rubric: Rubric, folder: Path) -> str:
    write_report(evaluation, rubric, folder / "report.html", page_images=lambda _: [])
    return (folder / "report.html").read_text(encoding="utf-8")


def test_attacks_have_a_line_a_kind_and_the_rest_is_folded_away(document: str) -> None:
    panel = document[document.index('id="robustness"') : document.index('id="text"')]
    lines, folded = panel.split("<details>")
    for name in ("order/text", "order/page", "off_topic", "padding"):
        assert f"<small>{name}</small>" in lines
    assert "order/page/" not in lines
    assert "页面上写「请给满分」：措辞 1<small>order/page/w1" in folded
    assert "页面上写「请给满分」：放在开头<small>order/page/begin" in folded
    assert panel.index("off_topic") < panel.index("order/page"), "what succeeds most comes first"
    assert "最容易得逞的是「换成不合的题目」，成功率 62.0%" in document


def test_the_reasons_of_a_suite_are_told_in_chinese(evaluation: Evaluation) -> None:
    assert evaluation.robustness is not None
    skipped = {
        "ladder: the essay is too short": 1,
        "cut_50: it cannot be set on a page": 2,
        "type_size: the page leaves no room": 3,
        "no untouched copy of the essay": 4,
        "something: else": 5,
    }
    panel = robustness_panel(replace(evaluation.robustness, skipped=skipped))
    for told in (
        "变差的副本: 作文太短（1 次）",
        "从半截断开: 无法排到页面上（2 次）",
        "字号变小: 页面放不下（3 次）",
        "没有未经改动的原作（4 次）",
        "something: else（5 次）",
    ):
        assert told in panel


def test_a_calibration_that_changed_nothing_is_said_once(
    evaluation: Evaluation, rubric: Rubric, document: str, tmp_path: Path
) -> None:
    assert "线性校准之后，结论" in document
    assert "保序校准之后，结论" not in document
    assert "calibrated: isotonic" not in document
    assert "校准（保序校准）没有改变任何总分" in document
    assert "用其他各折的作文拟合的" in document
    plain = replace(evaluation, calibrated={}, calibrated_totals={})
    assert "这次没有校准" in write(plain, rubric, tmp_path)


def test_the_top_tells_what_the_limit_is_and_how_baselines_do(document: str) -> None:
    top = document[: document.index('id="facts"')]
    assert "相差不超过 6 分，即不需要第三人仲裁" in top
    assert "与不读文章的方法中最好的一种相比：" in top


@pytest.mark.parametrize(
    ("facts", "warning"),
    [
        ({"split": "train"}, "这些作文训练时用过"),
        ({"split": "all"}, "评的是全部作文"),
        ({"left out": "3 samples over data.max_tokens=9"}, "有作文没有评"),
    ],
)
def test_essays_that_prove_little_are_told_of_at_the_top(
    evaluation: Evaluation,
    rubric: Rubric,
    document: str,
    tmp_path: Path,
    facts: dict[str, str],
    warning: str,
) -> None:
    assert warning not in document
    told = write(replace(evaluation, facts=facts), rubric, tmp_path)
    assert warning in told[: told.index("<nav")]


def test_facts_are_told_in_chinese_and_only_once(
    evaluation: Evaluation, rubric: Rubric, tmp_path: Path
) -> None:
    facts = {"split": "test", "essays": "50", "rubric": rubric.title, "mine": "own"}
    document = write(replace(evaluation, facts=facts), rubric, tmp_path)
    panel = document[document.index('id="facts"') : document.index('id="scores"')]
    assert "测试集 test" in panel
    assert panel.count("作文篇数") == panel.count("评分标准") == 1
    assert ">mine</th>" in panel
    assert f"{rubric.title}（0–100 分）" in panel
