"""A killed evaluation goes on from its journal, and never mixes grades of unlike settings."""

import json
import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from aes.grading.journal import Journal, Kept, write_lines
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
    Journal(path, SETTINGS, fresh=False)
    write_lines(path, (marked(id) for id in ids))


def test_grades_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.jsonl"
    essays = [marked("a"), marked("b", readable=False)]
    Journal(path, SETTINGS, fresh=False)
    write_lines(path, essays)
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

    write_lines(path, grading())
    assert lines_seen == [0, 1, 2]


def test_a_line_cut_short_is_graded_again(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    fill(path, "a", "b")
    path.write_bytes(path.read_bytes()[:-9])
    journal = Journal(path, SETTINGS, fresh=False)
    assert set(journal.marked) == {"a"}
    write_lines(path, [marked("b")])
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


# Several ranks


def line_ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


def graded(ids: str, seconds: float) -> list[Kept]:
    return [(marked(id), seconds) for id in ids]


def test_what_ranks_kept_is_put_together_in_order(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    fill(path, "c")
    journal = Journal(path, SETTINGS, fresh=False)
    write_lines(path, [marked("a"), marked("e")], num_ranks=2)
    before = journal.grading_s
    journal.settle([graded("ae", 1.0), graded("bd", 2.0)], "abcde")
    assert line_ids(path) == list("abcde") == list(journal.marked)
    # The second rank took 4 s, since its essays count half; the first one waited for it.
    assert journal.grading_s - before == pytest.approx(8.0)
    again = Journal(path, SETTINGS, fresh=False)
    assert again.marked == journal.marked
    assert again.grading_s == pytest.approx(journal.grading_s, abs=1e-3)


def test_seconds_of_a_rank_are_a_share_of_the_wall_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(step=3.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    kept = write_lines(tmp_path / "p.jsonl", [marked("a"), marked("b")], num_ranks=4)
    assert [seconds for _, seconds in kept] == [0.75, 0.75]


def test_one_rank_s_lines_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    journal = Journal(path, SETTINGS, fresh=False)
    kept = write_lines(path, [marked("a"), marked("b")])
    before = path.stat()
    journal.settle([kept], "ab")
    assert path.stat().st_ino == before.st_ino
    assert set(journal.marked) == {"a", "b"}


@pytest.mark.parametrize("num_merged", [0, 1, 2])
def test_parts_that_a_kill_left_count_once(tmp_path: Path, num_merged: int) -> None:
    path, part = tmp_path / "p.jsonl", tmp_path / ".p.jsonl.rank3"
    fill(path, "a", *"bc"[:num_merged])
    write_lines(part, [marked("b"), marked("c"), marked("d")])
    part.write_bytes(part.read_bytes()[:-9])
    journal = Journal(path, SETTINGS, fresh=False)
    assert set(journal.marked) == {"a", "b", "c"}
    assert line_ids(path) == ["a", "b", "c"]
    assert not part.exists()
    assert Journal(path, SETTINGS, fresh=False).marked == journal.marked


@pytest.mark.parametrize("fresh", [True, False])
def test_parts_of_a_file_that_was_removed_do_not_come_back(tmp_path: Path, fresh: bool) -> None:
    path, part = tmp_path / "p.jsonl", tmp_path / ".p.jsonl.rank1"
    fill(path, "a")
    write_lines(part, [marked("b")])
    if not fresh:
        path.unlink()
    assert not Journal(path, SETTINGS, fresh=fresh).marked
    assert not part.exists()


def test_an_empty_file_holds_no_grades_of_other_settings(tmp_path: Path) -> None:
    """As an evaluation leaves it that failed before its first grade."""
    path = tmp_path / "predictions.jsonl"
    Journal(path, SETTINGS | {"engine": "vllm"}, fresh=False)
    path.touch()
    assert not Journal(path, SETTINGS, fresh=False).marked
    path.write_text("")
    Journal(path, SETTINGS, fresh=False)
