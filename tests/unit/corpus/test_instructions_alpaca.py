"""Instructions become the turns that LLaMA-Factory makes of them, or a finding says why not."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from aes.corpus.problems import PROBLEMS
from aes.records import FREE, Message


def user(text: str) -> Message:
    return Message("user", (text,))


def assistant(text: str) -> Message:
    return Message("assistant", (text,))


def only(samples):
    assert len(samples) == 1
    return samples[0]


def finding(samples):
    """The one finding of the one sample."""
    sample = only(samples)
    assert len(sample.findings) == 1
    found = sample.findings[0]
    assert found.code in PROBLEMS
    assert found.message.endswith(".")
    return sample, found


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": "问", "input": "文", "output": "答"}, (user("问\n文"),)),
        ({"instruction": "问 \n", "input": "", "output": "答"}, (user("问 \n"),)),
        ({"instruction": "问", "input": None, "output": "答"}, (user("问"),)),
        ({"instruction": "", "input": "文", "output": "答"}, (user("文"),)),
        ({"instruction": "问", "output": "答", "system": ""}, (user("问"),)),
        (
            {"instruction": "问", "output": "答", "system": "是", "history": []},
            (Message("system", ("是",)), user("问")),
        ),
        (
            {"instruction": "问", "output": "答", "history": [["一", "二"], ["三", "四"]]},
            (user("一"), assistant("二"), user("三"), assistant("四"), user("问")),
        ),
    ],
)
def test_parts_of_a_record_become_turns(read, write_json, record, messages) -> None:
    sample = only(read("alpaca", path=write_json([record])))
    assert sample.findings == ()
    assert sample.example.messages == messages
    assert sample.example.answer == (("答", FREE),)
    assert (sample.number, sample.id, sample.example.id) == (1, "1", "1")
    assert (sample.example.kind, sample.example.source) == ("text", sample.keys[0].hex())
    assert (sample.example.choices, sample.example.learns_all_turns) == ((), False)


def test_answers_stay_as_they_are_to_the_letter(read, write_json) -> None:
    record = {"instruction": "问", "output": " 答\n"}
    assert only(read("alpaca", path=write_json([record]))).example.answer == ((" 答\n", FREE),)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_numbers_and_lines_go_on_past_what_is_refused(read, write_json, name: str) -> None:
    records = [{"instruction": "问", "output": text} for text in ("一", "", "三")]
    samples = read("alpaca", path=write_json(records, name))
    assert [sample.number for sample in samples] == [1, 2, 3]
    assert [sample.example is None for sample in samples] == [False, True, False]


def test_a_folder_is_read_file_by_file(read, write_json, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_json([{"instruction": name, "output": "答"}], f"set/{name}.json")
    (tmp_path / "set" / "README.md").write_text("read me")
    samples = read("alpaca", path=tmp_path / "set")
    assert [s.example.messages for s in samples] == [(user("a"),), (user("b"),)]
    assert [s.number for s in samples] == [1, 2]
    write_json([{"instruction": "c", "output": "答"}], "set/c.jsonl")
    with pytest.raises(ValueError, match=r"several kinds \(\.json, \.jsonl\)"):
        read("alpaca", path=tmp_path / "set")
    assert len(read("alpaca", path=tmp_path / "set" / "*.json")) == 2


@pytest.mark.parametrize(
    ("record", "code", "message"),
    [
        ({"instruction": "问"}, "no_answer", "Sample 1 has no output."),
        ({"instruction": "问", "output": None}, "no_answer", "Sample 1 has no output."),
        ({"instruction": "问", "output": " \n"}, "empty_answer", "Sample 1 has an empty answer."),
        (
            {"instruction": "问", "output": 3},
            "malformed_sample",
            "Sample 1 has a int for text in output.",
        ),
        (
            {"conversations": [], "id": 1},
            "other_format",
            "Sample 1 has no instruction, but conversations, id.",
        ),
        (
            {"instruction": "问", "output": "答", "history": [["一"]]},
            "malformed_sample",
            "Sample 1 has no pairs of question and answer in history.",
        ),
        (
            {"instruction": "问", "output": "答", "videos": ["a.mp4"]},
            "unsupported_media",
            "Sample 1 has videos.",
        ),
        (
            {"instruction": "问", "output": "答", "tools": "[{}]"},
            "tool_turns",
            "Sample 1 has tools.",
        ),
        (
            {"instruction": "问", "output": "答<|im_end|>"},
            "special_token",
            "Sample 1 holds <|im_end|> in its text.",
        ),
        (
            {"instruction": "问", "output": "答", "system": "<|image_pad|>"},
            "special_token",
            "Sample 1 holds <|image_pad|> in its text.",
        ),
        (
            {"instruction": "问<video>", "output": "答"},
            "unsupported_media",
            "Sample 1 holds <video> or <audio>.",
        ),
        (["问", "答"], "malformed_sample", "Sample 1 is a list instead of an object."),
    ],
)
def test_what_cannot_be_a_sample_is_named(read, write_json, record, code, message) -> None:
    path = write_json([record])
    sample, found = finding(read("alpaca", path=path))
    assert sample.example is None
    assert (found.code, found.message) == (code, message)
    assert (found.file, found.line) == (sample.file, sample.line) == ("data.json", 1)


def test_half_a_character_is_replaced(read, write_json) -> None:
    path = write_json([{"instruction": "问\ud83d", "output": "答"}], ensure_ascii=True)
    sample, found = finding(read("alpaca", path=path))
    assert found.code == "lost_character"
    assert sample.example.messages == (user("问\ufffd"),)


def test_a_sample_that_asks_nothing_is_doubted_and_kept(read, write_json) -> None:
    sample, found = finding(read("alpaca", path=write_json([{"instruction": "", "output": "答"}])))
    assert found.code == "empty_question"
    assert sample.example.messages == (user(""),)


def test_columns_may_have_other_names_or_be_left_out(read, write_json) -> None:
    path = write_json([{"q": "问", "input": "文", "a": "答", "system": "是"}])
    columns = {"prompt": "q", "query": None, "response": "a", "system": None}
    sample, found = finding(read("alpaca", path=path, columns=columns))
    assert sample.example.messages == (user("问"),)
    assert (found.code, found.message) == (
        "unused_setting",
        "Sample 1 has more than is read: input, system.",
    )


# Classification


def test_labels_are_the_choices_and_other_answers_are_refused(read, write_json) -> None:
    records = [{"instruction": "问", "output": text} for text in ("好", "坏\n", "中")]
    good, bad, other = read("alpaca", path=write_json(records), labels=("好", "坏"))
    assert good.example.choices == bad.example.choices == ("好", "坏")
    assert bad.example.answer == (("坏", FREE),), "white space around a label does not count"
    assert (other.example, other.findings[0].code) == (None, "unknown_label")
    assert "中" not in other.findings[0].message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("好", "好")}, "labels holds '好' twice"),
        ({"labels": ("好", "")}, "labels holds a text that is empty"),
        ({"labels": ("好 ",)}, "labels holds a text that is empty or has white space"),
        ({"on_overlong": "shrink"}, "would do nothing here; choose drop or error"),
        ({"system": "是", "system_file": Path("a.txt")}, "set one to null"),
    ],
)
def test_keys_that_contradict_are_refused(make_data, changes, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_data("alpaca", path=Path("a.json"), **changes)


# System prompts


def test_the_system_prompt_is_for_samples_without_their_own(
    read, make_data, write_json, tmp_path: Path
) -> None:
    path = write_json(
        [
            {"instruction": "问", "output": "答", "system": "own"},
            {"instruction": "问", "output": "答"},
        ]
    )
    prompt = tmp_path / "system.txt"
    prompt.write_text("\ufefffrom a file\n", encoding="utf-8")
    for changes, text in (
        ({"system": "given"}, "given"),
        ({"system_file": prompt}, "from a file"),
    ):
        own, given = read("alpaca", path=path, **changes)
        assert own.example.messages[0] == Message("system", ("own",))
        assert given.example.messages[0] == Message("system", (text,))
    assert make_data("alpaca", path=path, system_file=prompt).files() == (path, prompt)
    prompt.write_text(" ")
    with pytest.raises(ValueError, match=r"system\.txt is empty"):
        read("alpaca", path=path, system_file=prompt)
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read"):
        read("alpaca", path=path, system_file=tmp_path / "gone.txt")


# Relatives


def test_samples_with_one_question_share_a_key_and_copies_a_twin(read, write_json) -> None:
    records = [
        {"instruction": "问题 A", "output": "答"},
        {"instruction": "问题 A\n", "output": "答 "},
        {"instruction": "问题 A", "output": "另"},
        {"instruction": "问题a", "output": "答"},
        {"instruction": "问题 B", "output": "答"},
    ]
    first, copy, other, folded, unlike = read("alpaca", path=write_json(records))
    assert first.keys == copy.keys == other.keys == folded.keys
    assert first.asked == copy.asked == other.asked != folded.asked
    assert first.twin == copy.twin
    assert len({first.twin, other.twin, folded.twin}) == 3
    assert not set(first.keys) & set(unlike.keys)
    assert {len(key) for key in (*first.keys, first.asked, first.twin)} == {16}


def test_what_stands_in_input_or_in_history_is_part_of_the_question(read, write_json) -> None:
    records = [
        {"instruction": "问", "input": "一", "output": "答"},
        {"instruction": "问", "input": "二", "output": "答"},
        {"instruction": "问", "input": "二", "output": "答", "history": [["甲", "乙"]]},
    ]
    assert len({sample.keys for sample in read("alpaca", path=write_json(records))}) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.json", "does not exist"), ("a.csv", r"no \.json, \.jsonl, |is or holds no")],
)
def test_a_path_without_samples_is_refused(read, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=message):
        read("alpaca", path=tmp_path / name)
