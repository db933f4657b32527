"""The evaluation report: one safe file with every number, however odd the evaluation."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aes.metrics.results import Agreement, Evaluation, Interval
from aes.records import Grade
from aes.report.evaluation import write_report
from aes.report.evaluation_tables import comparisons, write_interval, write_number
from aes.report.evaluation_worst import worst_panel
from aes.rubric import Rubric

PageImages = Callable[[str], list[Image.Image]]
NASTY = '<script>alert("x")</script> & $\\frac{1}{2}$ {braces}'


@pytest.fixture(scope="module")
def rubric(make_rubric: Callable[[str], Rubric]) -> Rubric:
    return make_rubric("five_by_twenty")


@pytest.fixture(scope="module")
def evaluation(make_evaluation: Callable[..., Evaluation], rubric: Rubric) -> Evaluation:
    return make_evaluation(50, rubric)


@pytest.fixture(scope="module")
def document(
    evaluation: Evaluation,
    rubric: Rubric,
    draw_pages: PageImages,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    return write(evaluation, rubric, tmp_path_factory.mktemp("report"), draw_pages)


def write(
    evaluation: Evaluation, rubric: Rubric, folder: Path, page_images: Any = lambda _: []
) -> str:
    write_report(evaluation, rubric, folder / "report.html", page_images=page_images)
    return (folder / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Open tags must be closed in order; collects ids, links and the tags that occur."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if "href" in found else []
        if tag == "img":
            self.images.append(found)
        if tag not in {"img", "meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(document: str) -> Outline:
    parsed = Outline()
    parsed.feed(document)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_it_is_one_well_formed_file_whose_links_lead_somewhere(document: str) -> None:
    parsed = outline(document)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert [link.removeprefix("#") for link in parsed.links] == parsed.ids
    assert {"verdict", "scores", "baselines", "figures", "double", "robustness", "worst"} <= set(
        parsed.ids
    )


def test_nothing_is_fetched_or_run(document: str) -> None:
    parsed = outline(document)
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert "://" not in document
    assert "url(" not in document
    assert "default-src &#x27;none&#x27;" in document
    for image in parsed.images:
        kind, data = (image["src"] or "").split(",", 1)
        assert kind in {"data:image/svg+xml;base64", "data:image/jpeg;base64"}
        raw = base64.b64decode(data, validate=True)
        if kind.startswith("data:image/svg"):
            # Addresses in there name formats; a picture that fetched something would have a href.
            assert not re.findall(rb'href="(?!#|data:)', raw)
            assert b"<script" not in raw
            assert b"<text" not in raw, "text is outlines, so that no font is needed"


def test_every_picture_has_words(document: str) -> None:
    images = outline(document).images
    assert len(images) > 10
    assert all(len(image["alt"] or "") > 5 for image in images)


def test_every_number_of_the_total_has_its_interval_and_n(
    evaluation: Evaluation, document: str
) -> None:
    agreements = [evaluation.agreement, *evaluation.baselines.values()]
    for agreement in [*agreements, *evaluation.calibrated.values()]:
        for metric in ("qwk", "pearson", "mae"):
            value = write_number(metric, agreement.metrics[f"{metric}/total"])
            small = write_interval(metric, agreement.intervals[f"{metric}/total"])
            assert f"{value}<small>{small}</small>" in document if small else f">{value}<"
    assert f"来源 {evaluation.agreement.num_sources}" in document
    assert document.count("ridge on length") == 1
    assert "SAMPLE" in document


def test_the_verdict_is_said_in_words(document: str) -> None:
    assert 'class="mark failed">未通过</span>' in document
    assert "项未通过（" in document
    assert "calibrated" in document


def test_beats_only_without_overlap(evaluation: Evaluation) -> None:
    def having(low: float, high: float) -> Agreement:
        return Agreement(
            num=90,
            num_sources=90,
            metrics={"qwk/total": (low + high) / 2},
            intervals={"qwk/total": Interval(low, high)},
        )

    baselines = {
        "mean": having(0.0, 0.2),
        "length_ridge": having(0.3, 0.55),
        "no_adapter": having(0.8, 0.9),
        "mine": replace(having(0, 1), intervals={}),
    }
    said = comparisons(replace(evaluation, agreement=having(0.5, 0.7), baselines=baselines))
    assert "比「总是给平均分」高 0.500" in said[0]
    assert "差别可信" in said[0]
    assert "不能证明" in said[1]
    assert "+0.175" in said[1]
    assert "确实更差" in said[2]
    assert "无法比较" in said[3]


def test_what_models_write_stays_text(
    make_evaluation: Callable[..., Evaluation], rubric: Rubric, tmp_path: Path
) -> None:
    evaluation = make_evaluation(9, rubric)
    marked = [
        replace(
            m,
            id=NASTY + m.id,
            group=NASTY,
            gold_text=NASTY,
            grade=replace(
                m.grade,
                id=NASTY + m.id,
                feedback=NASTY + "\ud83d",
                raw=NASTY,
                parse_error=m.grade.parse_error and NASTY,
                deductions=tuple(replace(d, reason=NASTY) for d in m.grade.deductions),
            ),
        )
        for m in evaluation.marked
    ]
    hostile = replace(
        evaluation,
        marked=marked,
        facts={NASTY: NASTY},
        by_group={NASTY: evaluation.agreement},
        baselines={NASTY: evaluation.agreement},
        calibration_note=NASTY,
    )
    document = write(hostile, rubric, tmp_path)
    assert "<script" not in document
    assert document.count("&lt;script&gt;") > 30
    outline(document)


def test_pages_are_asked_for_the_ten_worst_and_shrunk(
    evaluation: Evaluation, rubric: Rubric
) -> None:
    asked = []

    def pages(id_: str) -> list[Image.Image]:
        asked.append(id_)
        return [Image.effect_noise((600, 800), 90)] * 6

    document = worst_panel(evaluation.marked, rubric, pages)
    off = {
        m.id: abs(m.grade.expected_subtotal - sum(m.gold.values()))
        for m in evaluation.marked
        if not m.grade.parse_error
    }
    assert asked == sorted(off, key=lambda id_: -off[id_])[:10]
    assert document.count("data:image/jpeg") == 40
    assert document.count("另有 2 页未显示") == 10
    assert len(document) < 2_400_000


def test_unread_answers_come_before_the_worst(evaluation: Evaluation, document: str) -> None:
    unread = [m for m in evaluation.marked if m.grade.parse_error]
    assert unread
    assert document.index('id="unread"') < document.index('id="worst"')
    listed = document[document.index('id="unread"') : document.index('id="worst"')]
    for m in unread:
        assert m.id in listed
        assert "{&quot;scores&quot;" in listed


def test_deductions_are_line_items(
    make_evaluation: Callable[..., Evaluation], rubric: Rubric
) -> None:
    document = worst_panel(make_evaluation(6, rubric).marked, rubric, lambda _: [])
    assert "<li>没有标题：−2 分</li>" in document
    assert "扣分之后的总分" in document


@pytest.mark.parametrize("num", [0, 1, 3])
@pytest.mark.parametrize("lost", [False, True])
def test_hardly_any_data_still_makes_a_report(
    num: int,
    lost: bool,
    make_evaluation: Callable[..., Evaluation],
    make_rubric: Callable[[str], Rubric],
    tmp_path: Path,
) -> None:
    rubric = make_rubric("holistic100")
    whole = make_evaluation(3, rubric, full=False)
    bare = [replace(m, num_chars=0) for m in whole.marked[:num]]
    if lost:
        bare = [replace(m, grade=Grade(id=m.id, parse_error="x", raw="")) for m in bare]
    metrics = dict.fromkeys(whole.agreement.metrics, nan)
    agreement = Agreement(num=num, num_sources=num, metrics=metrics)
    document = write(replace(whole, marked=bare, agreement=agreement), rubric, tmp_path)
    outline(document)
    shown = re.sub(r"base64,[^\"]*|<(style|details)>.*?</\1>", "", document, flags=re.S)
    assert "nan" not in shown
    assert "不能下结论" in document
    assert "没有计算不读文章的方法" in document


def test_three_hundred_essays_stay_below_three_megabytes(
    make_evaluation: Callable[..., Evaluation],
    rubric: Rubric,
    draw_pages: PageImages,
    tmp_path: Path,
) -> None:
    write(make_evaluation(300, rubric), rubric, tmp_path, draw_pages)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
