"""Mistakes that only a whole command meets: exit status 1, one sentence on stderr, no run left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"
QUICK = ("trainer.max_steps=1", "logger=none", "hardware.num_workers=0")
FEW_SAMPLES = "data.copies=2"
BYTES_PER_GIB = 2**30

pytestmark = pytest.mark.command

Refused = Callable[..., str]


def _check_refusal(stderr: str, words: tuple[str, ...]) -> None:
    assert stderr.startswith("Error: "), stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert "Traceback" not in stderr
    for word in words:
        assert word in stderr


@pytest.fixture(scope="module", autouse=True)
def quiet_libraries() -> None:
    """As a command has them, which imports them later than the other tests do."""
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@pytest.fixture
def refused(
    train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Refused]:
    """Runs a command that must be refused in the named words; returns what stdout said."""

    def command(*args: str, words: tuple[str, ...], run_dir: str = "run") -> str:
        existing = set(tmp_path.rglob("*"))
        capfd.readouterr()
        assert train(*QUICK, f"run_dir={run_dir}", *args) == 1
        stdout, stderr = capfd.readouterr()
        _check_refusal(stderr, words)
        assert set(tmp_path.rglob("*")) == existing, "the run left something behind"
        return stdout

    yield command


@pytest.fixture
def checkpoint(nano_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the nano's folder, to be broken."""
    return shutil.copytree(nano_checkpoint, tmp_path / "model")


@pytest.fixture
def essays(essay_folder: Path, tmp_path: Path) -> Path:
    """A copy of a sound data set, to be broken."""
    return shutil.copytree(essay_folder, tmp_path / "data")


# Models


@pytest.mark.parametrize("path", ["/nonexistent", "models/"])
def test_a_model_folder_that_is_not_there(refused: Refused, path: str) -> None:
    refused(
        "model=qwen3_vl_2b",
        f"model.path={path}",
        FEW_SAMPLES,
        words=(f"model.path={path} is not a folder", "give a hub id"),
    )


