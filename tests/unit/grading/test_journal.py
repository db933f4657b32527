"""A killed evaluation goes on from its journal, and never mixes grades of unlike settings."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from aes.grading.journal import Journal
from aes.records import Deduction, Grade, Marked

SETTINGS = {"adapter": "abc", "decoding": {"score": "expected"}}


def marked(id: str, *, readable: bool = True) -> Marked:
    grade = (
        Grade(
            id=id,
            scores={"content": 12},
            expected={"content": 12.25},
            spread={"content": 1.5},
            subtotal=12.0,
            expected_subtotal=12.25,
            uncertainty=1.5,
            deductions=(Deduction(code="short", points=2, reason="短"),),
            total=10.0,
            feedback="好\u2028文",
            raw="{}",
        )
        if readable
        else Grade(id=id, parse_error="not JSON", raw="?")
    )
    return Marked(
        id=id,
        source="s",
        group="cut_50",
        num_chars=300,
        gold={"content": 13},
        gold_text="gold",
        grade=grade,
        fold=2,
    )


def fill(path: Path, *ids: str) -> None:
    journal = Journal(path, SETTINGS, fresh=False)
    journal.keep(marked(id) for id in ids)


def test_grades_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.jsonl"
    essays = [marked("a"), marked("b", readable=False)]
    Journal(path, SETTINGS, fresh=False).keep(essays)
    found = Journal(path, SETTINGS, fresh=False).marked
    assert found["a"] == essays[0]
    assert found["b"].grade.parse_error == "not JSON"
    assert math.isnan(found["b"].grade.total)


def test_each_essay_is_on_disk_before_the_next_is_graded(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines_seen = []

    def grading() -> Iterator[Marked]:
        for id in "abc":
            lines_seen.append(path.read_bytes().count(b"\n"))
            yield marked(id)

    Journal(path, SETTINGS, fresh=False).keep(grading())
    assert lines_seen == [0, 1, 2]


def test_a_line_cut_short_is_graded_again(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    fill(path, "a", "b")
    path.write_bytes(path.read_bytes()[:-9])
    journal = Journal(path, SETTINGS, fresh=False)
    assert set(journal.marked) == {"a"}
    journal.keep([marked("b")])
    assert set(Journal(path, SETTINGS, fresh=False).marked) == {"a", "b"}


def test_grades_of_other_settings_are_refused_unless_fresh(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    fill(path, "a")
    with pytest.raises(ValueError, match=r"other settings \(adapter was \"abc\"\).*fresh=true"):
        Journal(path, SETTINGS | {"adapter": "x"}, fresh=False)
    journal = Journal(path, SETTINGS | {"adapter": "x"}, fresh=True)
    assert not journal.marked
    assert not path.exists()


def test_a_stranger_s_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="nobody knows how its grades were made"):
        Journal(path, SETTINGS, fresh=False)
    path.unlink()
    fill(path, "a")
    path.write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="line 1: not a graded essay"):
        Journal(path, SETTINGS, fresh=False)


def test_the_time_of_earlier_starts_counts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    fill(path, "a")
    first = Journal(path, SETTINGS, fresh=False)
    assert first.grading_s >= 0
    text = path.read_text()
    at = text.index('"seconds": ')
    path.write_text(text[:at] + '"seconds": 5.0}\n')
    assert Journal(path, SETTINGS, fresh=False).grading_s == 5.0
