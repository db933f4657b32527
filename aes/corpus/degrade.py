"""Essays with five trait scores -> degraded copies whose scores went down with them.

A ladder for trying out whether a model sees what it should see: half of the copies are cut short,
the other half suffers, in equal shares, a missing ending, shuffled sentences, wrong characters or
repeated paragraphs. What each harm costs stands in ``degrade.yaml``. Levels of a kind rotate over
copies and essays. The costs are a convention, not measured on markers; this module does not know
how the copies are used, nor pages or rubrics.

``ladder_rungs`` does the same harm to any typed essay, all of it, and says nothing about scores.

Only the untouched original keeps the marker's comment: elsewhere it would quote text that is gone.
Its copies get a remark on what was done to them, so that each has a comment or none: a prompt that
asks some for a comment would tell which copies are untouched.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TypedDict

import yaml

from aes.corpus.misspelling import misspell, soften, wrong_characters
from aes.records import Essay

_SENTENCE = re.compile(r"[^。！？!?…]+[。！？!?…]*[”’」』）]*|[。！？!?…]+[”’」』）]*")
_MIN_SENTENCES = 4
_MIN_BLOCKS = 3


class _Table(TypedDict):
    """``degrade.yaml``."""

    cuts: dict[int, int]
    harms: dict[str, dict[int, dict[str, int]]]
    remarks: dict[str, dict[int, str]]


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
            ladder.append(_name(copy, kind, level, suffix))
    return ladder


def ladder_rungs(essay: Essay, *, seed: int) -> list[Essay]:
    """Worse and worse copies of an essay, for seeing whether a grader's scores fall with them.

    What a rung suffered, the next of its kind suffers too, and more: all wrong characters of a
    text are wrong in the next, a cut text begins the longer one. Sentences are moved afresh.

    Args:
        essay: The untouched original, which is the rung above the first of each kind.
        seed: Of the random choices.

    Returns:
        Kind by kind, the least harmed first, with ids and operations as of ``degrade_essays``, but
        without scores and comment. Empty for an essay that is too short or came as images; a
        harm that would change nothing (wrong characters where none are Chinese) is left out.
    """
    if num_sentences(essay.text) < _MIN_SENTENCES:
        return []
    bare = replace(essay, scores={}, comment="")
    rungs = []
    for kind, level in rung_levels():
        worst = max(load_table()["harms"]["typo"]) if kind == "typo" else level
        copy = _degrade(bare, kind, worst, random.Random(f"{seed}/{essay.id}/{kind}"))
        if kind == "typo":
            copy = _soften(copy, essay.text, level, random.Random(f"{seed}/{essay.id}/softer"))
        rungs.append(_name(copy, kind, level))
    return [rung for rung in rungs if rung.text.strip() and rung.text != essay.text]


def rung_levels() -> list[tuple[str, int]]:
    """Kind and level of each rung below the original, kind by kind, the least harm first."""
    table = load_table()
    cuts = [("cut", level) for level in sorted(table["cuts"], reverse=True) if level < 100]
    return cuts + [(kind, level) for kind, levels in table["harms"].items() for level in levels]


def cut(text: str, percent: int) -> str:
    """Breaks a text off in mid-sentence: the first ``percent`` of its characters."""
    return text[: len(text) * percent // 100].rstrip()


def drop_ending(text: str, percent: int, rng: random.Random) -> str:
    """Drops the last paragraphs, or sentences where there is one paragraph, at least ``percent``.

    One paragraph, or sentence, always stays.
    """
    del rng
    blocks = split_blocks(text)
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


def repeat_paragraphs(text: str, num_repeated: int, rng: random.Random) -> str:
    """Lets ``num_repeated`` paragraphs stand twice, the second time further down.

    A text of fewer than three paragraphs has thirds of its sentences repeated instead.
    """
    blocks = split_blocks(text)
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
    levels = {"cut": table["cuts"].keys() - {100}} | {
        k: v.keys() for k, v in table["harms"].items()
    }
    assert {k: v.keys() for k, v in table["remarks"].items()} == levels, "a remark for each copy"
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
    remark = table["remarks"][kind].get(level, essay.comment) if essay.comment else ""
    if kind == "cut":
        left = table["cuts"][level]
        # Half a point is rounded up.
        scores = {trait: (score * left + 50) // 100 for trait, score in essay.scores.items()}
        return replace(essay, text=cut(essay.text, level), scores=scores, comment=remark)
    costs = table["harms"][kind][level]
    scores = {trait: max(0, score - costs.get(trait, 0)) for trait, score in essay.scores.items()}
    text = _HARMS[kind](essay.text, level, rng)
    wrong = wrong_characters(text, essay.text) if kind == "typo" else essay.wrong_characters
    return replace(essay, text=text, scores=scores, comment=remark, wrong_characters=wrong)


def _soften(copy: Essay, original: str, percent: int, rng: random.Random) -> Essay:
    """A misspelt copy with only ``percent`` of its characters wrong."""
    text = soften(copy.text, original, percent, rng)
    return replace(copy, text=text, wrong_characters=wrong_characters(text, original))


def _name(copy: Essay, kind: str, level: int, suffix: str = "") -> Essay:
    name = f"{kind}_{level}"
    id_ = f"{copy.id}-{name}{suffix}"
    return replace(copy, id=id_, source=copy.source or copy.id, operation=name)


def _check_fitness(essay: Essay) -> None:
    harms = load_table()["harms"].values()
    traits = {trait for levels in harms for costs in levels.values() for trait in costs}
    if missing := sorted(traits - set(essay.scores)):
        raise ValueError(
            f"{essay.id} has no score for {', '.join(missing)}, which the ladder needs: "
            "switch the ladder off with data.ladder=false."
        )
    if num_sentences(essay.text) < _MIN_SENTENCES:
        raise ValueError(
            f"{essay.id} has fewer than {_MIN_SENTENCES} sentences, too few for the ladder: "
            "lengthen it, or switch the ladder off with data.ladder=false."
        )


def num_sentences(text: str) -> int:
    """Sentences of a text; a paragraph's end ends one too."""
    return sum(len(_split_sentences(p)) for p in text.split("\n"))


def _split_sentences(paragraph: str) -> list[str]:
    """Sentences with their closing marks; together they are the paragraph."""
    return _SENTENCE.findall(paragraph)


def split_blocks(text: str) -> list[str]:
    """Paragraphs with their line ends or, where there are fewer than three, sentences."""
    paragraphs = text.splitlines(keepends=True)
    if len(paragraphs) >= _MIN_BLOCKS:
        return paragraphs
    return [s for p in paragraphs for s in _split_sentences(p)]
