"""A typed essay -> copies that try to get more than they are worth, by their words alone.

An order to give full marks, empty phrases, the essay twice over, the writing task copied out, a
text that answers another task. The words stand in ``attacks.yaml``. What is written on a page
beside the essay is ``aes.page.overlay``'s; who falls for what is measured elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import accumulate, cycle
from typing import Literal, TypedDict, get_args

import yaml

from aes.corpus.degrade import split_blocks
from aes.records import Essay

Goal = Literal["gain", "unnoticed"]
"""``gain``: more points than the honest essay; ``unnoticed``: worthless, yet hardly fewer."""

Place = Literal["begin", "middle", "end"]
PLACES: tuple[Place, ...] = get_args(Place)

PADDING_PERCENT = 50
"""By how much padding lengthens an essay."""

_FAR_SHARE = 4
"""Another task is taken from the least alike quarter."""


class _Words(TypedDict):
    """``attacks.yaml``."""

    orders: list[str]
    padding: list[str]


@cache
def load_words() -> _Words:
    """``attacks.yaml`` as it stands."""
    content = (resources.files("aes.corpus") / "attacks.yaml").read_text(encoding="utf-8")
    words: _Words = yaml.safe_load(content)
    return words


def attack_essay(essay: Essay, *, task: str, seed: int) -> list[Essay]:
    """Copies of a typed essay that are attacked in the text.

    Args:
        essay: Honest.
        task: Copied out where the essay's own topic is not known.
        seed: Of the random choices.

    Returns:
        Essays without scores and comment; ``operation`` names the attack, e.g. ``padding`` or
        ``order/text/w3/begin``, and the id is the essay's with ``~`` and that name.
    """
    rng = random.Random(f"{seed}/{essay.id}")
    texts = {
        f"order/text/w{number}/{place}": insert_order(essay.text, order, place)
        for number, order in enumerate(load_words()["orders"], start=1)
        for place in PLACES
    }
    texts["padding"] = pad(essay.text, rng)
    texts["duplication"] = f"{essay.text}\n{essay.text}"
    texts["copied_prompt"] = copy_prompt(essay.topic or task, num_chars=len(essay.text))
    return [name_attack(replace(essay, text=text), name) for name, text in texts.items()]


def name_attack(essay: Essay, name: str) -> Essay:
    """``essay``, attacked already, under the attack's name and without scores and comment."""
    return replace(
        essay,
        id=f"{essay.id}~{name}",
        source=essay.source or essay.id,
        operation=name,
        scores={},
        comment="",
    )


def goal_of(name: str) -> Goal:
    """What success of an attack means."""
    return "unnoticed" if name in ("copied_prompt", "off_topic") else "gain"


def insert_order(text: str, order: str, place: Place) -> str:
    """Adds a paragraph at the begin, at the end or at the break nearest to the middle.

    A text of one or two paragraphs is broken between sentences.
    """
    if place == "begin":
        return f"{order}\n{text}"
    blocks = split_blocks(text)
    if place == "end" or len(blocks) < 2:
        return f"{text}\n{order}"
    ends = list(accumulate(map(len, blocks[:-1])))
    at = min(ends, key=lambda end: abs(2 * end - len(text)))
    return f"{text[:at].rstrip()}\n{order}\n{text[at:]}"


def pad(text: str, rng: random.Random) -> str:
    """Appends a paragraph of empty phrases that makes the text longer by half or a little more."""
    phrases = list(load_words()["padding"])
    rng.shuffle(phrases)
    added = ""
    for phrase in cycle(phrases):
        if len(added) * 100 >= len(text) * PADDING_PERCENT:
            return f"{text}\n{added}"
        added += phrase
    raise AssertionError("there are phrases")


def copy_prompt(prompt: str, *, num_chars: int) -> str:
    """The prompt over and over, a paragraph each time, until there are ``num_chars``."""
    times = -(-num_chars // (len(prompt) + 1))
    return "\n".join([prompt] * max(1, times))


def choose_far_topic(essay: Essay, topics: Sequence[str], *, seed: int) -> str | None:
    """A writing task that an essay does not answer: off topic under it.

    Args:
        essay: Typed or not; where it is, its text counts too.
        topics: Tasks of all essays.
        seed: Chooses among the least alike quarter, so that not all essays get the same one.

    Returns:
        ``None`` if there is no other task, or the essay's own is unknown.
    """
    others = sorted({topic for topic in topics if topic and topic != essay.topic})
    if not essay.topic or not others:
        return None
    written = _pairs(f"{essay.topic}\n{essay.title}\n{essay.text}")
    others.sort(key=lambda topic: len(_pairs(topic) & written) / len(_pairs(topic)))
    return random.Random(f"{seed}/{essay.id}").choice(others[: -(-len(others) // _FAR_SHARE)])


def _pairs(text: str) -> set[str]:
    """Pairs of neighbouring characters; a lone character is one itself."""
    return {text[i : i + 2] for i in range(max(1, len(text) - 1))}
