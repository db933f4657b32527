"""Honest essays -> the Examples of the robustness suite: worse copies, attacks, harmless changes.

What is asked is the same throughout, for the honest essay too: no comment, unless the builder asks
all essays for one. So two Examples of one essay differ by what was done to it and nothing else.
Knows no model; what the scores mean is ``aes.metrics.robustness``'s.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from aes.corpus.attacks import (
    PLACES,
    Goal,
    attack_essay,
    choose_far_topic,
    goal_of,
    load_words,
    name_attack,
)
from aes.corpus.degrade import ladder_rungs
from aes.page import PageSpec
from aes.page.draw import FULL_INK
from aes.prompt.build import ExampleBuilder
from aes.prompt.suite_pages import PageEditor, reseed
from aes.prompt.suite_spec import SuiteSpec
from aes.records import Essay, Example

Kind = Literal["honest", "ladder", "attack", "drift"]

FAINT_INKS = (4, 0)
"""Darkness of white-on-white text: a trace, and none at all, which shows what the strip does."""

SMALLER = 0.9
"""Type size over the usual one, as a change that should not matter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One Example of the suite.

    Attributes:
        example: Its id is the essay's with ``~`` and ``name``; unique within a suite.
        base_id: Id of the honest Example of the same essay.
        source: The source essay; intervals resample these.
        kind: ``honest``: the essay as it is, against which the others are held.
        name: What was done, e.g. ``cut_50``, ``order/page/w3/begin``, ``type_size``.
        goal: Of an attack.
        step: Place on the ladder among the rungs of the same harm, 1 for the least; else 0.
    """

    example: Example
    base_id: str
    source: str
    kind: Kind
    name: str
    goal: Goal | None = None
    step: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """All Examples of the suite.

    Attributes:
        variants: Each essay's together, the honest one first.
        skipped: Why something could not be tried, and on how many essays.
    """

    variants: tuple[Variant, ...]
    skipped: Mapping[str, int]


def build_suite(
    essays: Sequence[Essay], *, builder: ExampleBuilder, spec: SuiteSpec, seed: int, image_dir: Path
) -> Suite:
    """Makes all variants of the honest essays among ``essays``; nothing is drawn but images.

    Args:
        essays: Of a split; degraded copies are passed over, an untouched one counts as honest.
        builder: As for the split itself.
        spec: How many essays.
        seed: Of all random choices.
        image_dir: New folder for changed image files, to be kept until the suite is graded.

    Returns:
        The same for the same arguments. Empty if no essay is honest.
    """
    originals = find_originals(essays)
    maker = _Maker(builder, PageEditor(builder.renderer, image_dir), seed)
    maker.skipped["no untouched copy of the essay"] += len(
        {essay.source or essay.id for essay in essays} - {e.source or e.id for e in originals}
    )
    topics = [essay.topic for essay in originals]
    chosen = spread(originals, spec.num_essays)
    variants = tuple(variant for essay in chosen for variant in maker.make(essay, topics))
    assert len({variant.example.id for variant in variants}) == len(variants)
    return Suite(variants=variants, skipped=dict(+maker.skipped))


def find_originals(essays: Sequence[Essay]) -> list[Essay]:
    """The first untouched copy of each source essay, in order."""
    untouched: dict[str, Essay] = {}
    for essay in essays:
        if essay.operation in ("", "cut_100"):
            untouched.setdefault(essay.source or essay.id, essay)
    return list(untouched.values())


def spread(essays: Sequence[Essay], num: int | None) -> list[Essay]:
    """``num`` of the essays at even distances, or all of them."""
    if num is None or num >= len(essays):
        return list(essays)
    return [essays[i * len(essays) // num] for i in range(num)]


class _Maker:
    """Makes the variants of one essay after the other, and counts what could not be made."""

    def __init__(self, builder: ExampleBuilder, editor: PageEditor, seed: int) -> None:
        self.builder = builder
        self.editor = editor
        self.seed = seed
        self.skipped: Counter[str] = Counter()

    def make(self, essay: Essay, topics: Sequence[str]) -> Iterator[Variant]:
        """The honest one first."""
        essay = dataclasses.replace(essay, scores={}, comment="")
        honest = self.builder.build(essay)
        yield self._variant("honest", "honest", essay, honest)
        if not essay.pages:
            yield from self._ladder(essay)
            yield from self._text_attacks(essay)
        yield from self._off_topic(essay, topics)
        if honest.pages:
            yield from self._page_attacks(essay, honest)
            yield from self._drift(essay, honest)

    def _ladder(self, essay: Essay) -> Iterator[Variant]:
        steps: Counter[str] = Counter()
        rungs = ladder_rungs(essay, seed=self.seed)
        if not rungs:
            self.skipped["ladder: the essay is too short"] += 1
        for rung in rungs:
            harm = rung.operation.rsplit("_", 1)[0]
            steps[harm] += 1
            for variant in self._build("ladder", rung.operation, essay, rung):
                yield dataclasses.replace(variant, step=steps[harm])

    def _text_attacks(self, essay: Essay) -> Iterator[Variant]:
        words = self.builder.prompt
        task = words.task.format(source=words.source_text)
        for attacked in attack_essay(essay, task=task, seed=self.seed):
            yield from self._build("attack", attacked.operation, essay, attacked)

    def _off_topic(self, essay: Essay, topics: Sequence[str]) -> Iterator[Variant]:
        topic = choose_far_topic(essay, topics, seed=self.seed)
        if topic is None:
            self.skipped["off_topic: no other topic, or the essay's is not known"] += 1
            return
        attacked = name_attack(dataclasses.replace(essay, topic=topic), "off_topic")
        yield from self._build("attack", "off_topic", essay, attacked)

    def _page_attacks(self, essay: Essay, honest: Example) -> Iterator[Variant]:
        orders = load_words()["orders"]
        if self.editor.renderer.missing_characters("".join(orders)):
            self.skipped["attacks on the page: the font lacks characters of the orders"] += 1
            return
        write = self.editor.write_note
        for number, order in enumerate(orders, start=1):
            for place in PLACES:
                example = write(honest, order, place=place, ink=FULL_INK)
                yield self._variant("attack", f"order/page/w{number}/{place}", essay, example)
        for ink in FAINT_INKS:
            # Between the lines: at an image's edge blank paper would be trimmed off.
            example = write(honest, orders[0], place="middle", ink=ink)
            yield self._variant("attack", f"white_text/ink{ink}", essay, example)

    def _drift(self, essay: Essay, honest: Example) -> Iterator[Variant]:
        if essay.pages:
            smaller = self.editor.scale_images(honest, SMALLER)
            yield self._variant("drift", "type_size", essay, smaller)
            return
        page = self.builder.page
        assert page.glyph_px is not None
        assert page.margin_px is not None
        glyph_px, margin_px = round(page.glyph_px * SMALLER), page.margin_px + page.glyph_px
        yield from self._reset("type_size", essay, lambda: _replace(page, glyph_px=glyph_px))
        yield from self._reset("margin", essay, lambda: _replace(page, margin_px=margin_px))
        if page.scan is not None:
            yield self._variant("drift", "noise", essay, reseed(honest))

    def _reset(self, name: str, essay: Essay, page: Callable[[], PageSpec]) -> Iterator[Variant]:
        """The essay set otherwise, if the page leaves room for that."""
        old = self.builder
        try:
            builder = ExampleBuilder(
                rubric=old.rubric,
                prompt=old.prompt,
                page=page(),
                seed=old.seed,
                feedback=old.feedback,
            )
        except ValueError:
            self.skipped[f"{name}: the page leaves no room"] += 1
            return
        yield self._variant("drift", name, essay, builder.build(essay))

    def _build(self, kind: Kind, name: str, essay: Essay, changed: Essay) -> Iterator[Variant]:
        """The variant of a changed essay, if it can be set."""
        # Under the honest essay's id: the noise of a scanned page is seeded with it.
        changed = dataclasses.replace(changed, id=essay.id)
        try:
            yield self._variant(kind, name, essay, self.builder.build(changed))
        except ValueError:
            self.skipped[f"{name}: it cannot be set on a page"] += 1

    def _variant(self, kind: Kind, name: str, essay: Essay, example: Example) -> Variant:
        return Variant(
            example=dataclasses.replace(example, id=f"{essay.id}~{name}", group=name),
            base_id=f"{essay.id}~honest",
            source=essay.source or essay.id,
            kind=kind,
            name=name,
            goal=goal_of(name) if kind == "attack" else None,
        )


def _replace(page: PageSpec, **changes: int) -> PageSpec:
    return dataclasses.replace(page, **changes)  # type: ignore[arg-type]
