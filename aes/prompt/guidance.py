"""Training samples of a classification -> the question that has a model write its system prompt.

Knows no model; conf/guidance holds the words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from aes.records import Example, Message


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class GuidanceSpec:
    """Templates; names in braces are filled in.

    Attributes:
        task: What is shown; ``{labels} {num_labels}``.
        sample: One sample; ``{number} {text} {label}``.
        request: What to write.
        max_chars: A longer sample is shown up to here.
    """

    task: str
    sample: str
    request: str
    max_chars: Annotated[int, Field(ge=1)]


def ask_for_guidance(
    samples: Sequence[Example], labels: Sequence[str], spec: GuidanceSpec
) -> Example:
    """The question; its answer is the system prompt.

    Args:
        samples: To be shown with their labels; system prompts of their own are not shown.
    """
    shown = [
        spec.sample.format(
            number=number, text=_shorten(_text(sample), spec.max_chars), label=_label(sample)
        )
        for number, sample in enumerate(samples, start=1)
    ]
    task = spec.task.format(labels="、".join(labels), num_labels=len(labels))
    words = "\n\n".join((task, *shown, spec.request))
    return Example(id="system_prompt", messages=(Message("user", (words,)),), kind="text")


def choose_samples(samples: Sequence[Example], *, num: int, seed: int) -> list[Example]:
    """So many samples, as evenly by label as can be, in a mixed order; fewer if there are no more.

    Args:
        seed: The same seed chooses the same samples.
    """
    rng = random.Random(seed)
    places = list(range(len(samples)))
    rng.shuffle(places)
    by_label: dict[str, list[int]] = {}
    for place in places:
        by_label.setdefault(_label(samples[place]), []).append(place)
    queues = [by_label[label] for label in sorted(by_label)]
    chosen: list[int] = []
    while len(chosen) < min(num, len(samples)):
        for queue in queues:
            if queue and len(chosen) < num:
                chosen.append(queue.pop())
    rng.shuffle(chosen)
    return [samples[place] for place in chosen]


def _label(sample: Example) -> str:
    return "".join(text for text, _ in sample.answer)


def _text(sample: Example) -> str:
    """What is asked, without the system prompt."""
    turns = (message for message in sample.messages if message.role != "system")
    parts = (part for message in turns for part in message.parts)
    return "\n".join(part for part in parts if isinstance(part, str)).strip()


def _shorten(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "……"
