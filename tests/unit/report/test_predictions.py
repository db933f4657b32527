"""Lines of grades: kept, taken up again after a kill, refused where they are not ours."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aes.records import Deduction, Grade
from aes.report.prediction_lines import LineWriter
from aes.report.predictions import (
    PredictionWriter,
    Provenance,
    journal_path,
    read_predictions,
    require_output,
)

OURS = Provenance(model="nano", adapter="a1", settings="s1")
GRADE = Grade(
    id="e1",
    scores={"content": 15, "language": 9},
    expected={"content": 15.25, "language": 9.0},
    spread={"content": 1.5, "language": 0.0},
    subtotal=24.0,
    expected_subtotal=24.25,
    uncertainty=1.5,
    deductions=(Deduction(code="short", points=2.0, reason="少于800字"),),
    total=22.0,
    feedback="语句“通顺”。\u2028好",
)


def grade(id: str, total: float = 22.0) -> Grade:
    return Grade(id=id, scores={"content": 1}, subtotal=total, total=total)


def write(path: Path, *ids: str, digests: dict[str, str] | None = None) -> None:
    with PredictionWriter(path, provenance=OURS, digests=digests) as writer:
        for id in ids:
            writer.write_grade(grade(id))


def ids_of(path: Path) -> list[str]:
    return [line["id"] for line in read_predictions(path)]


def test_a_line_says_all_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    with PredictionWriter(path, provenance=OURS, digests={"e1": "d1"}) as writer:
        writer.write_grade(GRADE, seconds=0.12345, warnings=["mended"])
    raw = path.read_bytes()
    assert raw.count(b"\n") == 1 == len(raw.decode().splitlines())
    assert "语句" in raw.decode()
    line = json.loads(raw)
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert line == {
        "id": "e1",
        "scores": {"content": 15, "language": 9},
        "total_score": 22,
        "subtotal": 24,
        "expected_subtotal": 24.25,
        "uncertainty": 1.5,
        "deductions": [{"code": "short", "points": 2, "reason": "少于800字"}],
        "feedback": GRADE.feedback,
        "error": None,
        "warnings": ["mended"],
        "seconds": 0.123,
        "model": "nano",
        "adapter": "a1",
        "settings": "s1",
        "essay": "d1",
    }
    assert isinstance(line["total_score"], int)


def test_two_commands_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    late = PredictionWriter(path, provenance=OURS)
    with PredictionWriter(path, provenance=OURS) as writer:
        with pytest.raises(ValueError, match="another command writes"):
            PredictionWriter(path, provenance=OURS).__enter__()
        writer.write_grade(grade("a"))
    with pytest.raises(ValueError, match="another command writes"):
        late.__enter__()  # it began before the other one had ended, and would grade again
    write(path, "b")
    assert ids_of(path) == ["a", "b"]


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with PredictionWriter(path, provenance=OURS) as writer:
        writer.write_error("bad", "a.png cannot be read.")
        writer.write_grade(Grade(id="unread", parse_error="no JSON object", raw="呃\ud83d…"))
        writer.write_grade(grade("half", 21.5))
    bad, unread, half = read_predictions(path)
    assert (bad["error"], bad["total_score"], bad["scores"]) == ("a.png cannot be read.", None, {})
    assert "raw" not in bad
    assert (unread["error"], unread["raw"]) == ("no JSON object", "呃\ud83d…")
    assert unread["subtotal"] is unread["uncertainty"] is unread["seconds"] is None
    assert half["total_score"] == 21.5
    assert half["expected_subtotal"] is None
    assert math.isnan(grade("half").uncertainty)


def test_each_line_is_there_as_soon_as_it_is_graded(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with PredictionWriter(path, provenance=OURS) as writer:
        for n in range(1, 4):
            writer.write_grade(grade(f"e{n}"))
            assert len(ids_of(path)) == n


@pytest.mark.parametrize("num_bytes", [1, 5, 60])
def test_a_second_start_goes_on_where_a_kill_stopped(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "out.jsonl"
    write(path, "e1", "e2", "e3")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:num_bytes])
    writer = PredictionWriter(path, provenance=OURS)
    assert writer.done == {"e1", "e2"}
    with writer:
        writer.write_grade(grade("e3"))
    assert ids_of(path) == ["e1", "e2", "e3"]
    assert path.read_bytes().splitlines()[:2] == [line.rstrip(b"\n") for line in lines[:2]]
    before = path.stat()
    assert PredictionWriter(path, provenance=OURS).done == {"e1", "e2", "e3"}
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_kill_in_the_first_line_is_mended_too(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, "e1")
    path.write_bytes(path.read_bytes()[:40])
    assert PredictionWriter(path, provenance=OURS).done == frozenset()
    assert path.read_bytes() == b""


def test_errors_and_changed_essays_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    digests = {"same": "d1", "changed": "d2", "gone": "d3", "failed": ""}
    with PredictionWriter(path, provenance=OURS, digests=digests) as writer:
        for id in ("same", "changed", "gone"):
            writer.write_grade(grade(id))
        writer.write_error("failed", "why")
    now = {"same": "d1", "changed": "other", "failed": "d4"}
    assert PredictionWriter(path, provenance=OURS, digests=now).done == {"same", "gone"}
    assert ids_of(path) == ["same", "gone"]


@pytest.mark.parametrize("key", ["model", "adapter", "settings"])
def test_grades_of_other_settings_are_refused_and_left_alone(tmp_path: Path, key: str) -> None:
    path = tmp_path / "out.jsonl"
    write(path, "e1")
    before = path.read_bytes()
    values = {"model": "nano", "adapter": "a1", "settings": "s1"} | {key: "other"}
    with pytest.raises(ValueError, match=rf"line 1, .*its {key} differs.*another output"):
        PredictionWriter(path, provenance=Provenance(**values))
    assert path.read_bytes() == before


FOREIGN: list[Any] = [
    b"my thesis",
    b"my thesis\n",
    '{"id": "1", "text": "春天"}'.encode(),
    '{"id": "1", "text": "春天"}\n'.encode(),
    b"\xff\xfe\n",
    b"[1]\n",
    b"\n\n",
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"out\.jsonl, line 1, is no grade"):
        PredictionWriter(path, provenance=OURS)
    assert path.read_bytes() == content


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    writer = PredictionWriter(tmp_path / "out.jsonl", provenance=OURS)
    with writer, full.open("wb", buffering=0) as file:
        own, writer._file = writer._file, file
        with pytest.raises(ValueError, match="make room and start again"):
            writer.write_grade(grade("e1"))
        writer._file = own


# Several ranks


def write_part(path: Path, *ids: str, provenance: Provenance = OURS) -> Path:
    part = path.with_name(f".{path.name}.rank1")
    with LineWriter(part, provenance=provenance) as writer:
        for id in ids:
            writer.write_grade(grade(id))
        writer.write_error("bad", "why")
    return part


def test_lines_of_other_ranks_are_put_in_the_order_of_the_input(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, "of another input", "c")
    with PredictionWriter(path, provenance=OURS) as writer:
        writer.write_grade(grade("d"))
        writer.write_grade(grade("a"))
        others = read_predictions(write_part(path, "b"))
        writer.settle(["a", "b", "bad", "c", "d"], others)
    assert ids_of(path) == ["a", "b", "bad", "c", "d", "of another input"]
    assert read_predictions(path)[1:3] == others


def test_a_file_in_order_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, "a", "b")
    before = path.stat()
    with PredictionWriter(path, provenance=OURS) as writer:
        writer.settle(["a", "b"])
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("is_in_file", [True, False])
def test_lines_that_a_kill_left_in_a_part_count_once(tmp_path: Path, is_in_file: bool) -> None:
    path = tmp_path / "out.jsonl"
    write(path, "a", *["b"] * is_in_file)
    part = write_part(path, "b", "c", "d")
    whole = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(whole[:-1]) + whole[-1][:9])
    assert PredictionWriter(path, provenance=OURS).done == {"a", "b", "c", "d"}
    assert ids_of(path) == ["a", "b", "c", "d"]
    assert not part.exists()


def test_a_part_of_a_command_that_still_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with PredictionWriter(path, provenance=OURS):
        part = write_part(path, "b")
        with pytest.raises(ValueError, match="another command writes"):
            PredictionWriter(path, provenance=OURS)
        assert part.exists()


def test_a_part_of_a_file_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    part = write_part(path, "b")
    assert not PredictionWriter(path, provenance=OURS).done
    assert not part.exists() and not path.exists()


def test_a_part_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    part = write_part(path, "b", provenance=Provenance(model="nano", adapter="a1", settings="s2"))
    with pytest.raises(ValueError, match=r"rank1, line 1, .*its settings differs"):
        PredictionWriter(path, provenance=OURS)
    assert part.exists()


def test_a_new_file_that_nothing_came_of_goes(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for num_lines in (0, 1):
        with (
            pytest.raises(ValueError, match="no weights"),
            PredictionWriter(path, provenance=OURS) as writer,
        ):
            for _ in range(num_lines):
                writer.write_grade(grade("a"))
            raise ValueError("no weights")
        assert path.exists() == bool(num_lines)


# The file that was asked for


def test_a_workbook_has_its_lines_beside_it() -> None:
    assert journal_path(Path("a/out.XLSX")) == Path("a/out.jsonl")
    assert journal_path(Path("a/out.jsonl")) == Path("a/out.jsonl")
    with pytest.raises(ValueError, match=r"out\.csv must end in"):
        journal_path(Path("out.csv"))


def test_an_output_that_would_go_wrong_is_refused_beforehand(tmp_path: Path) -> None:
    essays = tmp_path / "essays"
    (essays / "sub").mkdir(parents=True)
    (tmp_path / "folder.jsonl").mkdir()
    file = essays / "a.jsonl"
    file.write_text("{}")
    for output, input, reason in (
        (tmp_path / "folder.jsonl", essays, "is a folder"),
        (essays / "out.jsonl", essays, "lies in the input"),
        (essays / "sub" / "out.xlsx", essays, "lies in the input"),
        (file, file, "lies in the input"),
        (essays / "a.xlsx", file, "lies in the input"),
        (tmp_path / "out.csv", essays, "must end in"),
        (file / "out.jsonl", tmp_path / "none", "cannot be written"),
    ):
        with pytest.raises(ValueError, match=reason):
            require_output(output, input=input)
    assert file.read_text() == "{}"


def test_a_good_output_leaves_no_trace(tmp_path: Path) -> None:
    kept = tmp_path / "out.jsonl"
    kept.write_text("as it was")
    require_output(tmp_path / "out.xlsx", input=tmp_path / "essays")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert kept.read_text() == "as it was"
    require_output(tmp_path / "new" / "out.jsonl", input=tmp_path / "essays")
    assert list((tmp_path / "new").iterdir()) == []
