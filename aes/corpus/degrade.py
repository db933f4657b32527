"""Essays with five trait scores -> degraded copies whose scores went down with them.

A ladder for trying out whether a model sees what it should see: half of the copies are cut short,
the other half suffers, in equal shares, a missing ending, shuffled sentences, wrong characters or
repeated paragraphs. What each harm costs stands in ``degrade.yaml``. Levels of a kind rotate over
copies and essays. The costs are a convention, not measured on markers; this module does not know
how the copies are used, nor pages or rubrics.

Only the untouched original keeps the marker's comment: elsewhere it would quote text that is gone.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TypedDict

import yaml
from pypinyin import Style, pinyin

from aes.records import Essay

_SENTENCE = re.compile(r"[^。！？!?…]+[。！？!?…]*[”’」』）]*|[。！？!?…]+[”’」』）]*")
_MIN_SENTENCES = 4
_MIN_BLOCKS = 3


class _Table(TypedDict):
    """``degrade.yaml``."""

    cuts: dict[int, int]
    harms: dict[str, dict[int, dict[str, int]]]
    look_alikes: list[str]


def degrade_essays(essays: Sequence[Essay], *, copies: int, seed: int) -> list[Essay]:
    """Puts each essay on the ladder: its copies take its place.

    Eight copies are each of the four cuts (one of them the whole essay) and one harm of each
    kind. With more than eight, cuts come again under ids of their own.

    Args:
        essays: Originals with scores for the traits that ``degrade.yaml`` names.
        copies: Copies of each essay, an even number.
        seed: Of the random choices; the copies of an essay do not depend on the other essays'
            texts.

    Returns:
        ``len(essays) * copies`` essays with ids like ``S01-cut_50``, copies of one essay together.

    Raises:
        ValueError: If an essay lacks a score, or is too short to be degraded.
    """
    assert copies % 2 == 0, "half of the copies are cut"
    ladder = []
    for i, essay in enumerate(essays):
        _check_fitness(essay)
        rounds: Counter[str] = Counter()
        for kind, level in _choose_operations(i, copies // 2):
            name = f"{kind}_{level}"
            rounds[name] += 1
            suffix = f"-{rounds[name]}" if rounds[name] > 1 else ""
            rng = random.Random(f"{seed}/{essay.id}/{name}{suffix}")
            copy = _degrade(essay, kind, level, rng)
            ladder.append(
                replace(
                    copy,
                    id=f"{essay.id}-{name}{suffix}",
                    source=essay.source or essay.id,
                    operation=name,
                )
            )
    return ladder


def cut(text: str, percent: int) -> str:
    """Breaks a text off in mid-sentence: the first ``percent`` of its characters."""
    return text[: len(text) * percent // 100].rstrip()


def drop_ending(text: str, percent: int, rng: random.Random) -> str:
    """Drops the last paragraphs, or sentences where there is one paragraph, at least ``percent``.

    One paragraph, or sentence, always stays.
    """
    del rng
    blocks = _split_blocks(text)
    kept = len(blocks) - 1
    while kept > 1 and sum(map(len, blocks[kept:])) * 100 < len(text) * percent:
        kept -= 1
    return "".join(blocks[:kept]).rstrip()


def shuffle_sentences(text: str, percent: int, rng: random.Random) -> str:
    """Moves ``percent`` of the sentences, at least two, each to the place of another one."""
    paragraphs = [_split_sentences(p) for p in text.split("\n")]
    places = [(i, k) for i, paragraph in enumerate(paragraphs) for k in range(len(paragraph))]
    moved = rng.sample(places, max(2, round(len(places) * percent / 100)))
    sentences = [paragraphs[i][k] for i, k in moved]
    for (i, k), sentence in zip(moved, sentences[1:] + sentences[:1], strict=True):
        paragraphs[i][k] = sentence
    return "\n".join("".join(paragraph) for paragraph in paragraphs)


def misspell(text: str, percent: int, rng: random.Random) -> str:
    """Writes ``percent`` of the Chinese characters, at least one, as a homophone or look-alike."""
    characters = list(text)
    num_wrong = max(1, round(sum("一" <= c <= "鿿" for c in text) * percent / 100))
    places = [i for i, c in enumerate(characters) if _confusable(c)]
    for i in rng.sample(places, min(num_wrong, len(places))):
        characters[i] = rng.choice(rng.choice(_confusable(characters[i])))
    return "".join(characters)


def repeat_paragraphs(text: str, num_repeated: int, rng: random.Random) -> str:
    """Lets ``num_repeated`` paragraphs stand twice, the second time further down.

    A text of fewer than three paragraphs has thirds of its sentences repeated instead.
    """
    blocks = _split_blocks(text)
    if len(text.split("\n")) < _MIN_BLOCKS:
        bounds = [len(blocks) * k // _MIN_BLOCKS for k in range(_MIN_BLOCKS + 1)]
        blocks = ["".join(blocks[a:b]) for a, b in pairwise(bounds)]
    elif not blocks[-1].endswith("\n"):
        blocks[-1] += "\n"
    # The longer half only: a line of dialogue that stands twice harms nobody.
    longer = sorted(range(len(blocks)), key=lambda i: -len(blocks[i]))[: -(-len(blocks) // 2)]
    for i in sorted(rng.sample(longer, num_repeated), reverse=True):
        blocks.insert(rng.randint(i + 1, len(blocks)), blocks[i])
    return "".join(blocks).rstrip()


_HARMS: Mapping[str, Callable[[str, int, random.Random], str]] = {
    "no_ending": drop_ending,
    "shuffle": shuffle_sentences,
    "typo": misspell,
    "repeat": repeat_paragraphs,
}


@cache
def load_table() -> _Table:
    """``degrade.yaml`` as it stands."""
    content = (resources.files("aes.corpus") / "degrade.yaml").read_text(encoding="utf-8")
    table: _Table = yaml.safe_load(content)
    assert list(table["harms"]) == list(_HARMS), "each kind in degrade.yaml needs a function"
    return table


def _choose_operations(index: int, half: int) -> list[tuple[str, int]]:
    """Kind and level of each copy of the ``index``-th essay: ``half`` cuts, ``half`` harms."""
    cuts = list(load_table()["cuts"])
    kinds = list(_HARMS)
    chosen = [("cut", cuts[(index * half + k) % len(cuts)]) for k in range(half)]
    for turn in range(index * half, (index + 1) * half):
        kind = kinds[turn % len(kinds)]
        levels = list(load_table()["harms"][kind])
        chosen.append((kind, levels[turn // len(kinds) % len(levels)]))
    return chosen


def _degrade(essay: Essay, kind: str, level: int, rng: random.Random) -> Essay:
    table = load_table()
    if kind == "cut":
        left = table["cuts"][level]
        # Half a point is rounded up.
        scores = {trait: (score * left + 50) // 100 for trait, score in essay.scores.items()}
        comment = essay.comment if level == 100 else ""
        return replace(essay, text=cut(essay.text, level), scores=scores, comment=comment)
    costs = table["harms"][kind][level]
    scores = {trait: max(0, score - costs.get(trait, 0)) for trait, score in essay.scores.items()}
    text = _HARMS[kind](essay.text, level, rng)
    return replace(essay, text=text, scores=scores, comment="")


def _check_fitness(essay: Essay) -> None:
    harms = load_table()["harms"].values()
    traits = {trait for levels in harms for costs in levels.values() for trait in costs}
    if missing := sorted(traits - set(essay.scores)):
        raise ValueError(
            f"{essay.id} has no score for {', '.join(missing)}, which the ladder needs: "
            "switch the ladder off with data.ladder=false."
        )
    if sum(len(_split_sentences(p)) for p in essay.text.split("\n")) < _MIN_SENTENCES:
        raise ValueError(
            f"{essay.id} has fewer than {_MIN_SENTENCES} sentences, too few for the ladder: "
            "lengthen it, or switch the ladder off with data.ladder=false."
        )


def _split_sentences(paragraph: str) -> list[str]:
    """Sentences with their closing marks; together they are the paragraph."""
    return _SENTENCE.findall(paragraph)


def _split_blocks(text: str) -> list[str]:
    """Paragraphs with their line ends or, where there are fewer than three, sentences."""
    paragraphs = text.splitlines(keepends=True)
    if len(paragraphs) >= _MIN_BLOCKS:
        return paragraphs
    return [s for p in paragraphs for s in _split_sentences(p)]


@cache
def _confusable(char: str) -> tuple[tuple[str, ...], ...]:
    """Homophones and look-alikes of a character, each group only if there is any."""
    groups = (_homophones().get(char, ()), _look_alikes().get(char, ()))
    return tuple(group for group in groups if group)


@cache
def _homophones() -> dict[str, tuple[str, ...]]:
    """Characters of equal sound and tone among the 3,755 commonest.

    Source: GB 2312-1980, level 1, for what is common; pypinyin for the sound.
    """
    codes = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    common = [code.decode("gb2312", errors="ignore") for code in codes]
    by_sound: dict[str, list[str]] = {}
    for char in filter(None, common):
        by_sound.setdefault(pinyin(char, style=Style.TONE3)[0][0], []).append(char)
    return _link(by_sound.values())


@cache
def _look_alikes() -> dict[str, tuple[str, ...]]:
    return _link(load_table()["look_alikes"])


def _link(groups: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """The others of each character's groups, sorted."""
    others: dict[str, set[str]] = {}
    for group in map(set, groups):
        for char in group:
            others.setdefault(char, set()).update(group - {char})
    return {char: tuple(sorted(found)) for char, found in others.items() if found}
