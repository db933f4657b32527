"""Essays to Examples: what is asked, what is shown and what should be answered."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.page import PageSpec
from aes.prompt import PromptSpec
from aes.prompt.build import ExampleBuilder, shrink_page
from aes.records import Essay, Example, PageLayout
from aes.rubric import Rubric


def _question(example: Example) -> str:
    return "".join(part for part in example.messages[-1].parts if isinstance(part, str))


def _text_builder(builder: ExampleBuilder, read_conf: Callable[..., dict[str, Any]]) -> Any:
    page = PageSpec(**read_conf("page/none", width_px=320, max_height_px=640, min_pixels=65536))
    return ExampleBuilder(rubric=builder.rubric, prompt=builder.prompt, page=page, seed=1)


def test_without_a_comment_neither_prompt_nor_answer_asks_for_feedback(
    builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    plain, commented = builder.build(essays[0]), builder.build(essays[1])
    assert not plain.asks_feedback
    assert "feedback" not in _question(plain)
    assert "feedback" not in "".join(text for text, _ in plain.answer)
    assert commented.asks_feedback
    assert '"feedback":"评语"' in _question(commented)
    answer = json.loads("".join(text for text, _ in commented.answer))
    assert answer == {"scores": dict(essays[1].scores), "feedback": essays[1].comment}


def test_the_question_names_every_trait_with_its_range(
    builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    question = _question(builder.build(essays[0]))
    assert "content（content，0到20分）" in question
    assert "language（language，8到12分）" in question
    assert '{"scores":{"content":0-20,"language":8-12}}' in question
    assert "作文题目" not in question
    assert "作文题目：写一个季节。" in _question(builder.build(essays[1]))


def test_no_total_is_ever_asked_for_or_answered(
    builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    for essay in essays:
        assert "total" not in "".join(text for text, _ in builder.build(essay).answer)


def test_the_essay_is_on_the_page_and_not_in_the_text(
    builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    example = builder.build(essays[1])
    assert essays[1].text[:10] not in _question(example)
    (page,) = example.pages
    assert isinstance(page, PageLayout)
    written = "".join(line.text for line in page.lines).replace("\u3000", "")
    assert written == (essays[1].title + essays[1].text).replace("\n", "")


def test_typed_text_goes_as_text_without_pages(
    builder: ExampleBuilder,
    essays: tuple[Essay, ...],
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    example = _text_builder(builder, read_conf).build(essays[1])
    assert example.pages == ()
    assert f"{essays[1].title}\n{essays[1].text}" in _question(example)
    assert "下文" in _question(example)


def test_braces_in_an_essay_are_left_alone(
    builder: ExampleBuilder, read_conf: Callable[..., dict[str, Any]]
) -> None:
    essay = Essay(id="x", title="{title}", text="{shape} {0} {", topic="{topic}")
    question = _question(_text_builder(builder, read_conf).build(essay))
    assert "{title}\n{shape} {0} {" in question
    assert "作文题目：{topic}" in question


def test_photos_stay_files_whatever_the_style(
    builder: ExampleBuilder, read_conf: Callable[..., dict[str, Any]]
) -> None:
    essay = Essay(id="x", pages=(Path("a.png"), Path("b.png")))
    for any_builder in (builder, _text_builder(builder, read_conf)):
        assert any_builder.build(essay).pages == essay.pages


def test_an_essay_without_scores_has_no_answer(builder: ExampleBuilder) -> None:
    example = builder.build(Essay(id="x", text="春天"))
    assert (example.answer, example.scores) == ((), {})


def test_facts_for_reports_are_carried_along(
    builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    essay = dataclasses.replace(essays[1], operation="cut_50", text="春天 来了\n好")
    example = builder.build(essay)
    assert (example.id, example.group, example.num_chars) == ("e1", "cut_50", 5)
    assert example.scores == essay.scores


def test_gold_scores_of_another_rubric_are_refused(builder: ExampleBuilder) -> None:
    with pytest.raises(ValueError, match="score of language is 20"):
        builder.build(Essay(id="x", text="春", scores={"content": 1, "language": 20}))


def test_a_system_turn_comes_first(
    prompt_spec: PromptSpec, small_rubric: Rubric, nano_page: PageSpec
) -> None:
    prompt = dataclasses.replace(prompt_spec, system="你是老师。")
    made = ExampleBuilder(rubric=small_rubric, prompt=prompt, page=nano_page, seed=1)
    example = made.build(Essay(id="x", text="春"))
    assert [m.role for m in example.messages] == ["system", "user"]
    assert example.messages[0].parts == ("你是老师。",)


def test_levels_are_listed_on_request(
    read_conf: Callable[..., dict[str, Any]], nano_page: PageSpec
) -> None:
    rubric = Rubric(**read_conf("rubric/gaokao60"))
    for wanted in (False, True):
        prompt = PromptSpec(**read_conf("prompt/zh", with_levels=wanted))
        made = ExampleBuilder(rubric=rubric, prompt=prompt, page=nano_page, seed=1)
        question = _question(made.build(Essay(id="x", text="春")))
        texts = [level.text for t in rubric.traits.values() for level in t.levels]
        assert texts
        assert all((text in question) == wanted for text in texts)


def test_noise_is_seeded_by_run_and_essay(builder: ExampleBuilder) -> None:
    def seed(builder: ExampleBuilder, name: str) -> int:
        page = builder.build(Essay(id=name, text="春")).pages[0]
        assert isinstance(page, PageLayout)
        return page.seed

    other = ExampleBuilder(
        rubric=builder.rubric, prompt=builder.prompt, page=builder.page, seed=builder.seed + 1
    )
    assert seed(builder, "a") == seed(builder, "a")
    assert len({seed(builder, "a"), seed(builder, "b"), seed(other, "a")}) == 3


@pytest.mark.parametrize("factor", [0.9, 0.7, 0.5])
def test_shrinking_keeps_pages_valid(nano_page: PageSpec, factor: float) -> None:
    smaller = shrink_page(nano_page, factor)
    assert smaller.glyph_px == max(8, round(10 * factor))
    assert smaller.max_height_px <= nano_page.max_height_px
    assert smaller.max_height_px % 32 == 0
    assert smaller.width_px == nano_page.width_px
