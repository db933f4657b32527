"""benchmarks/grade.py: both ways give the same answers, all ways of decoding the same words."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Function that runs the script with arguments; gives what it measured."""

    def run(*arguments: str) -> list[dict[str, Any]]:
        out = tmp_path / "grade.json"
        line = [sys.executable, "benchmarks/grade.py", "--out", str(out), "--device", "cpu"]
        done = subprocess.run(
            [*line, *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["measured"]
        return found

    return run


@pytest.mark.command
def test_all_ways_of_decoding_write_the_same_words(run: Any) -> None:
    rows = run("--random", "tiny", "--batch-size", "3", "--num-prompt", "20", "--num-new", "12")
    assert [row["way"] for row in rows] == ["dynamic", "static", "recorded", "generate"]
    assert all(row["words_equal_to_first_way"] == 1 for row in rows)


@pytest.mark.slow
def test_essays_are_answered_alike(run: Any) -> None:
    (row,) = run("--model", "nano", "--repeats", "1", "--batch-size", "2")
    assert row["times_generate"] > 0


def test_the_floor_counts_what_a_step_reads(
    monkeypatch: pytest.MonkeyPatch, load_nano: Any
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from grading.floor import bytes_of_step

    model = load_nano()
    one = bytes_of_step(model, num_rows=1, num_columns=10)
    many = bytes_of_step(model, num_rows=1000, num_columns=10)
    text = model.config.text_config
    experts = text.num_hidden_layers * text.num_experts * 3 * text.hidden_size
    experts *= text.moe_intermediate_size * 4
    assert many["experts"] == pytest.approx(experts)
    assert one["experts"] == pytest.approx(experts * text.num_experts_per_tok / text.num_experts)
    assert one["lm_head"] == 4 * text.vocab_size * text.hidden_size
    keys = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert many["keys_and_values"] == 1000 * 10 * keys