def test_a_model_folder_without_config(refused: Refused, checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    words = (f"model.path={checkpoint} holds no config.json", "point it at")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


@pytest.mark.parametrize("has_own_tokenizer", [False, True])
def test_a_checkpoint_of_another_architecture(
    refused: Refused, checkpoint: Path, has_own_tokenizer: bool
) -> None:
    """Its own tokenizer lacks the tokens that stand for pages."""
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    (checkpoint / "config.json").write_text(json.dumps(config))
    if has_own_tokenizer:
        _take_special_tokens_away(checkpoint)
    words = (f"model.path={checkpoint}", "holds a llama model", "choose the model= option")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


def _take_special_tokens_away(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        for key in ("added_tokens", "added_tokens_decoder", "additional_special_tokens"):
            if key in values:
                values[key] = type(values[key])()
        (folder / name).write_text(json.dumps(values), encoding="utf-8")


def test_a_dense_checkpoint_under_a_moe_configuration(refused: Refused, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["model_type"] = "qwen3_vl"
    config["text_config"]["model_type"] = "qwen3_vl_text"
    config["vision_config"]["model_type"] = "qwen3_vl"
    (checkpoint / "config.json").write_text(json.dumps(config))
    words = (f"model.path={checkpoint}", "a qwen3_vl model", "is for qwen3_vl_moe", "model=")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


def test_weights_that_are_cut_short(refused: Refused, checkpoint: Path) -> None:
    whole = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    words = (f"the weights in {checkpoint} cannot be read", "download them again")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


def test_a_weight_is_missing(refused: Refused, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    del tensors["lm_head.weight"]
    save_file(tensors, checkpoint / WEIGHTS, metadata={"format": "pt"})
    words = (f"the checkpoint in {checkpoint}", "1 missing (such as lm_head.weight)", "incomplete")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


def test_a_weight_is_left_over(refused: Refused, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    tensors["model.language_model.extra.weight"] = torch.zeros(2)
    save_file(tensors, checkpoint / WEIGHTS, metadata={"format": "pt"})
    words = (f"the checkpoint in {checkpoint}", "1 unexpected (such as", "extra.weight")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


# Data


@pytest.mark.parametrize("policy", ["error", "drop", "shrink"])
def test_a_limit_below_the_prompt(refused: Refused, policy: str) -> None:
    args = ("data.max_tokens=64", f"data.on_overlong={policy}", FEW_SAMPLES)
    refused(*args, words=("this run cannot work", "data.max_tokens=64", "raise"))


def test_an_empty_data_set(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "data" / "essays").mkdir(parents=True)
    (tmp_path / "data" / "scores.txt").touch()
    words = (str(tmp_path / "data" / "essays"), "neither .txt files nor images", "set data.root")
    refused("data=aes_dataset", "data.root=data", words=words)


def test_an_empty_list_of_scores(refused: Refused, essays: Path) -> None:
    (essays / "scores.txt").write_bytes(b"")
    words = (f"{essays / 'scores.txt'} has no row", "set data.root")
    refused("data=aes_dataset", f"data.root={essays}", words=words)


@pytest.mark.parametrize("missing", ["", "essays", "scores.txt"])
def test_a_part_of_the_data_set_is_missing(refused: Refused, essays: Path, missing: str) -> None:
    gone = essays / missing
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    words = ("There is no", f" {gone}: ", "set data.root")
    refused("data=aes_dataset", f"data.root={essays}", words=words)


def _broken_png(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no chunk" * 8)


def _cut_jpeg(path: Path) -> None:
    Image.effect_noise((320, 480), 80).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def _bomb(path: Path) -> None:
    """A few bytes that claim to be 50000 x 50000 px."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(
    ("spoil", "suffix"), [(_broken_png, ".png"), (_cut_jpeg, ".jpg"), (_bomb, ".png")]
)
def test_a_page_that_cannot_be_opened(
    refused: Refused, essays: Path, spoil: Callable[[Path], None], suffix: str
) -> None:
    text = min((essays / "essays").iterdir())
    text.unlink()
    page = text.with_suffix(suffix)
    spoil(page)
    words = ("the data has 1 problem", "data.on_problem=drop")
    args = ("data=aes_dataset", f"data.root={essays}", "data.on_problem=error")
    listed = refused(*args, words=words)
    assert page.name in listed
    assert "unreadable_page" in listed


# Settings that only together, or only here, make no sense


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            "global_batch_size=6",
            ("global_batch_size=6", "make it a multiple of 4", "hardware.micro_batch_size"),
        ),
        ("hardware=h800x4", ("strategy=single", "hardware=h800x4", "choose strategy=ddp")),
        (
            "hardware=h800x4 strategy=zero2",
            ("hardware=h800x4 needs a CUDA device", "check_only=true"),
        ),
        ("strategy=zero2", ("strategy=zero2 would do nothing", "use strategy=single")),
        ("page.min_pixels=1024", ("page.min_pixels=1024", "set model.min_pixels=65536")),
        ("adapter.rank=0", ("adapter.rank: must be at least 1, got 0",)),
        ("trainer.max_stepz=3", ("trainer.max_stepz", "did you mean trainer.max_steps?")),
        ("optim.lr=fast", ('optim.lr: must be a number, got "fast"',)),
        ("page=parchment", ("page=parchment is not an option", "squared_paper")),
        (
            "+optim.lr_factors.lm_head=0.1",
            ("optim.lr_factors names lm_head", "adapter.modules_to_save"),
        ),
        (
            "callbacks.checkpoint.monitor=val/nothing",
            ("callbacks.checkpoint.monitor: must be one of", "val/qwk/total", "got val/nothing"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_cannot_work(refused: Refused, args: str, words: tuple[str, ...]) -> None:
    refused(*args.split(), FEW_SAMPLES, words=words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a CUDA device would be found")
def test_a_gpu_that_is_not_there(refused: Refused) -> None:
    words = ("hardware=h800x1 needs a CUDA device", "use hardware=cpu", "check_only=true")
    refused("hardware=h800x1", FEW_SAMPLES, words=words)


# Run directories


def test_a_used_run_directory_keeps_its_content(refused: Refused, tmp_path: Path) -> None:
    kept = tmp_path / "run" / "checkpoints" / "step-00000001" / "state.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    refused(FEW_SAMPLES, words=(f"{tmp_path / 'run'} is in use already", "another run_dir="))
    assert kept.read_text() == "mine"


def test_a_used_run_directory_is_refused_before_a_model_is_loaded(
    refused: Refused, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    (checkpoint / WEIGHTS).unlink()
    words = (f"{tmp_path / 'run'} is in use already", "another run_dir=")
    refused(f"model.path={checkpoint}", FEW_SAMPLES, words=words)


def test_a_file_where_the_parent_of_the_run_directory_should_be(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    words = (f"run directory {tmp_path / 'file' / 'run'}", "choose another place with run_dir=")
    refused(FEW_SAMPLES, run_dir="file/run", words=words)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere, whatever chmod says")
def test_a_parent_that_must_not_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    words = (str(tmp_path / "locked" / "run"), "choose another place with run_dir=")
    refused(FEW_SAMPLES, run_dir="locked/run", words=words)


def test_no_free_disk(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is patched: a test cannot fill the disk that it runs on."""
    usage = namedtuple("usage", "total used free")
    almost_full = usage(BYTES_PER_GIB, BYTES_PER_GIB - 4096, 4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: almost_full)
    words = (f"{tmp_path / 'run'} needs", "MiB are free", "run_dir=DIR")
    refused(FEW_SAMPLES, words=words)


# The program itself, in a process of its own


@pytest.fixture
def start(session_cache: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``train.py`` in an empty folder, as the leader of its own group of processes."""
    started: list[subprocess.Popen[str]] = []
    environment = {key: value for key, value in os.environ.items() if key != "AES_TRACEBACK"}

    def command(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), "logger=none", FEW_SAMPLES, *args],
            cwd=tmp_path,
            env=environment | {"AES_CACHE": str(session_cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Tests that a script started in the background would pass an ignored Ctrl-C on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield command
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_program_says_one_line_about_broken_weights(
    start: Callable[..., subprocess.Popen[str]], checkpoint: Path, tmp_path: Path
) -> None:
    with (checkpoint / WEIGHTS).open("r+b") as file:
        file.truncate(1000)
    process = start(f"model.path={checkpoint}")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    _check_refusal(stderr, (f"the weights in {checkpoint} cannot be read", "download them again"))
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_ctrl_c_in_training_is_no_crash(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("trainer.max_epochs=1000", "run_dir=run")
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "step 1/" in line:
            break
    else:
        pytest.fail("".join(said))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: loader processes get it too
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    saved, stopped = stderr.splitlines()
    assert re.fullmatch(r"step \d+ is saved; .* resume=auto goes on", saved)
    assert stopped == "Stopped by Ctrl-C."
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
