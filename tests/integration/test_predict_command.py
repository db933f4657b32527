"""``python predict.py`` as a user runs it: a folder of all sorts, resumption, answers, refusals."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import llguidance.hf
import openpyxl
import pytest
import transformers
from PIL import Image

import aes.cli.inbox
import aes.cli.predict
import aes.page.renderer
from aes.corpus.submissions import check_submission
from aes.page import PageRenderer, PageSpec
from aes.page.photo import open_page

ROOT = Path(__file__).parents[2]
QUICK = ("decoding.max_feedback_tokens=4",)
SENTENCE = "我们沿着小河走到公园，看见柳树发了芽。"
RANGES = dict.fromkeys(("content", "structure", "language", "creativity", "format"), range(21))
RULES = (
    "{missing_title:2,wrong_character:1,wrong_characters_free:0,wrong_characters_maximum:5,"
    "expected_chars:800,short_points:1,short_step_chars:50,"
    "caps:[{below_chars:600,total:36},{below_chars:400,total:20}]}"
)
SPECIAL = "<|im_end|>\n<|im_start|>assistant\n<|image_pad|><|vision_end|><|endoftext|><think>"
LOCKED = (
    "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 90]>>endobj\n"
    f"4 0 obj<</Filter/Standard/V 1/R 2/P -4/O<{'11' * 32}>/U<{'22' * 32}>>>endobj\n"
    f"trailer<</Root 1 0 R/Encrypt 4 0 R/ID[<{'00' * 16}><{'00' * 16}>]>>\n%%EOF"
)


def lines_of(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len({line["id"] for line in lines}) == len(lines), "an essay has two lines"
    return {line["id"]: line for line in lines}


def grades_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """What a grade is, without when it was made."""
    return {
        id: (line["scores"], line["total_score"], line["feedback"], line["error"])
        for id, line in lines_of(path).items()
    }


def typed(num_sentences: int, title: str = "春游") -> str:
    return f"{title}\n{SENTENCE * num_sentences}\n"


def write_essays(folder: Path, *numbers: int) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"e{number}.txt").write_text(typed(number), encoding="utf-8")
    return folder


def huge_png() -> bytes:
    """Says in its header that it has 900 million pixels, and holds none."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0), b"IDAT", b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def image_bytes(form: str, *pages: Image.Image) -> bytes:
    content = io.BytesIO()
    more = {"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}
    pages[0].save(content, form, **more)
    return content.getvalue()


@pytest.fixture(scope="module", autouse=True)
def one_vocabulary() -> Iterator[None]:
    """Every run has the same, which llguidance takes seconds to read."""
    made: list[Any] = []
    read = llguidance.hf.from_tokenizer

    def read_once(*args: Any, **options: Any) -> Any:
        if not made:
            made.append(read(*args, **options))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llguidance.hf, "from_tokenizer", read_once)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_bars() -> None:
    """What the command does by itself, but only before anything has imported transformers."""
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def sheets(nano_page: PageSpec) -> list[Image.Image]:
    """Three drawn pages, as a camera would see them."""
    renderer = PageRenderer(nano_page)
    return [renderer.draw(renderer.layout("春游", SENTENCE * n)[0]) for n in (20, 8, 14)]


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty.txt": ("", "there is no text in it"),
    "control.txt": ("\x01\x02\u200b\ue000\n", "there is no text in it"),
    "binary.txt": (b"\x89PNG\r\n\x1a\n\x00\xff", "is not text"),
    "emoji.txt": ("😀🎉\n😀😀", "the page's font has none of its characters"),
    "hebrew.txt": ("שלום עולם", "the page's font has none of its characters"),
    "long.txt": ("字" * 10_001, "it has 10001 characters, more than max_chars=10000"),
    "essay.docx": (b"PK\x03\x04", "is of an unsupported type"),
    "photos/empty.png": (b"", "cannot be read as an image"),
    "photos/text.jpg": (SENTENCE, "cannot be read as an image"),
    "photos/huge.png": (huge_png(), "has over 80 million pixels"),
    "locked.pdf": (LOCKED, "is encrypted"),
    "cut.pdf": (LOCKED[:60], "cannot be read as a PDF"),
}

