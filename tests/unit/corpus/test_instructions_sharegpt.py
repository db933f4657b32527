"""Conversations keep their turns; roles out of turn and calls of tools are refused by number."""

import pytest

from aes.records import FREE, Message

OPENAI = {"role": "role", "content": "content"}


def turns(*said: str, who=("human", "gpt"), keys=("from", "value")) -> list[dict]:
    return [{keys[0]: who[k % 2], keys[1]: text} for k, text in enumerate(said)]


def read_one(read, write_json, record, option="sharegpt", **changes):
    samples = read(option, path=write_json([record]), **changes)
    assert len(samples) == 1
    return samples[0]


def test_turns_stay_as_they_are(read, write_json) -> None:
    record = {"conversations": turns(" 一\n", "二", "三", "四 ")}
    sample = read_one(read, write_json, record)
    assert sample.findings == ()
    assert sample.example.messages == (
        Message("user", (" 一\n",)),
        Message("assistant", ("二",)),
        Message("user", ("三",)),
    )
    assert sample.example.answer == (("四 ", FREE),)
    assert not sample.example.learns_all_turns
    everything = read_one(read, write_json, record, train_on="all")
    assert everything.example.learns_all_turns


def test_openai_s_names_are_an_option(read, write_json) -> None:
    record = {
        "messages": [
            {"role": "system", "content": "是"},
            *turns("一", "二", who=("user", "assistant"), keys=("role", "content")),
        ]
    }
    sample = read_one(read, write_json, record, "openai")
    assert sample.example.messages == (Message("system", ("是",)), Message("user", ("一",)))


def test_any_names_may_be_given(read, write_json) -> None:
    record = {"talk": [{"who": "me", "what": "一"}, {"who": "you", "what": "二"}]}
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "you"}
    sample = read_one(read, write_json, record, columns={"messages": "talk"}, tags=tags)
    assert sample.example.messages == (Message("user", ("一",)),)


@pytest.mark.parametrize(
    ("record", "system"),
    [
        ({"conversations": turns("一", "二"), "system": "column"}, "column"),
        (
            {
                "conversations": [{"from": "system", "value": "turn"}, *turns("一", "二")],
                "system": "column",
            },
            "turn",
        ),
    ],
)
def test_the_system_prompt_is_a_turn_or_a_column(read, write_json, record, system: str) -> None:
    messages = read_one(read, write_json, record).example.messages
    assert messages[0] == Message("system", (system,))


def said(*pairs: tuple[str, object]) -> dict:
    return {"conversations": [{"from": role, "value": text} for role, text in pairs]}


@pytest.mark.parametrize(
    ("record", "code", "message"),
    [
        (
            said(("gpt", "一"), ("human", "二")),
            "roles_out_of_turn",
            "has 'gpt' in turn 1, where 'human' must speak",
        ),
        (
            said(("human", "一"), ("human", "二"), ("gpt", "三")),
            "roles_out_of_turn",
            "has 'human' in turn 2, where 'gpt' must speak",
        ),
        (
            said(("human", "一"), ("system", "二")),
            "roles_out_of_turn",
            "has 'system' in turn 2, where 'gpt' must speak",
        ),
        (
            said(("学生王小明，电话138", "human")),
            "roles_out_of_turn",
            "has another speaker in turn 1, where 'human' must speak",
        ),
        (said(("human", "一")), "no_answer", "ends with turn 1, which nobody answers"),
        (
            said(("human", "一"), ("gpt", "二"), ("human", "三")),
            "no_answer",
            "ends with turn 3, which nobody answers",
        ),
        (said(("system", "一")), "no_answer", "has no turns"),
        ({"conversations": []}, "no_answer", "has no turns"),
        (said(("human", "一"), ("gpt", "")), "empty_answer", "has an empty answer"),
        (
            said(("human", "一"), ("function_call", "{}"), ("observation", "3"), ("gpt", "二")),
            "tool_turns",
            "has a turn 2 of function_call",
        ),
        (said(("human", ["一"]), ("gpt", "二")), "malformed_sample", "has no text in turn 1"),
        (
            {"conversations": [{"role": "user", "content": "一"}]},
            "malformed_sample",
            "has no from in turn 1, but role, content",
        ),
        ({"conversations": ["一", "二"]}, "malformed_sample", "has a turn 1 that is no object"),
        ({"conversations": "一"}, "malformed_sample", "has no list of turns in conversations"),
        (
            {"instruction": "一", "output": "二"},
            "other_format",
            "has no conversations, but instruction, output",
        ),
        ({"conversations": turns("一", "二"), "tools": "[{}]"}, "tool_turns", "has tools"),
        ({"conversations": turns("一", "二"), "audios": ["a"]}, "unsupported_media", "has audios"),
    ],
)
def test_what_is_no_conversation_is_refused(read, write_json, record, code, message) -> None:
    sample = read_one(read, write_json, record)
    assert sample.example is None
    assert [found.code for found in sample.findings[:1]] == [code]
    assert sample.findings[0].message == f"Sample 1 {message}."


def test_a_call_of_a_tool_is_refused_in_openai_s_form_too(read, write_json) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}
    record = {"messages": [{"role": "user", "content": "一"}, call]}
    assert read_one(read, write_json, record, "openai").findings[0].code == "tool_turns"


def test_an_empty_answer_in_between_counts_where_it_is_learned(read, write_json) -> None:
    record = {"conversations": turns("一", "", "三", "四")}
    assert read_one(read, write_json, record).findings == ()
    found = read_one(read, write_json, record, train_on="all").findings
    assert [finding.code for finding in found] == ["empty_answer"]


def test_formats_may_be_mixed_and_each_stranger_is_named(read, write_json) -> None:
    records = [
        {"conversations": turns("一", "二")},
        {"instruction": "一", "output": "二"},
        {"conversations": turns("三", "四")},
    ]
    samples = read("sharegpt", path=write_json(records, indent=1))
    assert [sample.example is not None for sample in samples] == [True, False, True]
    assert (samples[1].findings[0].code, samples[1].findings[0].line) == ("other_format", 14)
