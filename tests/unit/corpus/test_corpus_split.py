"""Splits: no leak, strata, sizes, seeds; and the overlaps that they rest on."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aes.corpus import split_essays
from aes.corpus.duplicates import find_overlaps, fold, group_pairs
from aes.records import Essay


def random_text(rng: random.Random, num_chars: int) -> str:
    return "".join(chr(rng.randrange(0x4E00, 0x8E00)) for _ in range(num_chars))


def make_essays(num: int, seed: int = 0) -> list[Essay]:
    rng = random.Random(seed)
    return [
        Essay(id=f"E{i}", text=random_text(rng, 60), scores={"holistic": rng.randrange(101)})
        for i in range(num)
    ]


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(8, 30),
    seed=st.integers(0, 2**16),
    links=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=8),
)
def test_split_never_leaks(num: int, seed: int, links: list[tuple[int, int]]) -> None:
    essays = make_essays(num, seed)
    rng = random.Random(f"links {seed}")
    for k, (a, b) in enumerate(links):
        origin = essays[a % num]
        if k % 2:
            near = origin.text[:40] + random_text(rng, 30)
            essays.append(Essay(id=f"N{k}", text=near, scores={"holistic": b}))
        else:
            essays.append(Essay(id=f"C{k}", text=random_text(rng, 50), source=origin.id))
    split = split_essays(essays, val_fraction=0.2, test_fraction=0.1, seed=seed)
    parts = (split.train, split.val, split.test)
    assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in essays)
    side = {e.id: i for i, part in enumerate(parts) for e in part}
    for overlap in find_overlaps([e.text for e in essays]):
        assert side[essays[overlap.first].id] == side[essays[overlap.second].id]
    for essay in essays:
        assert side[essay.id] == side[essay.source or essay.id]
    assert split.train and split.val and split.test


def test_parts_have_their_share_and_like_scores() -> None:
    essays = make_essays(200)
    split = split_essays(essays, val_fraction=0.25, test_fraction=0.1, seed=3)
    assert (len(split.train), len(split.val), len(split.test)) == (130, 50, 20)
    means = [
        sum(e.scores["holistic"] for e in part) / len(part)
        for part in (split.train, split.val, split.test)
    ]
    assert max(means) - min(means) < 3


def test_seed_decides() -> None:
    essays = make_essays(40)
    first, again, other = (
        split_essays(essays, val_fraction=0.2, test_fraction=0.0, seed=s) for s in (1, 1, 2)
    )
    assert first == again and first != other and first.test == ()


def test_too_few_essays() -> None:
    with pytest.raises(ValueError, match="val_fraction"):
        split_essays(make_essays(2), val_fraction=0.1, test_fraction=0.1, seed=0)


def test_overlap_is_measured_on_the_shorter_text() -> None:
    rng = random.Random(0)
    text = random_text(rng, 104)
    long = text + random_text(rng, 300)
    (overlap,) = find_overlaps([long, random_text(rng, 100), text])
    assert (overlap.first, overlap.second, overlap.shared) == (0, 2, 1.0)
    assert overlap.jaccard == pytest.approx(100 / 400)
    assert not overlap.is_same


def test_a_fifth_of_wrong_characters_is_still_near() -> None:
    rng = random.Random(0)
    text = random_text(rng, 1000)
    wrong = list(text)
    for i in rng.sample(range(1000), 180):
        wrong[i] = "错"
    assert len(find_overlaps([text, "".join(wrong)])) == 1


def test_layout_and_punctuation_do_not_hide_a_copy() -> None:
    text = "那天，ＡＢ班的我们去了海边！大家都很高兴，直到傍晚才回家。"
    (overlap,) = find_overlaps([text, "那天 ab班的我们\n去了海边。大家都很高兴、直到傍晚才回家"])
    assert overlap.shared == 1.0 and overlap.is_same


def test_many_copies_hang_together() -> None:
    rng = random.Random(0)
    text = random_text(rng, 80)
    texts = [text] * 100 + [random_text(rng, 80)]
    pairs = [(o.first, o.second) for o in find_overlaps(texts)]
    assert [len(g) for g in group_pairs(101, pairs)] == [100, 1]


@pytest.mark.parametrize("most_keys", [10**9, 100_000])
def test_a_copy_of_a_text_of_stock_phrases_is_still_a_copy(
    most_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each 5-gram stands in some 70 texts, more than are compared with each other, or are kept."""
    monkeypatch.setattr("aes.corpus.duplicates._MOST_KEYS", most_keys)
    rng = random.Random(0)
    phrases = [random_text(rng, 12) for _ in range(300)]
    texts = ["".join(rng.sample(phrases, 20)) for _ in range(1000)]
    (overlap,) = find_overlaps([*texts, texts[500]])
    assert (overlap.first, overlap.second, overlap.is_same) == (500, 1000, True)


def test_texts_without_letters_match_nothing() -> None:
    assert find_overlaps(["", "", "……", "！"]) == []
    assert fold("《Ａ b》，１！") == "ab1"


def mean_total(essays: tuple[Essay, ...]) -> float:
    return sum(essay.scores["holistic"] for essay in essays) / len(essays)


@settings(max_examples=20, deadline=None)
@given(num=st.integers(10, 40), num_folds=st.integers(2, 5), seed=st.integers(0, 2**16))
def test_folds_hold_every_essay_out_once(num: int, num_folds: int, seed: int) -> None:
    essays = make_essays(num, seed)
    copy = Essay(id="copy", text="另一篇文章。" * 9, source="E0", scores={"holistic": 50})
    splits = [
        split_essays(
            [*essays, copy], val_fraction=0.2, test_fraction=0.9, seed=seed, fold=(k, num_folds)
        )
        for k in range(num_folds)
    ]
    held_out = [essay.id for split in splits for essay in split.test]
    assert sorted(held_out) == sorted([*(essay.id for essay in essays), "copy"])
    sizes = [len({e.source or e.id for e in split.test}) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert len(split.train) + len(split.val) + len(split.test) == num + 1
        sides = [{e.source or e.id for e in part} for part in (split.train, split.val, split.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert split.val and split.train


def test_folds_are_stratified_by_score() -> None:
    essays = make_essays(100)
    splits = [
        split_essays(essays, val_fraction=0.0, test_fraction=0.0, seed=1, fold=(k, 5))
        for k in range(5)
    ]
    means = [mean_total(split.test) for split in splits]
    assert max(means) - min(means) < 3  # of a hundred; 20 drawn blindly differ by about 15


def test_too_few_essays_for_the_folds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 unrelated essays cannot be cut into 5 folds"):
        split_essays(make_essays(3), val_fraction=0.0, test_fraction=0.0, seed=0, fold=(0, 5))