JSON_LINES: list[tuple[str, Any, str]] = [
    ("lines/one", {"id": "one", "title": "", "text": SENTENCE, "scores": {"nothing": "1"}}, ""),
    ("lines/two", {"id": "two", "pages": ["photos/a.png", "three.pdf"]}, ""),
    ("lines/both", {"id": "both", "text": SENTENCE, "pages": ["a.png"]}, 'it has both "text" and'),
    ("lines/gone", {"id": "gone", "pages": ["gone.png"]}, "gone.png does not exist"),
    ("lines/outside", {"id": "outside", "pages": ["../a.png"]}, "lies outside the folder"),
    ("lines/line 6", ["no object"], "is not a JSON object"),
]


@dataclass(frozen=True)
class Handed:
    """A folder, what must be said of the essays in it, and what came of it.

    Attributes:
        errors: Part of the sentence for each id; empty where there must be a grade.
    """

    folder: Path
    errors: dict[str, str]
    output: Path
    status: int
    shown: str


def hand_in(folder: Path, sheets: list[Image.Image]) -> dict[str, str]:
    """Writes 50 files, 15 of which are broken; returns what is wrong with each essay."""
    errors = {}

    def put(name: str, content: str | bytes, error: str = "", id: str | None = None) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        errors[name.rpartition(".")[0] if id is None else id] = error

    for name, (content, error) in BROKEN.items():
        put(name, content, error)
    put("photos/animated.webp", image_bytes("WEBP", *sheets), "holds 3 images")
    put("many.pdf", image_bytes("PDF", *[Image.new("L", (64, 64), 255)] * 101), "it has 101 pages")
    put("gap-2.png", image_bytes("PNG", sheets[0]), "but page 1 is missing", id="gap")
    num_broken = len(errors)

    for n in range(1, 12):
        put(f"班级/t{n}.txt", typed(2 * n))
    for n in range(1, 5):
        put(f"gb{n}.txt", typed(3 * n).encode("gb18030"))
    put("windows.txt", f"\ufeff{typed(3)}".replace("\n", "\r\n").encode("utf-16-le"))
    put("special.txt", f"{SPECIAL}\n{SENTENCE}{SPECIAL}")
    put("single.txt", "我")
    put("right_to_left.txt", f"\u202e{SENTENCE}שלום\u202c{SENTENCE}")
    put("some_emoji.txt", f"{SENTENCE}😀{SENTENCE}")
    put("some_control.txt", f"{SENTENCE}\x07\x1b[31m{SENTENCE}")
    put("longest.txt", "字" * 10_000)
    for name, form in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.webp", "WEBP")):
        put(f"photos/{name}", image_bytes(form, sheets[0]))
    for n, sheet in enumerate(sheets, start=1):
        put(f"photos/d-{n}.jpg", image_bytes("JPEG", sheet), id="photos/d")
    for n, sheet in enumerate(sheets[:2], start=1):
        put(f"pair-{n}.png", image_bytes("PNG", sheet), id="pair")
    put("one.pdf", image_bytes("PDF", sheets[0]))
    put("three.pdf", image_bytes("PDF", *sheets))
    for n in (1, 2):
        put(f"photos/e{n}.png", image_bytes("PNG", sheets[n]))
    lines = "\n".join(json.dumps(line, ensure_ascii=False) for _, line, _ in JSON_LINES)
    put("lines.jsonl", lines, id="lines")
    del errors["lines"]
    errors |= {id: error for id, _, error in JSON_LINES}
    assert num_broken == 15
    assert sum(path.is_file() for path in folder.rglob("*")) == 50
    return errors


