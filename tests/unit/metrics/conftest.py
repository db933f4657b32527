"""A rubric with four bands, and graded essays under it."""

from collections.abc import Callable
from typing import Any

import pytest

from aes.records import Grade, Marked
from aes.rubric import Rubric

BANDS = {"一等": 20, "二等": 15, "三等": 9, "四等": 0}


@pytest.fixture(scope="session")
def exam() -> Rubric:
    """Content 0 to 20, format 1 to 5."""
    traits = {
        name: {"label": name, "description": name, "minimum": low, "maximum": high, "levels": ()}
        for name, (low, high) in {"content": (0, 20), "format": (1, 5)}.items()
    }
    bands = tuple({"label": label, "minimum": start} for label, start in BANDS.items())
    return Rubric(title="exam", traits=traits, bands=bands, deductions=None)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def make_grade() -> Callable[..., Grade]:
    """A Grade of whole scores; ``nudge`` is added to the expected content."""

    def make(content: int, form: int, nudge: float = 0.0, *, id: str = "e") -> Grade:
        scores = {"content": content, "format": form}
        return Grade(
            id=id,
            scores=scores,
            expected={"content": content + nudge, "format": float(form)},
            subtotal=content + form,
            expected_subtotal=content + form + nudge,
            total=content + form,
        )

    return make


@pytest.fixture(scope="session")
def mark(make_grade: Callable[..., Grade]) -> Callable[..., Marked]:
    """A graded essay; ``given`` are a Grade's arguments, ``None``: an answer nobody can read."""

    def make(id: str, given: tuple[Any, ...] | None, gold: tuple[int, int], **known: Any) -> Marked:
        unread = Grade(id=id, parse_error="no JSON object", raw="...")
        plain = {"source": id, "group": "", "num_chars": 0, "gold_text": ""}
        return Marked(
            id=id,
            gold={"content": gold[0], "format": gold[1]},
            grade=unread if given is None else make_grade(*given, id=id),
            **plain | known,  # type: ignore[arg-type]
        )

    return make
