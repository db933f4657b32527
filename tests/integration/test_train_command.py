"""``python train.py`` from the command line to what it leaves behind."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from aes.corpus.sample_corpus import load_sample

ROOT = Path(__file__).parents[2]
REAL_DATA = ROOT.parent / "shared" / "data" / "AES_Dataset"
NUM_STEPS = 6
SNIPPET_CHARS = 12
STEP_KEYS = {
    "step",
    "epoch",
    "loss",
    "lr",
    "tokens_per_s",
    "data_wait_share",
    "elapsed_s",
    "remaining_s",
    "peak_memory_gib",
    "vision_cache_hits",
}
FEW_SAMPLES = "data.copies=2"

pytestmark = pytest.mark.command


@dataclass(frozen=True)
class Finished:
    """A run of the command in a process of its own."""

    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Finished:
    """The default command, cut short, in an otherwise empty folder."""
    place = tmp_path_factory.mktemp("place")
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", f"trainer.max_steps={NUM_STEPS}", FEW_SAMPLES],
        cwd=place,
        env=os.environ | {"AES_CACHE": str(session_cache)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = (place / "outputs").glob("*/*")
    assert [p.name for p in place.iterdir()] == ["outputs"]
    return Finished(run_dir, done.stdout, done.stderr)


def test_run_directory_holds_what_the_readme_lists(finished: Finished) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "config.yaml",
        "check.json",
        "plan.json",
        "metrics.jsonl",
        "metrics.json",
        "training_loss.png",
        "samples.html",
        "adapter",
        "checkpoints",
        "wandb",
    }
    assert not [name for name in names if name.startswith(".")], "something was left half-written"
    assert {p.name for p in (finished.folder / "checkpoints").iterdir()} == {
        "best",
        "step-00000005",
        "step-00000006",
    }
    assert {p.name for p in (finished.folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "grading.json",
    }
    assert list((finished.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert (finished.folder / "training_loss.png").read_bytes().startswith(b"\x89PNG")


def test_config_holds_choices_and_resolved_values(finished: Finished) -> None:
    saved = yaml.safe_load((finished.folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved["choices"]["model"] == "nano"
    assert saved["config"]["trainer"]["max_steps"] == NUM_STEPS
    assert "${" not in json.dumps(saved)


def test_metrics_are_logged_by_step(finished: Finished) -> None:
    lines = (finished.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 5, NUM_STEPS]
    assert all(set(line) == STEP_KEYS for line in steps)
    metrics = json.loads((finished.folder / "metrics.json").read_text(encoding="utf-8"))
    traits = {f"val/qwk/{t}" for t in ("content", "structure", "language", "creativity", "format")}
    assert set(metrics) >= traits | {"val/qwk/total", "val/parse_rate", "baseline/length_ridge/qwk"}
    assert metrics["val/parse_rate"] == 1


def test_check_lists_problems_and_counts(finished: Finished) -> None:
    check = json.loads((finished.folder / "check.json").read_text(encoding="utf-8"))
    assert check["problems"] == []
    assert check["counts"]["read"] == check["counts"]["kept"] == len(load_sample())


def test_card_names_the_run_and_what_the_numbers_are(finished: Finished) -> None:
    assert str(finished.folder) in finished.stdout
    assert "SAMPLE" in finished.stdout
    assert "Traceback" not in finished.stderr
    assert "Warning" not in finished.stderr


def test_commands_of_the_card_work(
    finished: Finished,
    train: Callable[..., int],
    evaluate: Callable[..., int],
    essay_folder: Path,
    tmp_path: Path,
) -> None:
    _, _, rest = finished.stdout.partition("try next\n")
    commands = [line.strip() for line in rest.splitlines() if line.strip()]
    assert commands
    for command in commands:
        python, script, *args = shlex.split(
            command.replace("=DIR", f"={shlex.quote(str(essay_folder))}")
        )
        assert python == "python", command
        if script == "evaluate.py":
            assert evaluate(*args, f"out={tmp_path / 'out'}", "num_resamples=0") == 0, command
        else:
            assert script == "train.py", command
            assert train(*args, "check_only=true") == 0, command


def test_no_essay_text_in_logs(finished: Finished) -> None:
    logs = [p for ext in ("log", "jsonl") for p in finished.folder.rglob(f"*.{ext}")]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in logs]
    assert logs
    for text in (finished.stdout, finished.stderr, *texts):
        assert not set(_snippets(text)) & _sample_snippets()


def _sample_snippets() -> set[str]:
    return {s for essay in load_sample() for p in essay.text.split("\n") for s in _snippets(p)}


def _snippets(text: str) -> Iterable[str]:
    return (text[i : i + SNIPPET_CHARS] for i in range(len(text) - SNIPPET_CHARS + 1))


@pytest.mark.parametrize(
    "choice",
    [
        "logger=csv",
        pytest.param("page=squared_paper", marks=pytest.mark.slow),
        pytest.param("page=scan", marks=pytest.mark.slow),
        "page=none",
        "adapter=none",
        "adapter=lora_experts",
        pytest.param("loss=ce", marks=pytest.mark.slow),
        pytest.param("decoding=greedy", marks=pytest.mark.slow),
        pytest.param("kernels.compile=layers", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_run_trains(
    choice: str, train: Callable[..., int], cheap: tuple[str, ...], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert train(*cheap, FEW_SAMPLES, choice, f"run_dir={run_dir}") == 0
    assert (run_dir / ("model" if choice == "adapter=none" else "adapter")).is_dir()
    assert json.loads((run_dir / "metrics.json").read_text())["val/parse_rate"] == 1
    assert (run_dir / "csv" / "metrics.csv").is_file() == (choice == "logger=csv")
    assert not (run_dir / "wandb").exists()


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data set is not beside the checkout")
def test_real_data_set_trains(
    train: Callable[..., int], cheap: tuple[str, ...], tmp_path: Path
) -> None:
    root = f"data.root={REAL_DATA}"
    assert train("data=aes_dataset", root, *cheap, f"run_dir={tmp_path / 'run'}") == 0
    check = json.loads((tmp_path / "run" / "check.json").read_text(encoding="utf-8"))
    assert check["counts"]["read"] == 300
    assert check["problems"], "the real data set has known defects"


def test_a_mistake_leaves_nothing_behind(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("adapter.rank=0", f"run_dir={tmp_path / 'run'}") == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: adapter.rank: must be at least 1")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_used_run_directory_is_not_touched(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert train(FEW_SAMPLES, f"run_dir={tmp_path / 'run'}") == 1
    assert "is in use already" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]