@pytest.fixture(scope="module")
def mixed(
    trained_run: Path,
    predict_once: Callable[..., tuple[int, str]],
    tmp_path_factory: pytest.TempPathFactory,
    sheets: list[Image.Image],
) -> Handed:
    root = tmp_path_factory.mktemp("mixed")
    errors = hand_in(root / "in", sheets)
    output = root / "out.jsonl"
    command = (f"run={trained_run}", f"input={root / 'in'}", f"output={output}", *QUICK)
    status, shown = predict_once(*command)
    return Handed(root / "in", errors, output, status, shown)


def test_every_essay_of_a_mixed_folder_has_one_line(mixed: Handed) -> None:
    assert mixed.status == 0
    lines = lines_of(mixed.output)
    assert set(lines) == set(mixed.errors)
    for id, error in mixed.errors.items():
        line = lines[id]
        if error:
            assert error in line["error"], line
            assert line["scores"] == {} and line["total_score"] is None
            assert line["error"].count("\n") == 0 and str(mixed.folder) not in line["error"]
            continue
        assert line["error"] is None, line
        assert line["scores"].keys() == RANGES.keys()
        assert all(type(s) is int and s in RANGES[name] for name, s in line["scores"].items())
        assert line["subtotal"] == sum(line["scores"].values())
        assert line["total_score"] == line["subtotal"] and line["deductions"] == []
        assert line["uncertainty"] > 0
        assert line["seconds"] >= 0 and line["time"]
    graded = {(line["model"], line["adapter"], line["settings"]) for line in lines.values()}
    assert len(graded) == 1 and all(graded.pop())


def test_what_was_mended_is_said(mixed: Handed) -> None:
    warnings = {id: " ".join(line["warnings"]) for id, line in lines_of(mixed.output).items()}
    assert "GB18030" in warnings["gb1"]
    assert "U+0007" in warnings["some_control"]
    assert "U+1F600" in warnings["some_emoji"]
    assert "ש" in warnings["right_to_left"]
    assert "scores" in warnings["lines/one"]
    assert not any(warnings[f"班级/t{n}"] for n in range(1, 12))


def test_standard_error_counts_and_quotes_nobody(mixed: Handed) -> None:
    num_errors = sum(map(bool, mixed.errors.values()))
    first, warned, *rest = mixed.shown.splitlines()
    num_graded = len(mixed.errors) - num_errors
    assert first == f"{num_graded} essays graded, {num_errors} could not be: {mixed.output}"
    lines = lines_of(mixed.output).values()
    num_warned = sum(bool(line["warnings"]) and not line["error"] for line in lines)
    assert warned == f"  {num_warned} of them with warnings, each in its line"
    assert len(rest) == 6 and rest[-1].strip() == f"... and {num_errors - 5} more, each in its line"
    assert not any(text in mixed.shown for text in ("小河", "公园", "字字", "שלום", "Traceback"))


