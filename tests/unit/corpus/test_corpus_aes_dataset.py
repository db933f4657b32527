"""The folder reader and the data set check: each defect is found, clean folders are silent."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.corpus import AesDataset, Reading, write_check
from aes.page import PageRenderer, PageSpec

REAL_ROOT = Path(__file__).parents[4] / "shared" / "data" / "AES_Dataset"
CONF = Path(__file__).parents[3] / "conf" / "data" / "aes_dataset.yaml"
RANGES = {"holistic": (0, 100)}
KEYS: dict[str, Any] = {
    "on_problem": "drop",
    "on_overlong": "shrink",
    "max_tokens": 2048,
    "max_samples": 1000,
    "min_chars": 20,
    "max_chars": 400,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "split_seed": 1,
    "fold": None,
    "num_folds": None,
}
MISMATCHED = [
    *(f"A-{i:04d}" for i in range(86, 94)),
    "A-0238",
    *(f"A-{i:04d}" for i in range(281, 290)),
]


def body(seed: int, num_chars: int = 90) -> str:
    """Two paragraphs of running text that no other seed shares."""
    chars = [chr(0x4E00 + (seed * 7919 + i * i * 31 + i * 17) % 3000) for i in range(num_chars)]
    half = num_chars // 2
    return "".join(chars[:half]) + "。\n" + "".join(chars[half:]) + "。\n"


def write_folder(
    root: Path, rows: Sequence[str | bytes], essays: Mapping[str, str | bytes]
) -> Path:
    (root / "essays").mkdir(parents=True)
    raw = [row if isinstance(row, bytes) else row.encode("gb18030") for row in rows]
    (root / "scores.txt").write_bytes(b"\n".join(raw) + b"\n")
    for id, text in essays.items():
        content = text if isinstance(text, bytes) else text.encode()
        (root / "essays" / f"{id}.txt").write_bytes(content)
    return root


def read(root: Path, lacking: str = "", **keys: Any) -> Reading:
    def find_undrawable(text: str) -> list[str]:
        return [c for c in text if c in lacking]

    return AesDataset(root=root, **(KEYS | keys)).read(
        find_undrawable=find_undrawable, open_page=Path.stat, ranges=RANGES
    )


def found(reading: Reading) -> list[tuple[str, str, str, int, str]]:
    return [(p.code, p.id, p.file, p.line, p.action) for p in reading.problems]


def test_reads_title_text_and_score(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path / "d",
        ["A-1\t春天\t75"],
        {"A-1": "　　春天 \n\n　　第一段的文字很长很长，春风来了。　\r\n \n第二段。"},
    )
    essay = read(root).essays[0]
    assert (essay.id, essay.title, essay.source, essay.scores) == (
        "A-1",
        "春天",
        "A-1",
        {"holistic": 75},
    )
    assert essay.text == "　　第一段的文字很长很长，春风来了。\n第二段。"


CLEAN = {
    "blank first line": ("门其实开着", "\n门其实开着\n"),
    "blank first line, no title in the file": ("门其实开着", "\n"),
    "export quotes": ('"那一次,我尝到了"', "那一次,我尝到了\n"),
    "doubled export quotes": ('"说""不"",很难"', "说“不”，很难\n"),
    "width and case": ("ＡＢＣ ２０２０", "abc2020\n"),
    "other quotes": ("学习使我妈快乐", "“学习使我妈快乐” ？\n"),
    "book marks": ("我读《红楼梦》", "我读红楼梦\n"),
    "shorter in the file": ("感恩，细水长流", "细水长流\n"),
    "longer in the file": ("细水长流", "感恩，细水长流\n"),
    "subtitle": ("门", "门——记我的老师\n"),
    "label": ("牵挂", "题目：牵挂\n"),
    "slip of the pen": ("那一次我找回了自尊", "那一次我找回自尊\n"),
    "author above": ("牵挂", "李明\n牵挂\n"),
    "title as statement": ("我长大了。", "我长大了。\n"),
    "byte order mark": ("牵挂", "\ufeff牵挂\n"),
    "windows lines": ("牵挂", "牵挂\r\n"),
    "indented": ("牵挂", "　　牵挂\n"),
    "zero width": ("牵挂", "牵\u200b挂\n"),
    "no listed title": ("", "牵挂\n"),
    "score with a point": ("牵挂", "牵挂\n"),
}


def test_clean_folder_has_no_problem(tmp_path: Path) -> None:
    rows = [f"A-{i}\t{row}\t{80 + i}" for i, (row, _) in enumerate(CLEAN.values())]
    rows[-1] = rows[-1].replace("\t99", "\t99.0")
    essays = {f"A-{i}": head + body(i) for i, (_, head) in enumerate(CLEAN.values())}
    reading = read(write_folder(tmp_path / "d", [*rows, "", "  "], essays))
    assert found(reading) == []
    assert reading.counts == {"read": len(CLEAN), "kept": len(CLEAN), "dropped": 0}
    names = dict(zip(CLEAN, reading.essays, strict=True))
    assert names["blank first line"].title == "门其实开着"
    assert not names["blank first line"].text.startswith("门其实开着")
    assert names["zero width"].title == "牵挂"
    assert names["author above"].text.startswith("李明\n")


def test_task_in_the_title_line_becomes_the_topic(tmp_path: Path) -> None:
    task = "阅读下面的材料，根据要求写作。" + body(50).split("\n")[0]
    essay = read(
        write_folder(tmp_path / "d", [f"A-1\t{task}\t80"], {"A-1": f"{task}\n行囊\n{body(1)}"})
    ).essays[0]
    assert (essay.topic, essay.title) == (task, "行囊")
    assert task not in essay.text and not essay.text.startswith("行囊")


GOOD_ROW, GOOD_ESSAY = "A-1\t春天\t80", "春天\n" + body(1)
DEFECTS: dict[str, tuple[list[str | bytes], dict[str, str | bytes], tuple[str, str, str, int, str]]]
DEFECTS = {
    "undecodable row": (
        [b"A-2\t\xff\xff\xff\t80"],
        {"A-2": "夏天\n" + body(2)},
        ("undecodable_row", "A-2", "scores.txt", 2, "dropped"),
    ),
    "spaces for tabs": (
        ["A-2 夏天 80"],
        {"A-2": "夏天\n" + body(2)},
        ("malformed_row", "A-2", "scores.txt", 2, "dropped"),
    ),
    "no score": (
        ["A-2\t夏天\t"],
        {"A-2": "夏天\n" + body(2)},
        ("score_not_a_number", "A-2", "scores.txt", 2, "dropped"),
    ),
    "score in words": (
        ["A-2\t夏天\t八十"],
        {"A-2": "夏天\n" + body(2)},
        ("score_not_a_number", "A-2", "scores.txt", 2, "dropped"),
    ),
    "nan": (
        ["A-2\t夏天\tnan"],
        {"A-2": "夏天\n" + body(2)},
        ("score_not_a_number", "A-2", "scores.txt", 2, "dropped"),
    ),
    "half points": (
        ["A-2\t夏天\t80.5"],
        {"A-2": "夏天\n" + body(2)},
        ("score_not_whole", "A-2", "scores.txt", 2, "dropped"),
    ),
    "out of range": (
        ["A-2\t夏天\t101"],
        {"A-2": "夏天\n" + body(2)},
        ("score_out_of_range", "A-2", "scores.txt", 2, "dropped"),
    ),
    "no file": (
        ["A-2\t夏天\t80"],
        {},
        ("missing_essay_file", "A-2", "scores.txt", 2, "dropped"),
    ),
    "no row": (
        [],
        {"A-2": "夏天\n" + body(2)},
        ("essay_without_row", "A-2", "essays/A-2.txt", 0, "dropped"),
    ),
    "undecodable essay": (
        ["A-2\t夏天\t80"],
        {"A-2": ("夏天\n" + body(2)).encode() + b"\xff"},
        ("undecodable_essay", "A-2", "essays/A-2.txt", 4, "dropped"),
    ),
    "blank file": (
        ["A-2\t夏天\t80"],
        {"A-2": "\n \n　\n"},
        ("empty_essay", "A-2", "essays/A-2.txt", 0, "dropped"),
    ),
    "title alone": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\n"},
        ("empty_essay", "A-2", "essays/A-2.txt", 0, "dropped"),
    ),
    "other essay": (
        ["A-2\t夏天\t80"],
        {"A-2": "\n我的城池\n" + body(2)},
        ("title_not_in_file", "A-2", "essays/A-2.txt", 2, "dropped"),
    ),
    "too short": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\n太短了。"},
        ("too_short", "A-2", "essays/A-2.txt", 0, "dropped"),
    ),
    "too long": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\n" + body(2, 600)},
        ("too_long", "A-2", "essays/A-2.txt", 0, "dropped"),
    ),
    "private use": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\n" + body(2).replace("。\n", "。\ue004\n", 1)},
        ("stray_character", "A-2", "essays/A-2.txt", 2, "kept"),
    ),
    "control": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\x0c\n" + body(2)},
        ("stray_character", "A-2", "essays/A-2.txt", 1, "kept"),
    ),
    "lost": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\n\n" + body(2) + "尾\ufffd"},
        ("lost_character", "A-2", "essays/A-2.txt", 5, "kept"),
    ),
    "font lacks it": (
        ["A-2\t夏天\t80"],
        {"A-2": "夏天\n" + body(2) + "㊙"},
        ("undrawable_character", "A-2", "essays/A-2.txt", 4, "dropped"),
    ),
    "same row twice": (
        [GOOD_ROW],
        {},
        ("duplicate_row", "A-1", "scores.txt", 2, "kept"),
    ),
    "two scores in two rows": (
        ["A-1\t春天\t81"],
        {},
        ("conflicting_rows", "A-1", "scores.txt", 2, "dropped"),
    ),
    "same text, same score": (
        ["A-2\t春天\t80"],
        {"A-2": GOOD_ESSAY},
        ("duplicate", "A-2", "scores.txt", 2, "dropped"),
    ),
    "excerpt": (
        ["A-2\t春天\t70"],
        {"A-2": "春天\n" + body(1)[:50] + body(2)[:40]},
        ("near_duplicate", "A-2", "essays/A-2.txt", 0, "kept"),
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_found_once_and_alone(name: str, tmp_path: Path) -> None:
    rows, essays, expected = DEFECTS[name]
    root = write_folder(tmp_path / "d", [GOOD_ROW, *rows], {"A-1": GOOD_ESSAY} | essays)
    reading = read(root, lacking="㊙")
    assert found(reading) == [expected]
    assert reading.problems[0].cure and not reading.stops_run
    counts = reading.counts
    assert counts["read"] == counts["kept"] + counts["dropped"]
    assert (expected[1] in [e.id for e in reading.essays]) == (expected[4] == "kept")
    stopped = read(root, lacking="㊙", on_problem="error")
    assert stopped.stops_run and {p.action for p in stopped.problems} == {"error"}


def test_conflicting_copies_are_both_dropped_and_named(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path / "d", [GOOD_ROW, "A-2\t春天\t60"], {"A-1": GOOD_ESSAY, "A-2": GOOD_ESSAY}
    )
    reading = read(root)
    assert [(p.code, p.id, p.line) for p in reading.problems] == [
        ("conflicting_scores", "A-1", 1),
        ("conflicting_scores", "A-2", 2),
    ]
    assert "A-2" in reading.problems[0].message and "60" in reading.problems[0].message
    assert reading.essays == ()
    assert len(read(root, on_problem="keep").essays) == 2


@pytest.mark.parametrize(("wrong", "right"), [("A-1", "A-2"), ("A-2", "A-1")])
def test_conflict_is_settled_where_one_row_is_wrong_anyway(
    wrong: str, right: str, tmp_path: Path
) -> None:
    rows = {wrong: f"{wrong}\t我的城池\t60", right: f"{right}\t春天\t80"}
    root = write_folder(
        tmp_path / "d", [rows[id] for id in sorted(rows)], dict.fromkeys(rows, GOOD_ESSAY)
    )
    reading = read(root)
    assert [(p.code, p.id) for p in reading.problems] == [
        ("title_not_in_file", wrong),
        ("conflicting_scores", wrong),
    ]
    assert [e.id for e in reading.essays] == [right]


def test_keep_keeps_what_can_be_kept(tmp_path: Path) -> None:
    rows = ["A-1\t我的城池\t80", "A-2\t夏天\t没有", "A-3\t秋天\t70"]
    essays = {i: f"{t}\n{body(k)}㊙" for k, (i, t) in enumerate(
        [("A-1", "春天"), ("A-2", "夏天"), ("A-3", "秋天")]
    )}  # fmt: skip
    reading = read(write_folder(tmp_path / "d", rows, essays), lacking="㊙", on_problem="keep")
    assert [e.id for e in reading.essays] == ["A-1", "A-3"]
    assert all(e.text.endswith("□") for e in reading.essays)
    assert {p.action for p in reading.problems if p.id == "A-3"} == {"kept"}
    assert {p.action for p in reading.problems if p.code == "score_not_a_number"} == {"dropped"}


@pytest.mark.parametrize(
    "first",
    [
        "没有题目的一段话写了很多事情很多人很多地方，" * 3 + "。",
        "妈妈昨天晚上偷偷地哭了，我都看见了！",
        "妈妈",
    ],
)
def test_messages_hold_no_essay_text(first: str, tmp_path: Path) -> None:
    text = f"{first}\n{body(2)}"
    problem = read(write_folder(tmp_path / "d", ["A-1\t春天\t80"], {"A-1": text})).problems[0]
    assert problem.code == "title_not_in_file"
    assert "'春天'" in problem.message
    assert first[:4] not in problem.message


def test_a_score_that_may_be_text_is_not_quoted(tmp_path: Path) -> None:
    rows = ["A-1\t春天\t妈妈昨天哭了", "A-2\t夏天\t八十", "A-3\t秋天\t"]
    essays = {f"A-{k}": f"{t}\n{body(k)}" for k, t in enumerate(("春天", "夏天", "秋天"), start=1)}
    assert [p.message for p in read(write_folder(tmp_path / "d", rows, essays)).problems] == [
        "The score is not a number.",
        "The score '八十' is not a number.",
        "The row has no score.",
    ]


def test_the_indent_reaches_the_page_as_written(tmp_path: Path, nano_page: PageSpec) -> None:
    indents = {"": 2, "\u3000": 1, "\u3000" * 3: 3, "\ufeff\u200b\u3000": 1, "\t": 2, "\x07": 2}
    written = "".join(f"{indent}{body(k)[:30]}\n" for k, indent in enumerate(indents))
    root = write_folder(tmp_path / "d", ["A-1\t春天\t80"], {"A-1": f"\u3000\u3000春天\n{written}"})
    (essay,) = read(root).essays
    assert essay.title == "春天"
    (page,) = PageRenderer(nano_page).layout(essay.title, essay.text)
    starts = {line.text[0]: line.xs_px[0] for line in page.lines}
    margin_px = min(line.xs_px[0] for line in page.lines)
    size_px = page.lines[-1].size_px
    found_chars = [(starts[body(k)[0]] - margin_px) // size_px for k in range(len(indents))]
    assert found_chars == list(indents.values())


def test_indents_count_neither_as_characters_nor_as_a_difference(tmp_path: Path) -> None:
    plain = body(1, 20)
    indented = "".join(f"\u3000\u3000{line}\n" for line in plain.splitlines())
    root = write_folder(
        tmp_path / "d",
        ["A-1\t春天\t80", "A-2\t春天\t80"],
        {"A-1": f"春天\n{plain}", "A-2": f"春天\n{indented}"},
    )
    assert [p.code for p in read(root, max_chars=22).problems] == ["duplicate"]
    blank = write_folder(tmp_path / "e", ["A-1\t春天\t80"], {"A-1": "春天\n\u3000\u200b\n"})
    assert [p.code for p in read(blank).problems] == ["empty_essay"]


@pytest.mark.parametrize("missing", ["root", "scores.txt", "essays", "all essays", "all rows"])
def test_nothing_to_read_is_an_error(missing: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [GOOD_ROW], {"A-1": GOOD_ESSAY})
    if missing == "root":
        root = tmp_path / "nowhere"
    elif missing == "scores.txt":
        (root / "scores.txt").unlink()
    elif missing == "essays":
        (root / "essays").rename(root / "texts")
    elif missing == "all essays":
        (root / "essays" / "A-1.txt").unlink()
    else:
        (root / "scores.txt").write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"data\.root"):
        read(root)


def test_rubric_with_other_traits_is_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [GOOD_ROW], {"A-1": GOOD_ESSAY})
    with pytest.raises(ValueError, match="rubric"):
        AesDataset(root=root, **KEYS).read(
            find_undrawable=lambda text: [], open_page=Path.stat, ranges={"content": (0, 20)}
        )


def test_shipped_config_fits_and_asks_for_the_root(tmp_path: Path) -> None:
    conf = yaml.safe_load(CONF.read_text(encoding="utf-8"))
    assert (conf.pop("_target_"), conf.pop("root")) == ("aes.corpus.AesDataset", "???")
    conf.pop("defaults")
    assert AesDataset(root=tmp_path, **(conf | {"split_seed": 1})).on_problem == "drop"


def test_check_file(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [GOOD_ROW, "A-2\t夏天\t8"], {"A-1": GOOD_ESSAY})
    write_check(read(root), tmp_path / "run" / "check.json")
    check = json.loads((tmp_path / "run" / "check.json").read_text(encoding="utf-8"))
    assert check["counts"] == {"read": 2, "kept": 1, "dropped": 1, "missing_essay_file": 1}
    assert set(check["problems"][0]) == {
        "code", "id", "file", "line", "message", "cure", "action"
    }  # fmt: skip
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["check.json"]


@pytest.mark.skipif(not REAL_ROOT.is_dir(), reason="AES-Dataset is not on this machine")
def test_real_data_set_has_these_problems_and_no_others() -> None:
    reading = read(REAL_ROOT, min_chars=200, max_chars=6000)
    by_code: dict[str, list[str]] = {}
    for problem in reading.problems:
        by_code.setdefault(problem.code, []).append(problem.id)
    assert by_code == {
        "title_not_in_file": MISMATCHED,
        "stray_character": ["A-0007", "A-0009", "A-0012"],
        "lost_character": ["A-0039", "A-0053", "A-0078"],
        "conflicting_scores": ["A-0087", "A-0089", "A-0165", "A-0185"],
        "duplicate": ["A-0242"],
        "near_duplicate": ["A-0280"],
    }
    dropped = {p.id for p in reading.problems if p.action == "dropped"}
    assert dropped == {*MISMATCHED, "A-0165", "A-0185", "A-0242"}
    assert (reading.counts["kept"], reading.counts["dropped"]) == (279, 21)
