"""Instruction data as shards and parts: resumed, bounded, without a leak."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA
from aes.corpus.instructions import Finding, InstructionData, Sample
from aes.data import shards, tokenising
from aes.data.prepared import encoded_row
from aes.data.processor import Processor
from aes.data.stream import Streamed, prepare_stream
from aes.page import PageRenderer, PageSpec
from aes.records import FREE, Example, Message


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class Lines(InstructionData):
    """A JSON object a line: question, answer, and perhaps an image's name or a finding's code."""

    path: Path
    num_given: ClassVar[list[int]] = []

    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def samples(self, *, cache: Path) -> Iterator[Sample]:
        for number, line in enumerate(self.path.read_text().splitlines(), start=1):
            Lines.num_given.append(number)
            record = json.loads(line)
            image = [self.path.parent / record["image"]] if "image" in record else []
            id_, finding = f"s{number}", record.get("finding")
            where = {"file": self.path.name, "line": number}
            found = (Finding(code=finding, message="wrong", **where),) if finding else ()
            names = [path.name for path in image]
            example = Example(
                id=id_,
                messages=(Message("user", (*image, record["question"])),),
                answer=((record["answer"], FREE),),
                kind="text",
                choices=self.labels,
                source=id_,
            )
            yield Sample(
                number=number,
                id=id_,
                example=None if finding == "malformed_row" else example,
                findings=found,
                **where,
                keys=(_digest(record["question"], *names), *map(_digest, names)),
                asked=_digest(record["question"], *names),
                twin=_digest(record["question"], *names, record["answer"]),
            )


Record = dict[str, Any]


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Lines]:
    def make(records: list[Record], **changes: Any) -> Lines:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        plain: dict[str, Any] = {
            "path": path,
            "root": None,
            "train_on": "last",
            "system": None,
            "system_file": None,
            "labels": (),
            "on_problem": "drop",
            "on_overlong": "drop",
            "max_tokens": 2048,
            "max_samples": 100000,
            "val_fraction": 0.2,
            "test_fraction": 0.1,
            "split_seed": 1,
        }
        return Lines(**plain | changes)

    return make


@pytest.fixture(scope="module")
def free_processor(make_processor: Callable[..., Processor]) -> Processor:
    return make_processor({})


@pytest.fixture
def prepare(
    free_processor: Processor, nano_page: PageSpec, tmp_path: Path
) -> Callable[..., Streamed]:
    processor, renderer = free_processor, PageRenderer(nano_page)

    def run(data: InstructionData) -> Streamed:
        cache = tmp_path / "cache"
        return prepare_stream(
            data, processor=processor, renderer=renderer, cache=cache, label="preparing"
        )

    return run


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aes.data.stream.SAMPLES_PER_SHARD", 10)
    Lines.num_given.clear()


def _plain(num: int) -> list[Record]:
    return [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(num)]


def _ids(streamed: Streamed, **split: Any) -> dict[str, list[str]]:
    parts = streamed.split(seed=1, **split)
    return {name: getattr(parts, name).column("id") for name in ("train", "val", "test")}


@pytest.mark.usefixtures("small_shards")
def test_every_sample_stands_in_one_part(make_data: Any, prepare: Any, processor: Any) -> None:
    streamed = prepare(make_data(_plain(60)))
    parts = _ids(streamed)
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 42, "val": 12, "test": 6}
    assert sorted(chain(*parts.values())) == sorted(f"s{i}" for i in range(1, 61))
    assert streamed.reading.counts == {"read": 60, "kept": 60, "dropped": 0}
    train = streamed.split(seed=1).train
    for row, example in zip(train.rows, train.examples(), strict=True):
        assert example.id == row["id"]
        encoded = encoded_row(row)
        assert encoded == processor.encode(example, [])
    assert parts == _ids(streamed)
    assert parts != _ids(prepare(make_data(_plain(60), split_seed=2)))


@pytest.mark.usefixtures("small_shards")
def test_a_preparation_goes_on_with_the_shards_that_are_there(
    make_data: Any, prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, written = make_data(_plain(55)), []
    write = shards.Shard.write

    def dying(self: shards.Shard, *args: Any, **kwargs: Any) -> None:
        if self.rows_file.stem == "000003":
            raise KeyboardInterrupt
        written.append(self.rows_file.stem)
        write(self, *args, **kwargs)

    monkeypatch.setattr(tokenising.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(shards.Shard, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(data)
    assert written == ["000000", "000001", "000002"]

    def counting(self: shards.Shard, *args: Any, **kwargs: Any) -> None:
        written.append(self.rows_file.stem)
        write(self, *args, **kwargs)

    monkeypatch.setattr(shards.Shard, "write", counting)
    written.clear()
    whole = prepare(data)
    assert written == ["000003", "000004", "000005"]
    assert whole.reading.counts["read"] == 55
    written.clear()
    Lines.num_given.clear()
    again = prepare(data)
    assert written == []
    assert Lines.num_given == []  # not even read
    assert again.whole().column("digest") == whole.whole().column("digest")


@pytest.mark.usefixtures("small_shards")
def test_processes_give_what_one_gives(
    make_data: Any, prepare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = make_data(_plain(47))
    monkeypatch.setattr(tokenising.os, "sched_getaffinity", lambda _: {0, 1})
    several = prepare(data).whole()
    (tmp_path / "cache").rename(tmp_path / "other")
    monkeypatch.setattr(tokenising.os, "sched_getaffinity", lambda _: {0})
    alone = prepare(data).whole()
    assert several.column("digest") == alone.column("digest")
    assert several.column("input_ids") == alone.column("input_ids")


@pytest.mark.usefixtures("small_shards")
def test_a_broken_shard_and_changed_data_are_made_again(
    make_data: Any, prepare: Any, tmp_path: Path
) -> None:
    data = make_data(_plain(25))
    before = prepare(data).whole().column("input_ids")
    (file,) = tmp_path.glob("cache/samples/*/000001.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert prepare(data).whole().column("input_ids") == before
    changed = _plain(25)
    changed[12]["answer"] = "another"
    assert prepare(make_data(changed)).whole().column("input_ids") != before


def test_copies_are_left_out_once(make_data: Any, prepare: Any) -> None:
    records = [*_plain(10), {"question": "question 3", "answer": "answer 3"}]
    streamed = prepare(make_data(records))
    (problem,) = streamed.reading.problems
    assert (problem.code, problem.id, problem.action) == ("duplicate", "s11", "dropped")
    assert (problem.file, problem.line) == ("data.jsonl", 11)
    assert problem.message == "Sample 11 repeats sample 4."
    assert streamed.reading.counts["kept"] == 10
    kept = prepare(make_data(records, on_problem="keep"))
    assert kept.reading.counts["kept"] == 11
    assert prepare(make_data(records, on_problem="error")).reading.stops_run


def test_unlike_answers_stay_on_one_side(make_data: Any, prepare: Any) -> None:
    records = [*_plain(20), *({"question": "question 7", "answer": f"no {i}"} for i in range(5))]
    streamed = prepare(make_data(records))
    (problem,) = streamed.reading.problems
    assert (problem.code, problem.action) == ("several_answers", "kept")
    assert problem.message == (
        "Samples 8, 21, 22, 23, 24 and 1 more ask the same and are answered differently."
    )
    sides = [
        name
        for name, ids in _ids(streamed).items()
        if not {"s8", "s21", "s22", "s23", "s24", "s25"}.isdisjoint(ids)
    ]
    assert len(sides) == 1


def test_unlike_labels_are_all_left_out(make_data: Any, prepare: Any) -> None:
    records = [{"question": f"q{i}", "answer": "yes" if i % 2 else "no"} for i in range(10)]
    records.append({"question": "q0", "answer": "yes"})
    streamed = prepare(make_data(records, labels=("yes", "no")))
    found = {(problem.code, problem.id) for problem in streamed.reading.problems}
    assert found == {("conflicting_labels", "s1"), ("conflicting_labels", "s11")}
    assert streamed.reading.counts["kept"] == 9


def test_labels_have_their_share_of_every_part(make_data: Any, prepare: Any) -> None:
    records = [{"question": f"q{i}", "answer": "rare" if i < 10 else "common"} for i in range(100)]
    parts = prepare(make_data(records, labels=("common", "rare"))).split(seed=1)
    counts = {name: Counter(getattr(parts, name).column("label")) for name in ("val", "test")}
    assert counts["val"] == {0: 18, 1: 2}
    assert counts["test"] == {0: 9, 1: 1}


def test_no_image_stands_on_two_sides(make_data: Any, prepare: Any, tmp_path: Path) -> None:
    for number in range(6):
        shade = Image.new("RGB", (64 + 32 * number, 64), (200, 10 * number, 0))
        shade.save(tmp_path / f"{number}.png")
    records = [{"question": f"q{i}", "answer": "a", "image": f"{i % 6}.png"} for i in range(36)]
    streamed = prepare(make_data(records, val_fraction=0.3, test_fraction=0.2))
    sides: dict[str, set[str]] = {}
    parts = streamed.split(seed=1)
    for name in ("train", "val", "test"):
        for example in getattr(parts, name).examples():
            sides.setdefault(str(example.pages[0]), set()).add(name)
    assert len(sides) == 6
    assert all(len(side) == 1 for side in sides.values())
    assert {name for side in sides.values() for name in side} == {"train", "val", "test"}


def test_a_broken_image_is_a_problem_of_its_sample(
    make_data: Any, prepare: Any, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    records = [
        {"question": "q0", "answer": "a", "image": "good.png"},
        {"question": "q1", "answer": "a", "image": "bad.png"},
        {"question": "q2", "answer": "a", "image": "none.png"},
    ]
    data = make_data(records, val_fraction=0.0, test_fraction=0.0)
    streamed = prepare(data)
    found = [(problem.code, problem.id) for problem in streamed.reading.problems]
    assert found == [("unreadable_page", "s2"), ("unreadable_page", "s3")]
    assert streamed.reading.counts == {"read": 3, "kept": 1, "dropped": 2, "unreadable_page": 2}
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "bad.png")  # the data file stays as it is
    assert prepare(data).reading.counts["kept"] == 2


def test_what_cannot_be_read_is_counted(make_data: Any, prepare: Any) -> None:
    records = [*_plain(5), {"question": "x", "answer": "y", "finding": "malformed_row"}]
    streamed = prepare(make_data(records))
    (problem,) = streamed.reading.problems
    assert (problem.file, problem.line, problem.action) == ("data.jsonl", 6, "dropped")
    assert streamed.reading.counts["read"] == 6


def test_long_samples_are_dropped_or_told(make_data: Any, prepare: Any) -> None:
    records = [*_plain(9), {"question": "long", "answer": "many words " * 100}]
    data = make_data(records, max_tokens=100, val_fraction=0.0, test_fraction=0.0)
    train = prepare(data).split(seed=1).train
    assert train.dropped == ("s10",)
    assert train.overlong["s10"] > 100
    assert len(train.rows) == 9
    kept = prepare(replace(data, on_overlong="error")).split(seed=1).train
    assert (kept.dropped, len(kept.rows)) == ((), 10)
    assert "s10" in kept.overlong


def test_more_samples_than_asked_for_are_counted(make_data: Any, prepare: Any) -> None:
    parts = prepare(make_data(_plain(40), max_samples=10)).split(seed=3)
    assert (len(parts.train.rows), parts.num_left_out) == (10, 18)
    assert len(parts.val.rows) == 8


def test_too_few_samples_cannot_be_split(make_data: Any, prepare: Any) -> None:
    with pytest.raises(ValueError, match="2 groups of samples"):
        prepare(make_data(_plain(2))).split(seed=1)
    records = [{"question": "q", "answer": "a", "finding": "malformed_row"}]
    with pytest.raises(ValueError, match="none of 1 samples is left"):
        prepare(make_data(records)).split(seed=1)


def test_examples_are_read_when_they_are_taken(make_data: Any, prepare: Any) -> None:
    examples = prepare(make_data(_plain(12))).whole().examples()
    assert len(examples) == 12
    assert [example.id for example in examples[2::5]] == ["s3", "s8"]
    assert examples[-1].id == "s12"
    assert [example.id for example in examples] == [f"s{i}" for i in range(1, 13)]
