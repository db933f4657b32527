"""metrics.jsonl and metrics.json."""

import json
from math import inf, nan
from pathlib import Path

from aes.training.metrics_log import MetricsLog, write_metrics_json


def test_a_line_can_be_read_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    assert not log.path.exists()
    log.log({"step": 1, "epoch": 1, "loss": 2.5, "tokens_per_s": inf})
    log.log({"step": 1, "epoch": 1, "val/qwk/total": nan})
    assert log.path.read_text(encoding="utf-8") == (
        '{"step": 1, "epoch": 1, "loss": 2.5, "tokens_per_s": null}\n'
        '{"step": 1, "epoch": 1, "val/qwk/total": null}\n'
    )


def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        log = MetricsLog(path)
        log.log({"step": step})
        log.close()
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n'


def test_rewind_returns_to_the_flush(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.flush() == 0
    log.log({"step": 1})
    saved = log.flush()
    log.log({"step": 2})
    with log.path.open("a") as file:
        file.write('{"step": 3, "lo')
    log.rewind(saved)
    log.log({"step": 2})
    assert log.path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n'


def test_rewind_leaves_a_shorter_log_alone(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind(100)
    log.log({"step": 1})
    log.rewind(100)
    assert log.path.read_text(encoding="utf-8") == '{"step": 1}\n'


def test_metrics_json_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics_json(path, {"val/qwk/total": 0.1})
    write_metrics_json(path, {"val/qwk/total": 0.5, "val/qwk/content": nan})
    assert json.loads(path.read_text()) == {"val/qwk/total": 0.5, "val/qwk/content": None}
    assert list(tmp_path.iterdir()) == [path]
