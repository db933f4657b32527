"""Each mistake on the command line: exit status 1, one sentence, nothing on disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aes.cli.entry import main
from aes.cli.settings import Settings
from aes.cli.source import CONFIG_DIR

TRAIN = CONFIG_DIR.parent / "train.py"

MISTAKES = [
    ("optim.lrr=1", "did you mean optim.lr?"),
    ("lr=1e-4", "did you mean optim.lr?"),
    ("max_step=5", "did you mean trainer.max_steps?"),
    ("adaptor.rank=4", "did you mean adapter.rank?"),
    ("+optim.foo=1", "optim.foo is not a setting"),
    ("+foo=1", "foo is not a setting"),
    ("+seeed=1", "did you mean seed?"),
    ("modle=nano", "did you mean model?"),
    ("model=qwen3_vl_30b", "did you mean model=qwen3_vl_30b_a3b"),
    ("model=3", "choose one of nano"),
    ("model=[nano]", "write model=NAME"),
    ("experiment=zz", "experiment=zz is not an option"),
    ("adapter=none adapter.rank=8", "adapter.rank is not a setting of adapter=none"),
    ("data.root=DIR", "data.root is not a setting of data=sample; data=aes_dataset or data=alpaca"),
    ("data=aes_dataset", "data.root is not set; give it as data.root="),
    ("+callbacks.checkpont.monitor=x", "did you mean callbacks.checkpoint?"),
    ("~optim.lr", "optim.lr is missing"),
    ("~optim", "optim is missing"),
    ("adapter.rank=0", "adapter.rank: must be at least 1, got 0"),
    ("adapter.rank=0 adapter.alpha=-1", "(1 more to correct)"),
    ("trainer.max_steps=-1", "trainer.max_steps: must be at least 0, got -1"),
    ("trainer.max_steps=0", "trainer.max_steps=0 would train nothing; it is there to make a run"),
    ("seed=-1", "seed: must be at least 0, got -1"),
    ("check_only=maybe", "check_only: must be true or false"),
    ("global_batch_size=2.5", "global_batch_size: must be a whole number"),
    ("global_batch_size=6", "make it a multiple of 4"),
    ("adapter=lora_experts model=qwen3_vl_2b", "adapter.targets names experts"),
    ("adapter=lora_experts adapter.dropout=0.1", "adapter.dropout: must be 0"),
    ("kernels.experts=frozen adapter=lora_experts", "this adapter trains them"),
    ("kernels.experts=grouped_mm model=qwen3_vl_2b", "would do nothing, since this model is dense"),
    ("kernels.compile=layers hardware=cpux2 strategy=fsdp2", "go with strategy=fsdp2"),
    ("hardware=h800x4", "choose strategy=ddp, zero2, zero3 or fsdp2"),
    ("hardware=h800x4 strategy=zero2", "only plan the run with check_only=true"),
    ("seed=1,2", "add -m"),
    ("seed=range(3)", "add -m"),
    ("foo", "a setting is written key=value"),
    ("model.path=[a(b", "quote a value with special characters"),
    ("optim.lr=${foo}", "optim.lr: Interpolation key 'foo' not found"),
    ("+optim.lr=1", "leave out the +"),
    ("hydra.job.chdir=true", "has no effect on a single run"),
    ("hydra.run.dir=a run_dir=b", "run_dir cannot be combined"),
    ("--foo", "--foo is not a flag"),
    ("--cfg jobs", "invalid choice: 'jobs'"),
    ("--cfg job optim.lrr=1", "did you mean optim.lr?"),
    ("-m adapter.rank=4,0", "adapter.rank: must be at least 1, got 0"),
    ("-m seed=1,2 run_dir=a", "run_dir cannot be combined"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(
    monkeypatch: pytest.MonkeyPatch, *argv: str, status: int = 0
) -> tuple[int, list[Settings]]:
    """Runs the entry in this process; returns its exit status and the settings of each run."""
    runs: list[Settings] = []

    def run(settings: Settings) -> int:
        runs.append(settings)
        return status

    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    with pytest.raises(SystemExit) as exit_:
        main("train", run)
    return int(exit_.value.code or 0), runs


@pytest.mark.parametrize(("command_line", "words"), MISTAKES, ids=lambda value: value)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    command_line: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    empty_folder: Path,
) -> None:
    status, runs = started(monkeypatch, *command_line.split())
    stderr = capfd.readouterr().err
    assert (status, runs) == (1, [])
    assert words in stderr
    assert stderr.startswith("Error: ")
    assert stderr.count("\n") == 1
    assert list(empty_folder.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a CUDA device would be found")
def test_a_gpu_is_needed_for_a_run_but_not_for_a_plan(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert started(monkeypatch, "hardware=h800x1")[0] == 1
    assert "hardware=h800x1 needs a CUDA device" in capfd.readouterr().err
    status, runs = started(monkeypatch, "hardware=h800x1", "check_only=true")
    assert status == 0
    assert runs[0].check_only


@pytest.mark.parametrize("arguments", ["optim.lrr=1", "model=qwen3_vl_30b", "+foo=1", "seed=-1"])
def test_the_real_program_says_one_line(arguments: str, empty_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TRAIN), *arguments.split()],
        capture_output=True,
        text=True,
        cwd=empty_folder,
        env={key: value for key, value in os.environ.items() if key != "AES_TRACEBACK"},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list(empty_folder.iterdir()) == []


def test_the_settings_reach_the_run_and_its_status_comes_back(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    status, (settings,) = started(monkeypatch, "run_dir=mine", "adapter.rank=4", status=7)
    assert status == 7
    assert settings.run_dir == empty_folder / "mine"
    assert settings.run_dir_is_fixed
    assert list(empty_folder.iterdir()) == []


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def run(settings: Settings) -> int:
        raise error

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as exit_:
        main("train", run)
    return int(exit_.value.code or 0)


def test_ctrl_c_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert failing(monkeypatch, KeyboardInterrupt()) == 130
    assert capfd.readouterr().err.count("\n") == 1


def test_a_full_disk_is_a_sentence_with_the_path(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "checkpoints/last")
    assert failing(monkeypatch, full) == 1
    assert "checkpoints/last: No space left on device; free some" in capfd.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not ours"):
        failing(monkeypatch, ValueError("not ours"))


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AES_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=-1"])
    with pytest.raises(ValueError, match="seed: must be at least 0"):
        main("train", lambda settings: 0)


def test_help_comes_without_the_heavy_libraries(empty_folder: Path) -> None:
    program = (
        "import runpy, sys; sys.argv = ['train.py', '--help']\n"
        f"try: runpy.run_path({str(TRAIN)!r}, run_name='__main__')\n"
        "finally: print(sorted({'torch', 'transformers', 'lightning'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=empty_folder
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "adapter: lora" in done.stdout
    assert "python train.py data=aes_dataset data.root=DIR" in done.stdout
