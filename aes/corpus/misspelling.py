"""A text -> the same text with wrong characters: homophones and look-alikes.

Knows which characters a pupil takes for each other; not what a wrong one costs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from importlib import resources

import yaml
from pypinyin import Style, pinyin


def misspell(text: str, percent: int, rng: random.Random) -> str:
    """Writes ``percent`` of the Chinese characters, at least one, as a homophone or look-alike."""
    characters = list(text)
    places = [i for i, c in enumerate(characters) if confusable(c)]
    for i in rng.sample(places, min(_num_wrong(text, percent), len(places))):
        characters[i] = rng.choice(rng.choice(confusable(characters[i])))
    return "".join(characters)


def soften(text: str, original: str, percent: int, rng: random.Random) -> str:
    """Takes wrong characters of a misspelt text back until ``percent`` are left.

    From the same state of ``rng``, a smaller ``percent`` leaves some of those that a larger leaves.
    """
    wrong = [i for i, (a, b) in enumerate(zip(text, original, strict=True)) if a != b]
    rng.shuffle(wrong)
    characters = list(text)
    for i in wrong[_num_wrong(original, percent) :]:
        characters[i] = original[i]
    return "".join(characters)


def _num_wrong(text: str, percent: int) -> int:
    return max(1, round(sum("一" <= c <= "鿿" for c in text) * percent / 100))


def wrong_characters(text: str, original: str) -> tuple[str, ...]:
    """The different characters of a misspelt text that stand for others, in order."""
    pairs = zip(text, original, strict=True)
    return tuple(dict.fromkeys(wrong for wrong, right in pairs if wrong != right))


@cache
def confusable(char: str) -> tuple[tuple[str, ...], ...]:
    """Homophones and look-alikes of a character, each group only if there is any."""
    groups = (_homophones().get(char, ()), _look_alikes().get(char, ()))
    return tuple(group for group in groups if group)


@cache
def load_look_alikes() -> list[str]:
    """Groups of characters that look alike, from ``look_alikes.yaml``."""
    content = (resources.files("aes.corpus") / "look_alikes.yaml").read_text(encoding="utf-8")
    groups: list[str] = yaml.safe_load(content)
    return groups


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
    return _link(load_look_alikes())


def _link(groups: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """The others of each character's groups, sorted."""
    others: dict[str, set[str]] = {}
    for group in map(set, groups):
        for char in group:
            others.setdefault(char, set()).update(group - {char})
    return {char: tuple(sorted(found)) for char, found in others.items() if found}
