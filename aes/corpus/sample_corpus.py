"""The essays that come with the package -> Drafts with five trait scores, and their ladder.

Material for trying things out: a run needs no data set to start. The essays and their scores were
written for this package; what a model reaches on them says nothing about its accuracy on pupils'
essays. This module does not know how copies are degraded (``aes.corpus.degrade``).
"""

from __future__ import annotations

from importlib import resources
from typing import Annotated, ClassVar

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA, Corpus
from aes.corpus.check import Draft
from aes.corpus.degrade import degrade_essays
from aes.corpus.problems import Ledger
from aes.corpus.split import Split
from aes.records import Essay

TRAITS = ("content", "structure", "language", "creativity", "format")


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class SampleCorpus(Corpus):
    """The embedded sample.

    Attributes:
        ladder: Whether each part's essays are replaced by their degraded copies.
        copies: Copies of each essay on the ladder, half of them cut; see ``aes.corpus.degrade``.
    """

    ladder: bool
    copies: Annotated[int, Field(ge=2, multiple_of=2)]
    traits: ClassVar[tuple[str, ...]] = TRAITS

    def _load(self, ledger: Ledger) -> list[Draft]:
        del ledger
        return [
            Draft(essay=essay, score_place=(essay.file, 0), title_line=0, lines=(0,) * num_lines)
            for essay in load_sample()
            for num_lines in [essay.text.count("\n") + 1]
        ]

    def _expand(self, parts: Split, seed: int) -> Split:
        """Each side climbs the ladder by itself, so no copy crosses over."""
        if not self.ladder:
            return parts
        train, val, test = (
            tuple(degrade_essays(part, copies=self.copies, seed=seed))
            for part in (parts.train, parts.val, parts.test)
        )
        return Split(train, val, test)


def load_sample() -> list[Essay]:
    """The embedded essays in the order of their files: material for trying things out.

    They make no claim about accuracy: neither essays nor scores come from an examination.
    """
    folder = resources.files("aes.corpus") / "sample"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [_parse_essay(name, (folder / name).read_text(encoding="utf-8")) for name in names]


def _parse_essay(name: str, content: str) -> Essay:
    entry = yaml.safe_load(content)
    paragraphs = (line.rstrip() for line in entry["text"].splitlines())
    return Essay(
        id=entry["id"],
        title=entry["title"].strip(),
        text="\n".join(p for p in paragraphs if p),
        scores={trait: entry["scores"][trait] for trait in TRAITS},
        comment=entry["comment"].strip(),
        topic=entry["topic"].strip(),
        source=entry["id"],
        file=f"sample/{name}",
    )
