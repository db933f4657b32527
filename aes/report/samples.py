"""Answered pages -> a page of samples: image, gold answer and predicted answer side by side.

One self-contained HTML file, or the same rows as a W&B table. Knows no model; shows answers as
they came.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from aes.files import write_atomically

if TYPE_CHECKING:
    import wandb
    from PIL.Image import Image

COLUMNS = ("id", "page", "gold answer", "predicted answer", "gold total", "predicted total")

_STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans SC", "WenQuanYi Zen Hei", sans-serif;
       margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; }
article { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 4fr) minmax(0, 4fr);
          gap: 0 1.5em; border-top: 1px solid #ccc; padding: 1em 0; }
h2 { grid-column: 1 / -1; font-size: 1.05em; margin: 0 0 .5em; overflow-wrap: anywhere; }
h3 { font-size: .9em; color: #666; margin: 0; }
img { max-width: 100%; border: 1px solid #ddd; }
pre { font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3em 0; }
@media (max-width: 700px) { article { grid-template-columns: minmax(0, 1fr); } }
"""


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """One page with its answers.

    Attributes:
        id: The essay's id.
        page: Its first page as the model saw it; ``None`` for text alone.
        gold_text: The answer that it should give.
        pred_text: The answer as it came, readable or not.
        gold_total: In points; ``None`` where answers are not scored.
        pred_total: Likewise; NaN where the answer could not be read.
    """

    id: str
    page: Image | None
    gold_text: str
    pred_text: str
    gold_total: float | None
    pred_total: float | None


def write_samples_html(rows: Sequence[SampleRow], path: Path) -> None:
    """Write one HTML file that needs nothing beside it, images included.

    Args:
        rows: Top to bottom.
        path: File to write, e.g. ``samples.html`` in the run.
    """
    articles = "\n".join(_article(row) for row in rows) or "<p>No samples.</p>"
    document = (
        '<!DOCTYPE html>\n<html lang="zh-CN">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Samples</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Samples</h1>\n{articles}\n</body>\n</html>\n"
    )
    write_atomically(path, document.encode("utf-8"))


def wandb_table(rows: Sequence[SampleRow]) -> wandb.Table:
    """The same rows as a table for W&B.

    Args:
        rows: Top to bottom.

    Returns:
        A table with ``COLUMNS``.
    """
    import wandb

    table = wandb.Table(columns=list(COLUMNS))
    for row in rows:
        page = None if row.page is None else wandb.Image(row.page)
        table.add_data(row.id, page, row.gold_text, row.pred_text, row.gold_total, row.pred_total)
    return table


def _article(row: SampleRow) -> str:
    heading = row.id
    if row.gold_total is not None and row.pred_total is not None:
        predicted = "not readable" if isnan(row.pred_total) else f"{row.pred_total:g}"
        heading += f": gold {row.gold_total:g}, predicted {predicted}"
    return (
        f"<article>\n<h2>{escape(heading)}</h2>\n<div>{_picture(row)}</div>\n"
        f"<div><h3>gold answer</h3><pre>{escape(row.gold_text)}</pre></div>\n"
        f"<div><h3>predicted answer</h3><pre>{escape(row.pred_text)}</pre></div>\n</article>"
    )


def _picture(row: SampleRow) -> str:
    if row.page is None:
        return "<h3>text, no page</h3>"
    png = io.BytesIO()
    row.page.save(png, format="PNG", optimize=True)
    data = base64.b64encode(png.getvalue()).decode("ascii")
    return f'<img alt="page of {escape(row.id)}" src="data:image/png;base64,{data}">'
