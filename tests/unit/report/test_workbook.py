"""The teachers' workbook, read back by another library."""

import io
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from aes.records import Deduction, Grade
from aes.report import workbook
from aes.report.predictions import PredictionWriter, Provenance, read_predictions
from aes.report.workbook import MAX_CELL_UNITS, harmless, write_workbook

LABELS = {"content": "内容", "language": "语言"}


def line(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": "001",
        "scores": {"content": 15, "language": 9},
        "total_score": 22,
        "uncertainty": 1.5,
        "deductions": [],
        "feedback": "通顺。",
        "warnings": [],
        "error": None,
    }
    return plain | changes


def read_back(path: Path) -> Any:
    return openpyxl.load_workbook(path).active


def rows_of(path: Path) -> list[list[Any]]:
    return [list(row) for row in read_back(path).iter_rows(values_only=True)]


def test_a_row_an_essay_from_lines_to_cells(tmp_path: Path) -> None:
    ours = Provenance(model="nano", adapter="", settings="s")
    graded = Grade(
        id="001",
        scores={"language": 9, "content": 15},
        subtotal=24.0,
        uncertainty=1.23456,
        deductions=(Deduction(code="short", points=2.0, reason="少于800字"),),
        total=22.0,
        feedback="第一。\n第二。",
    )
    with PredictionWriter(tmp_path / "out.jsonl", provenance=ours) as writer:
        writer.write_grade(graded, warnings=["It was mended."])
        writer.write_error("b.png", "b.png cannot be read.")
    path = tmp_path / "out.xlsx"
    write_workbook(read_predictions(tmp_path / "out.jsonl"), path, labels=LABELS)
    header, good, bad = rows_of(path)
    assert header == ["编号", "总分", "内容", "语言", "扣分", "评语", "不确定度", "备注"]
    notes = "少于800字 -2\nIt was mended."
    assert good == ["001", 22, 15, 9, 2, "第一。\n第二。", 1.2346, notes]
    assert bad[:2] == ["b.png", None]
    assert bad[2:5] == [None, None, None]
    assert bad[-1] == "未评分：b.png cannot be read."
    sheet = read_back(path)
    assert sheet.freeze_panes == "B2"
    assert sheet.auto_filter.ref == "A1:H3"
    assert sheet.column_dimensions["F"].width > 3 * sheet.column_dimensions["B"].width
    assert sheet["G2"].number_format == "0.00"
    assert sheet["F2"].alignment.wrap_text


ATTACKS = [
    "=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\x01=1", "  =1", "\u3000＝1", "＋1",
    "－1", "＠a", '=HYPERLINK("http://x","y")', "=cmd|' /C calc'!A0", "-1",
]  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS)
def test_no_text_of_a_pupil_becomes_a_formula(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.xlsx"
    lines = [line(id=text, feedback=text, warnings=[text])]
    write_workbook(lines, path, labels={"content": text})
    for row in read_back(path).iter_rows():
        for cell in row:
            assert cell.data_type != "f"
            if cell.column in (1, 5) and cell.row == 2:
                assert cell.value.startswith("'")
                assert cell.value[-1] == text[-1]


@pytest.mark.parametrize("text", ["1e5", "007", "http://a.cn", "mailto:a@b.c", "a=b", "{=1}", "'"])
def test_other_text_stays_what_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.xlsx"
    write_workbook([line(id=text)], path, labels=LABELS)
    cell = read_back(path)["A2"]
    assert (cell.value, cell.data_type, cell.hyperlink) == (text, "s", None)


def test_characters_that_xml_forbids_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "out.xlsx"
    text = "甲\x00\x0b\x1b\ud800\udfff\ufffe\uffff乙\r\n丙\r丁\t戊😀 & <b> _x0041_"
    write_workbook([line(feedback=text)], path, labels=LABELS)
    assert read_back(path)["F2"].value == "甲乙\n丙\n丁\t戊😀 & <b> _x0041_"


@pytest.mark.parametrize("char", ["长", "😀"])
def test_a_cell_holds_no_more_than_excel_allows(tmp_path: Path, char: str) -> None:
    path = tmp_path / "out.xlsx"
    write_workbook([line(feedback=f"={char * 40_000}")], path, labels=LABELS)
    text = read_back(path)["F2"].value
    assert MAX_CELL_UNITS - 1 <= len(text.encode("utf-16-le")) // 2 <= MAX_CELL_UNITS
    assert text.startswith("'=")
    assert text.endswith(f"{char}…")
    exact = "长" * MAX_CELL_UNITS
    assert harmless(exact) == exact


def test_a_workbook_without_essays_has_a_header(tmp_path: Path) -> None:
    write_workbook([], tmp_path / "out.xlsx", labels=LABELS)
    assert len(rows_of(tmp_path / "out.xlsx")) == 1


def test_the_old_file_stays_whole_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.xlsx"
    write_workbook([line()], path, labels=LABELS)
    before = path.read_bytes()
    assert zipfile.is_zipfile(io.BytesIO(before))

    def fail(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(workbook, "write_atomically", fail)
    with pytest.raises(ValueError, match=r"out\.xlsx cannot be written .*the grades are kept"):
        write_workbook([line(), line()], path, labels=LABELS)
    assert path.read_bytes() == before


def test_more_essays_than_rows_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(workbook, "MAX_ROWS", 1)
    with pytest.raises(ValueError, match=r"2 essays: choose a \.jsonl"):
        write_workbook([line(), line()], tmp_path / "out.xlsx", labels=LABELS)
