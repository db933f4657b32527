"""Records without answers, in the format of the data that a run learned from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.corpus.instructions.columns import AlpacaColumns, ShareGptColumns, ShareGptTags
from aes.corpus.instructions.file_data import AlpacaData, ShareGptData, SourcedData
from aes.corpus.instructions.registry import RegistryData


@pytest.fixture
def make_data(read_conf: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Any]:
    """Data of a format whose own file is not there any more."""

    def make(format: str, **changes: Any) -> SourcedData:
        inner = {"columns": AlpacaColumns, "tags": ShareGptTags}
        if format == "sharegpt":
            inner["columns"] = ShareGptColumns
        values = read_conf(f"data/{format}", split_seed=1) | changes
        if "path" in values:
            values["path"] = tmp_path / "gone.json"
        for key in inner.keys() & values.keys():
            given = {k: v for k, v in values[key].items() if k != "_target_"}
            values[key] = inner[key](**given)
        classes = {"alpaca": AlpacaData, "sharegpt": ShareGptData, "registry": RegistryData}
        return classes[format](**values)

    return make


def _questions(data: SourcedData, tmp_path: Path, rows: list[Any]) -> list[Any]:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(data.questions(path, cache=tmp_path / "cache"))


def test_answers_are_neither_needed_nor_kept(make_data: Callable[..., Any], tmp_path: Path) -> None:
    data = make_data("alpaca", labels=("a", "b"), system="想一想。")
    rows = [{"instruction": "问"}, {"instruction": "问二", "output": "c"}, {"output": "a"}, [1]]
    one, two, three, four = _questions(data, tmp_path, rows)
    assert not one.findings and not two.findings
    assert one.example.answer == two.example.answer == ()
    assert one.example.choices == ("a", "b")
    assert [message.parts for message in one.example.messages] == [("想一想。",), ("问",)]
    assert [finding.code for finding in three.findings] == ["other_format"]
    assert four.example is None


def test_a_conversation_may_end_with_a_question(
    make_data: Callable[..., Any], tmp_path: Path
) -> None:
    data = make_data("sharegpt")
    tags, column = data.tags, data.columns.messages

    def turn(tag: str, text: str) -> dict[str, str]:
        return {tags.role_tag: tag, tags.content_tag: text}

    asked = [turn(tags.user_tag, "一"), turn(tags.assistant_tag, "二"), turn(tags.user_tag, "三")]
    answered = [*asked, turn(tags.assistant_tag, "四")]
    found = _questions(data, tmp_path, [{column: asked}, {column: answered}, {column: "无"}])
    assert found[0].example.messages == found[1].example.messages
    assert [message.role for message in found[0].example.messages] == ["user", "assistant", "user"]
    assert found[0].example.answer == ()
    assert found[2].example is None


def test_a_registry_says_how_another_file_is_read(
    make_data: Callable[..., Any], tmp_path: Path
) -> None:
    entry = {"file_name": "x.json", "columns": {"prompt": "q", "response": "a"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"own": entry}), encoding="utf-8")
    data = make_data("registry", info=tmp_path / "dataset_info.json", name="own")
    (one,) = _questions(data, tmp_path, [{"q": "问"}])
    assert one.example is not None and one.example.answer == ()
