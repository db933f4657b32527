"""The ladder: costs to the letter, exact shares, and texts that suffered what the id says."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from aes.corpus import degrade_essays, load_sample
from aes.corpus.degrade import ladder_rungs, rung_levels
from aes.corpus.misspelling import confusable, load_look_alikes, misspell
from aes.records import Essay

TRAITS = ("content", "structure", "language", "creativity", "format")
COSTS = {
    "no_ending_15": {"structure": 4, "content": 2},
    "shuffle_30": {"structure": 4, "language": 1},
    "shuffle_60": {"structure": 7, "language": 2},
    "shuffle_100": {"structure": 10, "language": 3},
    "typo_2": {"language": 3, "format": 4},
    "typo_5": {"language": 6, "format": 8},
    "typo_10": {"language": 9, "format": 12},
    "repeat_1": {"content": 3, "creativity": 4},
    "repeat_2": {"content": 6, "creativity": 7},
}
FACTORS = {"cut_100": 1.0, "cut_75": 0.8, "cut_50": 0.5, "cut_25": 0.25}
SAMPLE = {essay.id: essay for essay in load_sample()}


@pytest.fixture(scope="module")
def ladder() -> list[Essay]:
    return degrade_essays(list(SAMPLE.values()), copies=8, seed=1)


def test_scores_follow_the_table(ladder: list[Essay]) -> None:
    for copy in ladder:
        for trait, before in SAMPLE[copy.source].scores.items():
            if copy.operation in FACTORS:
                expected = int(before * FACTORS[copy.operation] + 0.5)
            else:
                expected = max(0, before - COSTS[copy.operation].get(trait, 0))
            assert copy.scores[trait] == expected, copy.id
            assert 0 <= copy.scores[trait] <= 20


def test_shares_are_equal(ladder: list[Essay]) -> None:
    num = len(SAMPLE)
    counts = Counter(copy.operation for copy in ladder)
    kinds = Counter(copy.operation.rsplit("_", 1)[0] for copy in ladder)
    assert {op: counts[op] for op in FACTORS} == dict.fromkeys(FACTORS, num)
    assert kinds == {"cut": 4 * num, "no_ending": num, "shuffle": num, "typo": num, "repeat": num}
    for kind in ("shuffle", "typo", "repeat"):
        levels = [n for op, n in counts.items() if op.startswith(kind)]
        assert max(levels) - min(levels) <= 1
    assert set(counts) == set(COSTS) | set(FACTORS)


@pytest.mark.parametrize("copies", [2, 4, 16])
def test_other_numbers_of_copies_share_alike(copies: int) -> None:
    essays = list(SAMPLE.values())[:24]
    ladder = degrade_essays(essays, copies=copies, seed=0)
    kinds = Counter(copy.operation.rsplit("_", 1)[0] for copy in ladder)
    share = 24 * copies // 8
    assert kinds.pop("cut") == 4 * share
    assert set(kinds.values()) == {share} and len(kinds) == 4
    assert len({copy.id for copy in ladder}) == 24 * copies


def test_ids_sources_and_comments(ladder: list[Essay]) -> None:
    assert len({copy.id for copy in ladder}) == len(ladder)
    for copy in ladder:
        assert copy.id == f"{copy.source}-{copy.operation}"
        comment = SAMPLE[copy.source].comment
        assert (copy.comment == comment) == (copy.operation == "cut_100")
        assert copy.comment, "a prompt without a question for a comment would tell the copy's worth"


def test_every_copy_is_another_text(ladder: list[Essay]) -> None:
    assert len({copy.text for copy in ladder}) == len(ladder)


def test_texts_suffered_what_they_are_said_to(ladder: list[Essay]) -> None:
    for copy in ladder:
        text = SAMPLE[copy.source].text
        kind, level = copy.operation.rsplit("_", 1)
        share = len(copy.text) / len(text)
        if kind == "cut":
            assert text.startswith(copy.text)
            assert share == pytest.approx(int(level) / 100, abs=0.01)
        elif kind == "no_ending":
            assert text.startswith(copy.text) and 0.4 < share <= 0.86, copy.id
        elif kind == "shuffle":
            assert Counter(copy.text) == Counter(text)
        elif kind == "typo":
            changed = [(a, b) for a, b in zip(text, copy.text, strict=True) if a != b]
            num_chinese = sum("一" <= c <= "鿿" for c in text)
            assert len(changed) == round(num_chinese * int(level) / 100)
        else:
            assert 1 < share <= 2
            assert set(copy.text.split("\n")) >= set(text.split("\n")) or text.count("\n") < 2


def test_wrong_characters_are_homophones_or_look_alikes() -> None:
    text = "他在未来的土地上已经开始做一件新的事情" * 5
    wrong = misspell(text, 10, random.Random(0))
    for a, b in zip(text, wrong, strict=True):
        assert a == b or any(b in group for group in confusable(a))
    assert any("己" in group for group in confusable("已"))
    assert any("坐" in group for group in confusable("座"))


def test_seed_decides(ladder: list[Essay]) -> None:
    essays = list(SAMPLE.values())
    assert degrade_essays(essays, copies=8, seed=1) == ladder
    assert degrade_essays(essays, copies=8, seed=2) != ladder


def test_look_alikes_are_groups_of_different_characters() -> None:
    groups = load_look_alikes()
    assert len(groups) >= 150
    assert all(len(group) == len(set(group)) >= 2 for group in groups)


def test_essay_that_cannot_be_degraded_is_an_error() -> None:
    essay = Essay(id="X", text="一句话。" * 9, scores=dict.fromkeys(TRAITS, 9))
    with pytest.raises(ValueError, match="content"):
        degrade_essays([replace(essay, scores={"holistic": 80})], copies=8, seed=0)
    with pytest.raises(ValueError, match="sentences"):
        degrade_essays([replace(essay, text="一句话。")], copies=8, seed=0)


def test_misspelt_copies_know_their_wrong_characters(ladder: list[Essay]) -> None:
    for copy in ladder:
        if not copy.operation.startswith("typo"):
            assert copy.wrong_characters is None
            continue
        pairs = zip(copy.text, SAMPLE[copy.source].text, strict=True)
        assert set(copy.wrong_characters) == {a for a, b in pairs if a != b}
        assert len(set(copy.wrong_characters)) == len(copy.wrong_characters) > 0


def test_rungs_do_more_and_more_of_the_same_harm() -> None:
    for essay in SAMPLE.values():
        rungs = ladder_rungs(essay, seed=3)
        assert [r.operation for r in rungs] == [f"{kind}_{level}" for kind, level in rung_levels()]
        by_name = {rung.operation: rung.text for rung in rungs}
        assert by_name["cut_75"].startswith(by_name["cut_50"])
        assert by_name["cut_50"].startswith(by_name["cut_25"])
        wrong = [_differences(essay.text, by_name[f"typo_{level}"]) for level in (2, 5, 10)]
        assert wrong[0] < wrong[1] < wrong[2]
        repeats = [Counter(by_name[f"repeat_{n}"].split("\n")) for n in (1, 2)]
        if essay.text.count("\n") >= 2:
            assert repeats[0] < repeats[1]


def _differences(text: str, other: str) -> set[tuple[int, str]]:
    return {(i, b) for i, (a, b) in enumerate(zip(text, other, strict=True)) if a != b}


def test_rungs_need_no_traits_and_leave_the_essay_alone() -> None:
    essay = replace(SAMPLE["S01"], scores={"holistic": 80}, source="")
    before = replace(essay)
    rungs = ladder_rungs(essay, seed=0)
    assert essay == before
    assert len({rung.id for rung in rungs} | {essay.id}) == len(rungs) + 1
    assert all(r.source == "S01" and not r.scores and not r.comment for r in rungs)
    assert rungs == ladder_rungs(essay, seed=0) != ladder_rungs(essay, seed=1)


def test_what_cannot_be_harmed_has_fewer_rungs_or_none() -> None:
    assert ladder_rungs(Essay(id="X", text="一句话。"), seed=0) == []
    assert ladder_rungs(Essay(id="X", pages=()), seed=0) == []
    english = Essay(id="X", text="It rains! We wait! Nobody comes! So we leave! It stops!")
    assert not [r for r in ladder_rungs(english, seed=0) if r.operation.startswith("typo")]
    alike = ladder_rungs(Essay(id="X", text="好。" * 9), seed=0)
    assert not [r for r in alike if r.operation.startswith("shuffle")]
