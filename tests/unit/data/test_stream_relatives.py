"""Real formats prepared: the samples that a seed chooses, who is related, and odd names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.corpus.instructions import (
    AlpacaColumns,
    AlpacaData,
    InstructionData,
    RegistryData,
    ShareGptColumns,
    ShareGptData,
    ShareGptTags,
)
from aes.data import shards
from aes.data.processor import Processor
from aes.data.stream import Streamed, prepare_stream
from aes.page import PageRenderer, PageSpec

Record = dict[str, Any]


@pytest.fixture
def read_values(read_conf: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def read(option: str, **changes: Any) -> dict[str, Any]:
        values = {**read_conf(f"data/{option}", split_seed=1), **changes}
        parts = {"columns": AlpacaColumns if option == "alpaca" else ShareGptColumns}
        for key, part in {**parts, "tags": ShareGptTags}.items():
            if key in values:
                plain = {k: v for k, v in values[key].items() if k != "_target_"}
                values[key] = part(**plain)
        return values

    return read


@pytest.fixture
def chosen(read_values: Any, tmp_path: Path) -> Callable[..., RegistryData]:
    """So many of 20 records, by the seed of the split; all of them without a number."""
    records = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
    (tmp_path / "mine.json").write_text(json.dumps(records))

    def make(num: int | None, *, seed: int) -> RegistryData:
        entry = {"file_name": "mine.json", "num_samples": num}
        info = tmp_path / "dataset_info.json"
        if not info.is_file():
            info.write_text(json.dumps({"mine": entry}))
        return RegistryData(**read_values("registry", info=info, name="mine", split_seed=seed))

    return make


@pytest.fixture
def alpaca(read_values: Any, tmp_path: Path) -> Callable[..., AlpacaData]:
    def make(records: list[Record], **changes: Any) -> AlpacaData:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records))
        return AlpacaData(**read_values("alpaca", path=path, **changes))

    return make


@pytest.fixture
def chats(read_values: Any, tmp_path: Path) -> Callable[..., ShareGptData]:
    """Conversations, each as what user and assistant say in turn."""

    def make(*conversations: tuple[str, ...]) -> ShareGptData:
        path = tmp_path / "chats.json"
        records = [
            [{"from": ("human", "gpt")[k % 2], "value": said} for k, said in enumerate(turns)]
            for turns in conversations
        ]
        path.write_text(json.dumps([{"conversations": turns} for turns in records]))
        return ShareGptData(**read_values("sharegpt", path=path))

    return make


@pytest.fixture
def prepare(
    make_processor: Callable[..., Processor], nano_page: PageSpec, tmp_path: Path
) -> Callable[[InstructionData], Streamed]:
    processor, renderer = make_processor({}), PageRenderer(nano_page)

    def run(data: InstructionData) -> Streamed:
        cache = tmp_path / "cache"
        return prepare_stream(
            data, processor=processor, renderer=renderer, cache=cache, label="preparing"
        )

    return run


def _chosen_ids(data: InstructionData, cache: Path) -> list[str]:
    return [sample.id for sample in data.samples(cache=cache)]


def _groups(streamed: Streamed) -> list[list[str]]:
    """Ids of those that stand on one side, where there are several."""
    found = streamed.census.groups(streamed.kept)
    return [[streamed.census.ids[place] for place in group] for group in found if len(group) > 1]


def test_a_seed_that_chooses_samples_gets_its_own(
    chosen: Any, prepare: Any, tmp_path: Path
) -> None:
    first, second = (chosen(6, seed=seed) for seed in (1, 2))
    assert _chosen_ids(first, tmp_path) != _chosen_ids(second, tmp_path)
    for data in (first, second, first):
        assert prepare(data).whole().column("id") == _chosen_ids(data, tmp_path)


def test_a_seed_that_only_splits_reads_nothing_anew(
    chosen: Any, prepare: Any, tmp_path: Path
) -> None:
    for seed in (1, 2):
        assert len(prepare(chosen(None, seed=seed)).kept) == 20
    assert len(list((tmp_path / "cache" / "samples").iterdir())) == 1


def test_an_interrupted_choice_is_not_mixed_with_another(
    chosen: Any, prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aes.data.stream.SAMPLES_PER_SHARD", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    write = shards.Shard.write

    def dying(self: shards.Shard, *args: Any, **kwargs: Any) -> None:
        if self.rows_file.stem == "000002":
            raise KeyboardInterrupt
        write(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards.Shard, "write", dying)
        prepare(chosen(6, seed=1))
    other = chosen(6, seed=2)
    assert prepare(other).whole().column("id") == _chosen_ids(other, tmp_path)


def test_a_chat_stands_with_the_whole_sample_that_it_begins_with(chats: Any, prepare: Any) -> None:
    streamed = prepare(
        chats(
            ("What is 2 + 2?", "4"),
            ("what is 2+2?", "Four.", "And 3 + 3?", "6"),
            ("What is 2 + 2?", "4", "And 3 + 3?", "6", "Thanks", "Welcome"),
            ("And 3 + 3?", "6"),
        )
    )
    assert _groups(streamed) == [["1", "2", "3"]]


def test_chats_that_begin_with_one_greeting_are_no_relatives(chats: Any, prepare: Any) -> None:
    streamed = prepare(chats(*(("你好", "你好！", f"question {i}", "a") for i in range(5))))
    assert _groups(streamed) == []


def test_a_sample_that_was_left_out_relates_nothing(chats: Any, prepare: Any) -> None:
    long = [("你好", "long " * 3000), *(("你好", "你好！", f"q{i}", "a") for i in range(3))]
    streamed = prepare(chats(*long))
    assert [len(group) for group in streamed.census.groups(streamed.kept)] == [4]
    assert [len(group) for group in streamed.census.groups(streamed.kept[1:])] == [1, 1, 1]


def test_one_question_under_two_system_prompts_stands_on_one_side(
    alpaca: Any, prepare: Any
) -> None:
    records = [
        {"instruction": "2 + 2?", "output": "4", "system": "In digits."},
        {"instruction": "2 + 2?", "output": "four", "system": "In words."},
        {"instruction": "3 + 3?", "output": "6"},
    ]
    streamed = prepare(alpaca(records))
    assert _groups(streamed) == [["1", "2"]]
    assert streamed.reading.problems == ()


def test_case_and_indentation_make_other_samples_and_white_space_at_the_ends_none(
    alpaca: Any, prepare: Any
) -> None:
    records = [
        {"instruction": "Indent: if x:\ny", "output": "if x:\n    y"},
        {"instruction": "Indent: if x:\ny", "output": "if x:\n        y"},
        {"instruction": "Indent: if X:\ny", "output": "if x:\n    y"},
        {"instruction": " Indent: if x:\ny\n", "output": "if x:\n    y\n"},
    ]
    streamed = prepare(alpaca(records))
    assert [(p.code, p.id) for p in streamed.reading.problems] == [
        ("duplicate", "4"),
        ("several_answers", "1"),
    ]
    assert _groups(streamed) == [["1", "2", "3"]]


def test_labels_of_questions_that_differ_in_case_do_not_conflict(alpaca: Any, prepare: Any) -> None:
    records = [
        {"instruction": "Is it a name? May", "output": "yes"},
        {"instruction": "Is it a name? may", "output": "no"},
    ]
    streamed = prepare(alpaca(records, labels=("yes", "no")))
    assert streamed.reading.problems == ()
    assert _groups(streamed) == [["1", "2"]]


def test_half_a_character_in_a_name_costs_its_own_sample(alpaca: Any, prepare: Any) -> None:
    records = [
        {"instruction": "q0", "output": "a", "odd\ud800": "x"},
        {"instruction": "<image>", "output": "a", "images": ["\ud800.png"]},
        {"instruction": "<image>", "output": "a", "images": ["../\udc80.png"]},
        {"instruction": "q1", "output": "a"},
    ]
    data = alpaca(records)
    for _ in range(2):  # read, and from the cache
        streamed = prepare(data)
        assert streamed.whole().column("id") == ["1", "4"]
        found = {problem.id: problem for problem in streamed.reading.problems}
        assert {id_: problem.code for id_, problem in found.items()} == {
            "1": "unused_setting",
            "2": "missing_image",
            "3": "image_outside_root",
        }
        assert "odd\\ud800" in found["1"].message
        assert "names \\ud800.png, which is not in" in found["2"].message
