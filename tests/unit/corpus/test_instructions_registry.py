"""Registries are read as people have them, and what they say that is not used is told."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from aes.corpus.problems import PROBLEMS, Ledger
from aes.records import Message

ALPACA = [{"instruction": "问", "input": "文", "output": "答", "system": "是", "history": []}]
CHAT = [{"from": "human", "value": "一"}, {"from": "gpt", "value": "二"}]


@pytest.fixture
def read_entry(read, write_json, tmp_path: Path):
    """Samples of the entry ``mine`` of a registry; the data lies beside it."""

    def read_one(entry, records=None, **changes):
        if records is not None:
            write_json(records, "mine.json")
        info = write_json({"mine": entry, "other": {"file_name": "other.json"}}, "info.json")
        return read("registry", **({"info": info, "name": "mine"} | changes))

    return read_one


def notes(samples) -> list[str]:
    found = [f for sample in samples for f in sample.findings]
    assert all(PROBLEMS[f.code][0] == "noted" for f in found)
    return [f.message for f in found]


def test_an_entry_with_a_file_alone_is_alpaca_in_its_usual_columns(read_entry) -> None:
    samples = read_entry({"file_name": "mine.json"}, ALPACA)
    assert samples[0].example.messages == (Message("user", ("问\n文",)),)
    assert notes(samples) == ["Sample 1 has more than is read: system."]


def test_columns_that_are_not_named_do_not_exist(read_entry) -> None:
    columns = {"prompt": "instruction", "response": "output", "system": "system"}
    samples = read_entry({"file_name": "mine.json", "columns": columns}, ALPACA)
    assert samples[0].example.messages == (Message("system", ("是",)), Message("user", ("问",)))
    assert notes(samples) == ["Sample 1 has more than is read: input."]


def test_a_platform_s_keys_are_told_and_do_no_harm(read_entry) -> None:
    entry = {
        "file_name": "mine.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "prompt": "x", "label": "y"},
        "tags": {"role_tag": "from", "content_tag": "value", "speaker": "z"},
        "customized_status": "done",
        "total_tokens": 12,
        "num_samples": "1",
        "split": "train",
    }
    samples = read_entry(entry, [{"conversations": CHAT}])
    assert samples[0].example is not None
    assert notes(samples) == [
        "In mine, columns has keys that are not used: prompt, label.",
        "In mine, tags has keys that are not used: speaker.",
        "In mine, the entry has keys that are not used: customized_status, total_tokens.",
    ]
    assert {found.file for found in samples[0].findings} == {"info.json"}


@pytest.mark.parametrize("policy", ["error", "drop", "keep"])
def test_a_note_stops_no_run_and_drops_no_sample(read_entry, policy: str) -> None:
    (sample,) = read_entry({"file_name": "mine.json", "customized_status": 1}, ALPACA)
    ledger = Ledger(policy)
    for found in sample.findings:
        ledger.report(found.code, id=sample.id, file=found.file, message=found.message)
    assert [problem.action for problem in ledger.problems] == ["kept", "kept"]
    assert ledger.keeps(sample.id)
    assert not ledger.close_counted(num_read=1, num_kept=1).stops_run


@pytest.mark.parametrize("formatting", ["sharegpt", "openai"])
def test_tags_give_turns_their_names(read_entry, formatting: str) -> None:
    entry = {
        "file_name": "mine.json",
        "formatting": formatting,
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    said = [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]
    samples = read_entry(entry, [{"messages": said}])
    assert samples[0].example.messages == (Message("user", ("一",)),)
    assert notes(samples) == []


def test_images_lie_beside_the_registry(read_entry, encode_image, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image())
    records = [{"conversations": [{"from": "human", "value": "<image>"}, CHAT[1]], "pics": "a.png"}]
    (tmp_path / "sub").mkdir()
    entry = {"file_name": "sub/m.json", "formatting": "sharegpt", "columns": {"images": "pics"}}
    (tmp_path / "sub" / "m.json").write_text(json.dumps(records))
    (sample,) = read_entry(entry)
    assert sample.example.pages == (tmp_path / "a.png",)


def test_a_folder_helps_to_find_the_file(read_entry, write_json) -> None:
    write_json(ALPACA, "parts/there.json")
    assert len(read_entry({"file_name": "there.json", "folder": "parts"})) == 1
    assert len(read_entry({"file_name": "parts"})) == 1


def test_the_folder_of_the_registry_does_for_its_name(read, write_json, tmp_path: Path) -> None:
    write_json(ALPACA, "mine.json")
    write_json({"mine": {"file_name": "mine.json"}}, "dataset_info.json")
    assert len(read("registry", info=tmp_path, name="mine")) == 1


@pytest.mark.parametrize("file_name", ["../x.json", "{outside}", "link.json"])
def test_a_registry_names_no_file_elsewhere(
    read, make_data, write_json, tmp_path: Path, file_name: str
) -> None:
    outside = write_json(ALPACA, "x.json")
    entry = {"file_name": file_name.format(outside=outside)}
    info = write_json({"mine": entry}, "set/dataset_info.json")
    (info.parent / "link.json").symlink_to(outside)
    with pytest.raises(ValueError, match=r"json, which is outside .*set: put it into the folder"):
        read("registry", info=info, name="mine", root=tmp_path)


def test_a_linked_folder_of_a_registry_is_followed(read, write_json, tmp_path: Path) -> None:
    write_json(ALPACA, "real/mine.json")
    write_json({"mine": {"file_name": "mine.json"}}, "real/dataset_info.json")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert len(read("registry", info=tmp_path / "linked", name="mine")) == 1


def test_changes_of_registry_and_files_are_changes_of_the_data(
    make_data, write_json, tmp_path: Path
) -> None:
    path = write_json(ALPACA, "mine.json")
    info = write_json({"mine": {"file_name": "mine.json"}}, "info.json")
    assert make_data("registry", info=info, name="mine").files() == (info, path)


@pytest.mark.parametrize("wanted", [3, "3"])
def test_as_many_samples_are_chosen_as_asked_for(read_entry, wanted) -> None:
    records = [{"instruction": str(i), "output": "答"} for i in range(10)]
    entry = {"file_name": "mine.json", "num_samples": wanted}
    samples = read_entry(entry, records)
    assert len(samples) == 3
    assert [s.example.messages[0].parts for s in samples] == [
        (str(s.number - 1),) for s in samples
    ], "numbers are those of the file"
    assert notes(samples) == [
        "num_samples asks for 3 samples and there are 10: 3 are chosen at random."
    ]
    again, other = read_entry(entry), read_entry(entry, split_seed=2)
    assert [s.number for s in again] == [s.number for s in samples]
    assert [s.number for s in other] != [s.number for s in samples]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (10, []),
        (None, []),
        ("12", ["num_samples asks for 12 samples and there are 10: all are read once."]),
        ("many", ["In mine, num_samples is no number above 0 and not used."]),
        (-1, ["In mine, num_samples is no number above 0 and not used."]),
    ],
)
def test_a_number_that_asks_for_no_fewer_is_told_where_it_differs(read_entry, wanted, told) -> None:
    records = [{"instruction": str(i), "output": "答"} for i in range(10)]
    samples = read_entry({"file_name": "mine.json", "num_samples": wanted}, records)
    assert len(samples) == 10
    assert notes(samples) == told


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"hf_hub_url": "a/b"}, r"mine lies elsewhere \(hf_hub_url\): nothing is fetched"),
        ({"ms_hub_url": "a/b", "file_name": "mine.json"}, r"mine lies elsewhere \(ms_hub_url\)"),
        ({"script_url": "a.py"}, r"mine lies elsewhere \(script_url\)"),
        ({"file_name": "mine.json", "ranking": True}, r"holds preferences \(ranking\)"),
        (
            {"file_name": "mine.json", "columns": {"chosen": "a", "rejected": "b"}},
            r"holds preferences \(chosen, rejected\)",
        ),
        (
            {"file_name": "mine.json", "columns": {"kto_tag": "a"}},
            r"holds preferences \(kto_tag\)",
        ),
        ({"file_name": "gone.json"}, "names gone.json, which is not there"),
        ({}, "mine has no file_name"),
        ({"file_name": "mine.json", "formatting": "chatml"}, "has the formatting 'chatml'"),
        ({"file_name": "mine.json", "split": "train[:10]"}, "names a part by split"),
        ({"file_name": "mine.json", "columns": ["a"]}, "has columns that are not names"),
        ({"file_name": "mine.json", "columns": {"prompt": 3}}, "has columns that are not names"),
        (
            {"file_name": "mine.json", "columns": {"prompt": "a"}},
            "names no column for the response",
        ),
        ("mine.json", "nothing that can be read"),
    ],
)
def test_what_is_not_read_is_refused_in_a_sentence(read_entry, entry, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_entry(entry, ALPACA)
    assert "info.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("mime", "did you mean mine?"), ("xyz", "it names mine, other")],
)
def test_an_unknown_name_gets_the_nearest_one(read_entry, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"data.name {name} is not in .*info.json: {message}"):
        read_entry({"file_name": "mine.json"}, ALPACA, name=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mine": {\n "file_name" 1}}', "line 2, column 14: not valid JSON"),
        ("[]", "holds no JSON object"),
        (b"{\xff", "byte 2: not UTF-8"),
    ],
)
def test_a_broken_registry_is_refused_with_its_place(
    read, tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = tmp_path / "info.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=rf"info\.json.*{message}"):
        read("registry", info=path, name="mine")
    with pytest.raises(ValueError, match=r"gone\.json cannot be read \(No such file"):
        read("registry", info=tmp_path / "gone.json", name="mine")


def test_a_table_must_have_every_column_that_is_named(read_entry, tmp_path: Path) -> None:
    Dataset.from_list(ALPACA).to_parquet(str(tmp_path / "mine.parquet"))
    columns = {"prompt": "instruction", "response": "output", "images": "pics"}
    with pytest.raises(ValueError, match="has no column pics, but instruction, input, output"):
        read_entry({"file_name": "mine.parquet", "columns": columns})
    assert len(read_entry({"file_name": "mine.parquet"})) == 1
