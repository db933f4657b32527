"""The suite's Examples: what differs from the honest one is what was done, and nothing else."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aes.corpus import degrade_essays, load_sample
from aes.page import PageSpec, ScanNoise
from aes.prompt import PromptSpec
from aes.prompt.build import ExampleBuilder
from aes.prompt.suite import Suite, build_suite, find_originals, spread
from aes.prompt.suite_spec import SuiteSpec
from aes.records import Essay, PageLayout
from aes.rubric import Rubric

SAMPLE = load_sample()
SPEC = SuiteSpec(num_essays=2, gain_points=None)


@pytest.fixture
def make_builder(read_conf: Callable[..., dict[str, Any]], nano_page: PageSpec) -> Any:
    def make(style: str, **changes: Any) -> ExampleBuilder:
        unset = {"font", "glyph_px", "line_spacing", "margin_px", "indent_chars"}
        if style == "none":
            changes |= dict.fromkeys(unset)
        if style == "scan":
            values = read_conf("page/scan")["scan"]
            changes["scan"] = ScanNoise(**{k: v for k, v in values.items() if k != "_target_"})
        page = dataclasses.replace(nano_page, style=style, **changes)
        rubric = Rubric(**read_conf("rubric/five_by_twenty"))
        prompt = PromptSpec(**read_conf("prompt/zh"))
        return ExampleBuilder(rubric=rubric, prompt=prompt, page=page, seed=1)

    return make


def build(builder: ExampleBuilder, essays: list[Essay], folder: Path, **changes: Any) -> Suite:
    spec = dataclasses.replace(SPEC, **changes)
    return build_suite(essays, builder=builder, spec=spec, seed=1, image_dir=folder)


@pytest.mark.parametrize("style", ["plain", "squared_paper", "scan", "none"])
def test_each_essay_makes_as_many_variants_as_stated(
    make_builder: Any, tmp_path: Path, style: str
) -> None:
    builder = make_builder(style)
    suite = build(builder, SAMPLE, tmp_path)
    expected = {"plain": 51, "squared_paper": 51, "scan": 52, "none": 32}[style]
    assert Counter(v.source for v in suite.variants) == {"S01": expected, "S15": expected}
    assert suite.skipped == {}
    assert suite == build(builder, SAMPLE, tmp_path)
    ids = [v.example.id for v in suite.variants]
    assert len(set(ids)) == len(ids)
    for v in suite.variants:
        assert v.example.id == f"{v.source}~{v.name}"
        assert v.base_id == f"{v.source}~honest"
        assert not v.example.answer
        assert not v.example.asks_feedback
        assert (v.goal is not None) == (v.kind == "attack")
        assert (v.step > 0) == (v.kind == "ladder")
        assert not list(tmp_path.iterdir())


def test_only_what_was_done_differs(make_builder: Any, tmp_path: Path) -> None:
    builder = make_builder("scan")
    suite = build(builder, SAMPLE, tmp_path, num_essays=1)
    by_name = {v.name: v for v in suite.variants}
    honest = by_name["honest"].example
    question = honest.messages[0].parts[-1]
    for v in suite.variants:
        first = v.example.pages[0]
        assert isinstance(first, PageLayout)
        assert (first.seed == honest.pages[0].seed) == (v.name != "noise"), v.name
        assert (v.example.messages[0].parts[-1] == question) == (v.name != "off_topic")
        assert (v.example.pages == honest.pages) == (v.name in ("honest", "off_topic"))
    assert Counter(v.kind for v in suite.variants) == {
        "honest": 1,
        "ladder": 12,
        "attack": 36,
        "drift": 3,
    }
    steps = [(v.name, v.step) for v in suite.variants if v.name.startswith(("cut", "shuffle"))]
    assert steps == [
        *(("cut_75", 1), ("cut_50", 2), ("cut_25", 3)),
        *(("shuffle_30", 1), ("shuffle_60", 2), ("shuffle_100", 3)),
    ]


def test_pages_keep_what_the_model_asks_of_them(make_builder: Any, tmp_path: Path) -> None:
    for style in ("plain", "squared_paper"):
        builder = make_builder(style)
        for v in build(builder, SAMPLE, tmp_path, num_essays=1).variants:
            for page in v.example.pages:
                width_px, height_px = builder.renderer.size(page)
                assert width_px % 32 == height_px % 32 == 0
                area = width_px * height_px
                assert builder.page.min_pixels <= area
                assert area <= builder.page.width_px * builder.page.max_height_px


def test_untouched_copies_of_a_ladder_are_the_honest_ones(
    make_builder: Any, tmp_path: Path
) -> None:
    ladder = degrade_essays(SAMPLE[:3], copies=8, seed=1)
    assert [e.id for e in find_originals(ladder)] == [f"S0{i}-cut_100" for i in (1, 2, 3)]
    worse = [e for e in ladder if e.operation != "cut_100" or e.source != "S02"]
    suite = build(make_builder("none"), worse, tmp_path, num_essays=None)
    assert {v.source for v in suite.variants} == {"S01", "S03"}
    assert suite.skipped == {"no untouched copy of the essay": 1}


def test_photos_are_painted_on_and_their_files_left_alone(
    make_builder: Any, tmp_path: Path
) -> None:
    builder = make_builder("none")
    drawn = make_builder("plain")
    photos = tmp_path / "photos"
    example = drawn.build(SAMPLE[0])
    paths = tuple(
        drawn.renderer.save(page, photos, f"p{i}") for i, page in enumerate(example.pages)
    )
    before = [path.read_bytes() for path in paths]
    essays = [
        Essay(id="a", pages=paths, topic="写一写父亲的手"),
        Essay(id="b", pages=paths[:1], topic="谈谈科技"),
    ]
    suite = build(builder, essays, tmp_path / "new")
    assert Counter(v.source for v in suite.variants) == {"a": 20, "b": 20}
    assert [path.read_bytes() for path in paths] == before
    opened = builder.renderer.open(paths[0])
    for v in suite.variants:
        if v.source == "b" and v.name.startswith("order/page"):
            (path,) = v.example.pages
            assert isinstance(path, Path)
            assert path.parent == tmp_path / "new"
            image = builder.renderer.open(path)
            assert image.width % 32 == image.height % 32 == 0
            assert image.tobytes() != opened.tobytes()
            with Image.open(path) as file:
                assert np.asarray(file).shape[0] > opened.height
    kinds = Counter(v.name.split("/")[0] for v in suite.variants)
    assert kinds == {"honest": 2, "order": 30, "white_text": 4, "off_topic": 2, "type_size": 2}


def test_what_cannot_be_tried_is_counted(make_builder: Any, tmp_path: Path) -> None:
    short = Essay(id="x", title="短", text="只有一句话。")
    suite = build(make_builder("plain", glyph_px=8), [short], tmp_path)
    assert suite.skipped == {
        "ladder: the essay is too short": 1,
        "off_topic: no other topic, or the essay's is not known": 1,
        "type_size: the page leaves no room": 1,
    }
    undrawable = dataclasses.replace(short, topic="写写🐉")
    suite = build(make_builder("plain"), [undrawable], tmp_path)
    assert suite.skipped["copied_prompt: it cannot be set on a page"] == 1
    assert "order/text/w1/end" in {v.name for v in suite.variants}


@pytest.mark.parametrize(("num", "expected"), [(None, 28), (1, 1), (5, 5), (28, 28), (99, 28)])
def test_spread_is_even(num: int | None, expected: int) -> None:
    chosen = [SAMPLE.index(essay) for essay in spread(SAMPLE, num)]
    assert len(chosen) == expected
    gaps = np.diff([*chosen, len(SAMPLE)])
    assert gaps.max() - gaps.min() <= 1


def test_gain_is_a_tenth_of_the_range_unless_told(small_rubric: Rubric) -> None:
    assert SPEC.gain_under(small_rubric) == pytest.approx(2.4)
    assert dataclasses.replace(SPEC, gain_points=3).gain_under(small_rubric) == 3
