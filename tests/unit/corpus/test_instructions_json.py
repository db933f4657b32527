"""JSON of any size is read record by record, and what is broken is named by line and column."""

import json
import random
import tracemalloc
from pathlib import Path

import pytest

from aes.corpus.instructions import json_file
from aes.corpus.instructions.json_file import read_json

MIB = 2**20


def values(path: Path) -> list:
    rows = list(read_json(path))
    assert all(row.refusal is None for row in rows)
    return [dict(row.values) for row in rows]


def write(tmp_path: Path, text: str | bytes, name: str = "data.json") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def some_value(rng: random.Random, depth: int = 0):
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice([None, True, False, float("inf"), -float("inf")])
    if kind == 1:
        return rng.randrange(-(10**12), 10**12)
    if kind == 2:
        return rng.random() * 10 ** rng.randrange(-30, 30)
    if kind < 5:
        return "".join(rng.choices('ab "\\\n\t{}[]:,甲🙂é', k=rng.randrange(20)))
    if kind < 7:
        return {some_key(rng): some_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [some_value(rng, depth + 1) for _ in range(rng.randrange(4))]


def some_key(rng: random.Random) -> str:
    return "".join(rng.choices('ab"\\甲🙂', k=3))


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_alike_wherever_the_window_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_file, "_CHUNK_BYTES", chunk)
    rng = random.Random(chunk)
    for ascii_only in (True, False):
        records = [{"v": some_value(rng), "w": some_value(rng)} for _ in range(60)]
        text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
        assert values(write(tmp_path, text)) == records


def test_each_record_knows_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "_CHUNK_BYTES", 5)
    text = '[\n\n {"a": 1},\r\n {"a":\n 2}, {"a": 3}\n, {"a": 4}]\n'
    assert [row.line for row in read_json(write(tmp_path, text))] == [3, 4, 5, 6]


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_content_and_not_the_name_tells_lines_from_an_array(tmp_path: Path, name: str) -> None:
    lines = write(tmp_path, '\ufeff{"a": 1}\n\n{"a": 2}', name)
    assert values(lines) == [{"a": 1}, {"a": 2}]
    assert [row.line for row in read_json(lines)] == [1, 3]
    assert values(write(tmp_path, '\ufeff [{"a": 1}, {"a": 2}]', name)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a" 2}]', "line 2, column 7: not valid JSON .Expecting ':' delimiter"),
        ('[{"a": 1}\n {"a": 2}]', "line 2, column 2: not valid JSON .Expecting ',' delimiter"),
        ('[{"a": 1},\n]', "line 2, column 1: not valid JSON .Expecting value"),
        ('[{"a": 1},\n {"a": "x\n"}]', "line 2, column 10: not valid JSON .Invalid control"),
        ('[{"a": 1},\n {"a": tru}]', "line 2, column 8: not valid JSON .Expecting value"),
        ('[{"a": 1},\n {"a": 2}', "line 2: ends within its array, so it was cut short"),
        ('[{"a": 1},\n {"a": "x', "line 2, column 8: not valid JSON .Unterminated string"),
        ('[{"a": 1}]\n[]', "line 2, column 1: not valid JSON .Extra data"),
        (b'[{"a": 1},\n {"a": "\xff"}]', "line 2: not UTF-8"),
        (b'[{"a": 1},\n {"a": "\xe7\x94', "line 2: not UTF-8"),
        ("[]", "holds an empty array"),
        ("", "is empty"),
        ("a,b\n1,2\n", "line 1, column 1: neither an array"),
        ('[{"a": ' + "1" * 5000 + "}]", "line 1, column 2: not valid JSON .a number too long"),
        ("[" * 200_000, "line 1, column 2: not valid JSON"),
    ],
)
def test_a_broken_array_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, message: str, chunk: int
) -> None:
    monkeypatch.setattr(json_file, "_CHUNK_BYTES", chunk)
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_json(path))
    assert str(path) in str(caught.value)


def test_what_comes_before_the_break_is_read(tmp_path: Path) -> None:
    rows = read_json(write(tmp_path, '[{"a": 1}, {"a": 2}, {"a" 3}]'))
    assert [next(rows).values["a"], next(rows).values["a"]] == [1, 2]


def test_a_break_is_found_without_reading_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_file, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(json_file, "MAX_RECORD_CHARS", 10_000)
    path = write(tmp_path, '[{"a": "' + "甲" * 3 * MIB)  # a quote that never closes
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"line 1, column 8: .*Unterminated string"):
        list(read_json(path))
    assert tracemalloc.get_traced_memory()[1] < MIB
    tracemalloc.stop()


def test_a_broken_line_costs_one_record(tmp_path: Path) -> None:
    text = b'{"a": 1}\n{"a": "\xff"}\n{"a" 2}\n[1]\n{"a": 3}\n'
    rows = list(read_json(write(tmp_path, text, "data.jsonl")))
    assert [row.refusal.code if row.refusal else row.values["a"] for row in rows] == [
        1,
        "broken_json",
        "broken_json",
        "malformed_sample",
        3,
    ]
    assert "line 2, column 8 (not UTF-8)" in str(rows[1].refusal)
    assert "line 3, column 6 (Expecting ':' delimiter)" in str(rows[2].refusal)


def test_an_object_over_several_lines_is_no_file_of_lines(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"data": [{"a": 1}]}, indent=1))
    with pytest.raises(ValueError, match="none of its first 7 lines holds an object"):
        list(read_json(path))


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    record = json.dumps({"instruction": "问题" * 300, "output": "答" * 300}, ensure_ascii=False)
    path, is_array = tmp_path / name, name.endswith(".json")
    with path.open("w", encoding="utf-8") as file:
        file.write("[" if is_array else "")
        file.write((",\n" if is_array else "\n").join([record] * 22_000))
        file.write("]" if is_array else "")
    assert path.stat().st_size > 60e6
    tracemalloc.start()
    assert sum(1 for _ in read_json(path)) == 22_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * MIB
