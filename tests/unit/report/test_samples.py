"""Sample pages as HTML and as a W&B table."""

import base64
import io
import re
from math import nan
from pathlib import Path

import pytest
from PIL import Image

from aes.report.samples import COLUMNS, SampleRow, wandb_table, write_samples_html

PAGE = Image.new("RGB", (64, 32), (250, 200, 10))
ROWS = [
    SampleRow(
        id="s01",
        page=PAGE,
        gold_text='{"content": 18}\n立意好 & 通顺',
        pred_text="<script>alert(1)</script>",
        gold_total=82,
        pred_total=79.5,
    ),
    SampleRow(id='"x"', page=None, gold_text="a", pred_text="b", gold_total=1, pred_total=nan),
]


@pytest.fixture
def document(tmp_path: Path) -> str:
    path = tmp_path / "samples.html"
    write_samples_html(ROWS, path)
    return path.read_text(encoding="utf-8")


def test_html_escapes_what_the_model_wrote(document: str) -> None:
    assert "<script" not in document
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document
    assert "立意好 &amp; 通顺" in document
    assert "s01: gold 82, predicted 79.5" in document


def test_html_carries_its_images_and_needs_nothing_else(document: str) -> None:
    sources = re.findall(r'src="([^"]*)"', document)
    assert len(sources) == 1
    data = sources[0].removeprefix("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert image.tobytes() == PAGE.tobytes()
    assert "http" not in document
    assert "predicted not readable" in document


def test_an_answer_without_a_total_has_none(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    row = SampleRow(
        id="t1", page=None, gold_text="晴", pred_text="雨", gold_total=None, pred_total=None
    )
    write_samples_html([row], tmp_path / "samples.html")
    document = (tmp_path / "samples.html").read_text(encoding="utf-8")
    assert "<h2>t1</h2>" in document
    assert "predicted not readable" not in document
    assert wandb_table([row]).data[0][4:] == [None, None]


def test_html_without_rows_says_so(tmp_path: Path) -> None:
    write_samples_html([], tmp_path / "samples.html")
    assert "No samples." in (tmp_path / "samples.html").read_text(encoding="utf-8")


def test_wandb_table_has_the_same_rows() -> None:
    wandb = pytest.importorskip("wandb")
    table = wandb_table(ROWS)
    assert table.columns == list(COLUMNS)
    first, second = table.data
    assert first[0] == "s01"
    assert isinstance(first[1], wandb.Image)
    assert second[1] is None
    assert first[4:] == [82, 79.5]
