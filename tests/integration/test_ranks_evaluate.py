"""``evaluate.py`` and ``predict.py`` as several ranks: each essay once, in order, graded alike."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SENTENCE = "我们沿着小河走到公园，看见柳树发了芽。"
TWO_RANKS = "hardware=cpux2"
# Who shares a batch changes a grade in its last digits; alone, grades are equal to the bit.
ALONE = "decoding.batch_size=1"


@pytest.fixture
def environment(session_cache: Path) -> dict[str, str]:
    return os.environ | {"AES_CACHE": str(session_cache), "OMP_NUM_THREADS": "1"}


def run_command(
    command: str, *args: str, environment: dict[str, str], torchrun: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    program = (sys.executable, "-m", "torch.distributed.run", *torchrun) if torchrun else ()
    return subprocess.run(
        [*(program or (sys.executable,)), str(ROOT / f"{command}.py"), *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def start_and_kill(
    command: str, *args: str, path: Path, num_lines: int, environment: dict[str, str]
) -> None:
    """Kills the command when ``path`` and the parts beside it hold ``num_lines``."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / f"{command}.py"), *args],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while sum(file.read_bytes().count(b"\n") for file in with_parts(path)) < num_lines:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for_ranks(args)


def wait_for_ranks(args: Sequence[str]) -> None:
    """Ranks end by themselves when their parent is gone."""
    deadline = time.monotonic() + 30
    while any(_is_of(Path(entry), args) for entry in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline, "a rank outlived its parent"
        time.sleep(0.1)


def _is_of(process: Path, args: Sequence[str]) -> bool:
    try:
        return set(args) <= set((process / "cmdline").read_text().split("\0"))
    except OSError:
        return False


def with_parts(path: Path) -> list[Path]:
    return [file for file in (path, *path.parent.glob(f".{path.name}.rank*")) if file.is_file()]


def lines_of(path: Path, *left_out: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [{k: v for k, v in line.items() if k not in ("seconds", *left_out)} for line in lines]


def metrics_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return values


def assert_same_evaluation(several: Path, one: Path) -> None:
    """Equal grades, order, metrics and files, and nothing more."""
    files = {path.name for path in one.rglob("*") if path.is_file()}
    assert {path.name for path in several.rglob("*") if path.is_file()} == files
    for name in sorted(name for name in files if name.startswith("predictions")):
        if name.endswith(".jsonl"):
            assert lines_of(several / name) == lines_of(one / name), name
    assert metrics_of(several) == metrics_of(one)


@pytest.mark.command
def test_two_ranks_evaluate_as_one(
    evaluate: Callable[..., int], trained_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Also what three ranks left of it: five of twelve essays, two of them in a part."""
    options = (f"run={trained_run}", ALONE, "num_resamples=20", "decoding.max_feedback_tokens=4")
    one, two = tmp_path / "one", tmp_path / "two"
    assert evaluate(*options, f"out={one}") == 0
    whole = (one / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    two.mkdir()
    shutil.copy(one / "predictions.settings.json", two)
    (two / "predictions.jsonl").write_bytes(b"".join(whole[1:4]))
    (two / ".predictions.jsonl.rank2").write_bytes(b"".join(whole[7:9]) + whole[9][:40])
    done = run_command("evaluate", *options, f"out={two}", TWO_RANKS, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1, "one rank alone speaks"
    assert_same_evaluation(two, one)
    seconds = [json.loads(line)["seconds"] for line in (two / "predictions.jsonl").open()]
    timing = json.loads((two / "predict_results.json").read_text())
    assert timing["predict_runtime"] == pytest.approx(sum(seconds), abs=1e-2)
    kept = [json.loads(line)["seconds"] for line in (*whole[1:4], *whole[7:9])]
    assert seconds[1:4] + seconds[7:9] == kept, "what was graded was graded again"


@pytest.mark.slow
def test_all_that_is_graded_is_graded_by_all_ranks(
    evaluate: Callable[..., int],
    trained_run: Path,
    train_once: Callable[..., Path],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Without the adapter, changed copies, and a second run; then the same under torchrun."""
    second = train_once("other", "seed=2", "data.split_seed=1")
    asked = ("baseline=true", "suite=robustness", "suite.num_essays=1", f"second={second}")
    quick = (ALONE, "num_resamples=20", "decoding.max_feedback_tokens=4")
    options = (f"run={trained_run}", *asked, *quick)
    assert evaluate(*options, f"out={tmp_path / 'one'}") == 0
    for name, torchrun in (("two", ()), ("torchrun", ("--nproc-per-node=2", "--standalone"))):
        out = tmp_path / name
        done = run_command(
            "evaluate",
            *options,
            f"out={out}",
            TWO_RANKS,
            environment=environment,
            torchrun=torchrun,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report.html") == 1
        assert_same_evaluation(out, tmp_path / "one")


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_another_number_of_ranks(
    evaluate: Callable[..., int], trained_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    options = (f"run={trained_run}", ALONE, "num_resamples=0", "decoding.max_feedback_tokens=32")
    one, killed = tmp_path / "one", tmp_path / "killed"
    path, more = killed / "predictions.jsonl", (*options, f"out={killed}")
    kept: list[dict[str, Any]] = []
    for ranks, num_lines in ((TWO_RANKS, 3), ("hardware=cpu", 6), (TWO_RANKS, 9)):
        start_and_kill(
            "evaluate", *more, ranks, path=path, num_lines=num_lines, environment=environment
        )
        now = [json.loads(line) for file in with_parts(path) for line in whole_lines(file)]
        assert all(line in now for line in kept), "what was graded was lost, or graded again"
        assert len({line["id"] for line in now}) == len(now) >= num_lines
        kept = now
    assert not (killed / "metrics.json").exists()
    assert len(kept) < 12
    for out in (one, killed):
        assert evaluate(*options, f"out={out}") == 0
    assert_same_evaluation(killed, one)


def whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def write_essays(folder: Path) -> Path:
    """Eleven essays, three of which cannot be read."""
    folder.mkdir()
    for number in range(2, 10):
        text = f"春游\n{SENTENCE * number}\n"
        (folder / f"e{number}.txt").write_text(text, encoding="utf-8")
    (folder / "a.png").touch()
    (folder / "e4.docx").write_bytes(b"PK")
    (folder / "z.txt").touch()
    return folder


@pytest.mark.slow
def test_two_ranks_predict_as_one(
    predict: Callable[..., int], trained_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    essays = write_essays(tmp_path / "in")

    def command(name: str) -> tuple[str, ...]:
        options = (ALONE, "decoding.max_feedback_tokens=32", "feedback=true")
        return (f"run={trained_run}", f"input={essays}", f"output={tmp_path / name}", *options)

    one, two, killed = (tmp_path / name for name in ("one.jsonl", "two.jsonl", "killed.jsonl"))
    assert predict(*command("one.jsonl")) == 0
    done = run_command("predict", *command("two.xlsx"), TWO_RANKS, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("8 essays graded, 3 could not be") == 1
    assert lines_of(two, "time") == lines_of(one, "time")
    start_and_kill(
        "predict",
        *command("killed.jsonl"),
        TWO_RANKS,
        path=killed,
        num_lines=7,
        environment=environment,
    )
    kept = [line for file in with_parts(killed) for line in whole_lines(file)]
    kept = [line for line in kept if b'"error": null' in line]
    assert predict(*command("killed.jsonl")) == 0
    assert set(kept) < set(whole_lines(killed)), "what was graded was lost, or graded again"
    assert lines_of(killed, "time") == lines_of(one, "time")
    shown = {path.name for path in tmp_path.iterdir()}
    assert shown == {"in", "one.jsonl", "two.jsonl", "two.xlsx", "killed.jsonl"}


@pytest.mark.slow
def test_a_mistake_is_told_once(
    trained_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run = f"run={trained_run}"
    for command, options, reason in (
        ("evaluate", ("split=all", "data.min_chars=5000"), "28 problems"),
        ("predict", (f"input={tmp_path / 'gone'}", f"output={tmp_path / 'o.jsonl'}"), "gone"),
    ):
        done = run_command(command, run, *options, TWO_RANKS, environment=environment)
        assert done.returncode == 1
        assert done.stderr.count("Error: ") == done.stderr.count("\n") == 1, done.stderr
        assert reason in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_question_is_answered_by_one(
    trained_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(SENTENCE, encoding="utf-8")
    options = (f"run={trained_run}", f"input={tmp_path / 'a.txt'}", "question=写了什么？")
    done = run_command(
        "predict", *options, TWO_RANKS, "decoding.max_answer_tokens=4", environment=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
