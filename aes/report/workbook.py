"""Lines of graded essays -> a workbook (.xlsx) for teachers: a row an essay.

Whatever pupils wrote stays text: a cell that begins as a formula would (= + - @, tab, line end,
their full-width forms, also after spaces) gets an apostrophe before it. The apostrophe is part of
the text, so that the sheet is harmless when it is saved as CSV and opened again, too. Nothing
becomes a formula, a link or a number by its looks.

Source: OWASP, CSV Injection, for the characters and the apostrophe.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aes.files import write_atomically

MAX_CELL_UNITS = 32_767
"""Source: Microsoft, Excel specifications and limits; counted in UTF-16 units."""

MAX_ROWS = 1_048_575
"""Without the header. Source: as above."""

_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_FORMULA_CONTROLS = ("\t", "\r", "\n")
# All but tab and line feed below the space, and what no XML 1.0 document may hold.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_WIDTHS = {"编号": 18, "总分": 8, "扣分": 8, "评语": 70, "不确定度": 10, "备注": 50}
_TRAIT_WIDTH = 10


def write_workbook(
    lines: Sequence[Mapping[str, Any]], path: Path, *, labels: Mapping[str, str]
) -> None:
    """Write a workbook in one step.

    Args:
        lines: As ``aes.report.predictions.read_predictions`` gives them, top to bottom.
        path: File to write; one that is there is replaced.
        labels: The traits' names for the header by their key, left to right.

    Raises:
        ValueError: If there are more essays than rows, or the file cannot be written.
    """
    import xlsxwriter

    if len(lines) > MAX_ROWS:
        raise ValueError(f"{path} cannot hold {len(lines)} essays: choose a .jsonl output.")
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        _fill(book, [_cells(line, labels) for line in lines], labels)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}): close it in other programs and start "
            "again, the grades are kept."
        ) from error


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula, and every one can hold."""
    is_control = text.startswith(_FORMULA_CONTROLS)
    text = _FORBIDDEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if is_control or text.lstrip().startswith(_FORMULA_STARTS):
        text = f"'{text}"
    units = text.encode("utf-16-le")
    if len(units) > 2 * MAX_CELL_UNITS:
        return units[: 2 * (MAX_CELL_UNITS - 1)].decode("utf-16-le", "ignore") + "…"
    return text


def _fill(book: Any, rows: Sequence[Sequence[Any]], labels: Mapping[str, str]) -> None:
    sheet = book.add_worksheet("评分")
    header = ["编号", "总分", *labels.values(), "扣分", "评语", "不确定度", "备注"]
    top = {"valign": "top"}
    wrapped = book.add_format({**top, "text_wrap": True})
    numeric = book.add_format(top)
    fraction = book.add_format({**top, "num_format": "0.00"})
    bold = book.add_format({"bold": True, "bottom": 1, "bg_color": "#EEEEEE"})
    for column, name in enumerate(header):
        sheet.set_column(column, column, _WIDTHS.get(name, _TRAIT_WIDTH))
        sheet.write_string(0, column, harmless(name), bold)
    for row, cells in enumerate(rows, start=1):
        for column, value in enumerate(cells):
            if isinstance(value, str):
                sheet.write_string(row, column, harmless(value), wrapped)
            elif value is not None:
                form = fraction if header[column] == "不确定度" else numeric
                sheet.write_number(row, column, value, form)
    sheet.freeze_panes(1, 1)
    sheet.autofilter(0, 0, len(rows), len(header) - 1)


def _cells(line: Mapping[str, Any], labels: Mapping[str, str]) -> list[Any]:
    """The cells of a row: texts, numbers, and None for what is not known."""
    deductions = line["deductions"]
    notes = [f"{item['reason']} -{item['points']}" for item in deductions]
    notes += line["warnings"]
    if line["error"]:
        notes.append(f"未评分：{line['error']}")
    taken = sum(item["points"] for item in deductions)
    return [
        str(line["id"]),
        line["total_score"],
        *(line["scores"].get(name) for name in labels),
        None if line["error"] else taken,
        line["feedback"],
        line["uncertainty"],
        "\n".join(notes),
    ]