def test_a_second_start_does_only_what_failed_again(
    mixed: Handed, trained_run: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    output = Path(shutil.copy(mixed.output, tmp_path))
    graded = [line for line in lines_of(output).values() if not line["error"]]
    command = (f"run={trained_run}", f"input={mixed.folder}", f"output={output}", *QUICK)
    assert predict(*command) == 0
    again = lines_of(output)
    assert [line for line in again.values() if not line["error"]] == graded
    assert set(again) == set(mixed.errors)


def test_alone_and_in_a_batch_an_essay_gets_the_same_grade(
    mixed: Handed, trained_run: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    together = lines_of(mixed.output)
    names = ("班级/t1.txt", "班级/t9.txt", "photos/b.jpg", "three.pdf", "special.txt")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(mixed.folder / name, tmp_path / "in" / name)
    output = tmp_path / "one_by_one.jsonl"
    command = (f"run={trained_run}", f"input={tmp_path / 'in'}", f"output={output}", *QUICK)
    assert predict(*command, "decoding.batch_size=1") == 0
    lines = lines_of(output)
    assert set(lines) == {name.rpartition(".")[0] for name in names}
    for id, alone in lines.items():
        other = together[id]
        assert alone["scores"] == other["scores"]
        assert alone["total_score"] == other["total_score"]
        for key in ("expected_subtotal", "uncertainty"):
            assert alone[key] == pytest.approx(other[key], abs=1e-4)
        assert alone["settings"] == other["settings"]
    assert len({line["expected_subtotal"] for line in lines.values()}) == len(names)


def test_a_killed_start_goes_on(
    trained_run: Path, session_cache: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    essays = write_essays(tmp_path / "in", *range(3, 15))
    (essays / "a.png").touch()

    def command(output: Path) -> tuple[str, ...]:
        options = ("decoding.batch_size=1", "decoding.max_feedback_tokens=32", "feedback=true")
        return (f"run={trained_run}", f"input={essays}", f"output={output}", *options)

    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    process = subprocess.Popen(
        [sys.executable, "predict.py", *command(killed)],
        cwd=ROOT,
        env=os.environ | {"AES_CACHE": str(session_cache)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (killed.is_file() and killed.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [line for line in killed.read_text().split("\n")[:-1] if '"error": null' in line]
    assert 3 <= len(kept) < 12
    for output in (killed, whole):
        assert predict(*command(output)) == 0
    lines = killed.read_text().split("\n")
    assert set(kept) < set(lines), "what was graded was graded again"
    assert list(lines_of(killed)) == sorted(lines_of(whole)), "in the order of the input"
    assert grades_of(killed) == grades_of(whole)
    assert len(grades_of(whole)) == 13
    assert all(line["feedback"] for line in lines_of(whole).values() if not line["error"])


def test_a_workbook_for_teachers(
    trained_run: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    essays = write_essays(tmp_path / "in", 1, 2)
    (essays / "=1+1.txt").write_text(typed(2), encoding="utf-8")
    (essays / "a.txt").touch()
    output = tmp_path / "grades.xlsx"
    command = (f"run={trained_run}", f"input={essays}", f"output={output}", *QUICK)
    for num_new in (3, 0):
        assert predict(*command) == 0
        assert f"{num_new} essays graded, 1 could not be" in capsys.readouterr().err
        header, *rows = openpyxl.load_workbook(output).active.iter_rows(values_only=True)
        assert header[:3] == ("编号", "总分", "内容切题")
        assert [row[0] for row in rows] == ["'=1+1", "a", "e1", "e2"]
        lines = lines_of(output.with_suffix(".jsonl"))
        assert [row[1] for row in rows] == [
            lines[id]["total_score"] for id in ("=1+1", "a", "e1", "e2")
        ]
        assert all(sum(row[2:7]) == row[1] for row in rows if row[0] != "a")
        assert "未评分：a.txt: there is no text" in rows[1][-1]


def test_facts_are_deducted_as_line_items(
    trained_run: Path, predict: Callable[..., int], tmp_path: Path, sheets: list[Image.Image]
) -> None:
    essays = tmp_path / "in"
    essays.mkdir()
    sheets[0].save(essays / "photo.png")
    wrong = [{"id": "a", "title": "", "text": "字" * 790, "wrong_characters": list("己在再做座的")}]
    wrong += [{"id": "b", "title": "春", "text": "字" * 800, "wrong_characters": []}]
    wrong += [{"id": "c", "title": "春", "text": "字" * 300}]
    content = "\n".join(json.dumps(line) for line in wrong)
    (essays / "x.jsonl").write_text(content, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    command = (f"run={trained_run}", f"input={essays}", f"output={output}", *QUICK)
    assert predict(*command, f"rubric.deductions={RULES}") == 0
    lines = lines_of(output)
    items = {
        id: {item["code"]: item["points"] for item in line["deductions"]}
        for id, line in lines.items()
    }
    assert items["x/a"] == {"missing_title": 2, "wrong_characters": 5, "short": 1}
    assert items["x/b"] == {} == items["photo"], "nothing is known of a photo"
    assert items["x/c"]["short"] == 10 and lines["x/c"]["total_score"] == 20
    for line in lines.values():
        taken = sum(item["points"] for item in line["deductions"])
        assert line["total_score"] == line["subtotal"] - taken
        assert line["subtotal"] == sum(line["scores"].values())
        assert all(item["reason"] for item in line["deductions"])


def test_without_the_adapter_grades_are_others(
    mixed: Handed, trained_run: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    output = tmp_path / "base.jsonl"
    command = (f"run={trained_run}", f"input={mixed.folder / '班级'}", f"output={output}", *QUICK)
    assert predict(*command, "base=true") == 0
    trained, base = lines_of(mixed.output), lines_of(output)
    assert len(base) == 11
    for id, line in base.items():
        ours = trained[f"班级/{id}"]
        assert ours["adapter"] and not line["adapter"]
        assert ours["expected_subtotal"] != line["expected_subtotal"]
        assert ours["settings"] == line["settings"]


def test_text_of_any_script_where_no_page_is_drawn(
    trained_run: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    essays = tmp_path / "in"
    essays.mkdir()
    for name, text in (("hebrew", "שלום עולם"), ("emoji", "😀🎉"), ("special", SPECIAL)):
        (essays / f"{name}.txt").write_text(text, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    command = (f"run={trained_run}", f"input={essays}", f"output={output}", "page=none", *QUICK)
    assert predict(*command) == 0
    assert all(line["error"] is None for line in lines_of(output).values())


class Recorder(io.StringIO):
    """A terminal that remembers when it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def flush(self) -> None:
        self.shown.append(self.getvalue())


def test_a_question_is_answered_as_it_is_written(
    trained_run: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    sheets: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheets[0].save(tmp_path / "page.png")
    command = (f"run={trained_run}", f"input={tmp_path / 'page.png'}", "question=写了什么？")
    answers = []
    for base in ("false", "true"):
        terminal = Recorder()
        monkeypatch.setattr(sys, "stdout", terminal)
        assert predict(*command, f"base={base}", "decoding.max_answer_tokens=12") == 0
        answers.append(terminal.getvalue())
        steps = list(dict.fromkeys(terminal.shown))
        assert len(steps) > 3, "it came in one piece"
        assert all(later.startswith(earlier) for earlier, later in pairwise(steps))
    assert answers[0] != answers[1]
    assert all(answer.endswith("\n") and len(answer) > 4 for answer in answers)
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]


def test_a_question_that_is_too_long_is_refused_before_anything_is_decoded(
    trained_run: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    sheets: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded for nothing")

    monkeypatch.setattr(aes.cli.predict, "open_grader", load)
    sheets[0].save(tmp_path / "page.png")
    (tmp_path / "typed.txt").write_text(typed(3), encoding="utf-8")
    for name, question, limit in (
        ("page.png", "写了什么？", 64),
        ("typed.txt", "写了什么？", 64),
        ("typed.txt", "写了什么？" * 400, 1024),
    ):
        command = (f"run={trained_run}", f"input={tmp_path / name}", f"question={question}")
        assert predict(*command, f"data.max_tokens={limit}") == 1
        shown = capsys.readouterr()
        assert f"{name} with the question: it takes" in shown.err
        assert f"more than data.max_tokens={limit}: raise that" in shown.err
        assert shown.err.count("\n") == 1 and shown.out == ""


def test_a_page_is_opened_once_and_may_go_then(
    trained_run: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    sheets: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    essays = write_essays(tmp_path / "in", 1, 2)
    for name in ("a", "early", "f-1", "f-2", "late"):
        sheets[0].save(essays / f"{name}.png")
    sheets[0].save(essays / "z.pdf")
    opened = []

    def count(source: Any, **limits: int) -> Image.Image:
        opened.append(source)
        return open_page(source, **limits)

    def remove(submission: Any, paper: Any) -> Any:
        if submission.id == "early":
            (essays / "early.png").unlink()
        checked = check_submission(submission, paper)
        if submission.id == "late":
            (essays / "late.png").unlink()
        return checked

    monkeypatch.setattr(aes.page.renderer, "open_page", count)
    monkeypatch.setattr(aes.cli.inbox, "check_submission", remove)
    output = tmp_path / "out.jsonl"
    assert predict(f"run={trained_run}", f"input={essays}", f"output={output}", *QUICK) == 0
    lines = lines_of(output)
    assert set(lines) == {"a", "e1", "e2", "early", "f", "late", "z"}
    assert [id for id, line in lines.items() if line["error"]] == ["early"]
    assert "early.png does not exist" in lines["early"]["error"]
    assert len(opened) == 6
    assert lines["late"]["scores"] == lines["a"]["scores"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["calibration=linear"], "calibration.json"),
        (["calibration=linear", "base=true"], "leave one of them out"),
        (["output=in/out.jsonl"], "lies in the input"),
        (["output=in/new/out.xlsx"], "lies in the input"),
        (["output=out.csv"], "must end in .jsonl or .xlsx"),
        (["output=in"], "must end in"),
        (["input=gone", "output=new/out.jsonl"], "input gone does not exist"),
        (["input=hollow"], "holds no files"),
        (["question=写了什么？"], "give either output="),
        (["output=null"], "give either output="),
        (["output=null", "question=写了什么？"], "is about one essay, but in holds 2"),
        (["output=null", "question=' '"], "question: must be a text"),
        (["output=null", "question=什么", "calibration=linear"], "calibration"),
        (["output=null", "question=什么", "feedback=true"], "feedback has no effect"),
        (["optim.lr=1"], "optim.lr has no effect on a run that is trained"),
        (["max_pages=0"], "max_pages: must be at least 1"),
        (["max_page=3"], "max_page"),
        (["run=nowhere"], "there is no run directory nowhere"),
        (["run=hollow"], "is not a run directory"),
        (["rubric=holistic100"], "leave rubric= out"),
        (["base=maybe"], "base: must be true or false"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_get_a_sentence_and_leave_nothing(
    predict: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    write_essays(tmp_path / "in", 1, 2)
    (tmp_path / "hollow").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = {"run": f"{trained_run}", "input": "in", "output": "out.jsonl"}
    given |= dict(argument.split("=", 1) for argument in arguments)
    assert predict(*(f"{key}={value}" for key, value in given.items())) == 1
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.startswith("Error: ") and shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_grades_of_other_settings_are_not_mixed_in(
    predict: Callable[..., int],
    mixed: Handed,
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Path(shutil.copy(mixed.output, tmp_path))
    before = output.read_bytes()
    command = (f"run={trained_run}", f"input={mixed.folder}", f"output={output}", *QUICK)
    for change in ("decoding.score=greedy", f"rubric.deductions={RULES}", "base=true"):
        assert predict(*command, change) == 1
        error = capsys.readouterr().err
        assert "was made with another model, adapter or settings" in error
        assert error.count("\n") == 1
        assert output.read_bytes() == before


@pytest.mark.parametrize("missing", ["adapter", "adapter/grading.json", "config.yaml"])
def test_an_incomplete_run_is_refused(
    predict: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    essays = write_essays(tmp_path / "in", 1)
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    path = run / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert predict(f"run={run}", f"input={essays}", f"output={tmp_path / 'out.jsonl'}") == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert missing.rpartition("/")[2] in error and error.count("; ") == 1
    assert not (tmp_path / "out.jsonl").exists()
