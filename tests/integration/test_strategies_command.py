"""``python train.py hardware=cpux2 strategy=zero2``: one step of two real ranks, no compiler."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.command
def test_one_step_of_zero2(session_cache: Path, cheap: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (*cheap, "trainer.max_steps=1", "hardware=cpux2", "strategy=zero2")
    done = subprocess.run(
        [sys.executable, str(_ROOT / "train.py"), *settings, f"run_dir={out}"],
        env=os.environ
        | {"AES_CACHE": str(session_cache), "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "deprecated" not in done.stderr and "deepspeed" not in done.stderr.lower()
    (line,) = [x for x in map(json.loads, (out / "metrics.jsonl").open()) if "loss" in x]
    assert line["step"] == 1
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.command
def test_experts_in_shards_are_refused_before_anything_starts(
    train: Callable[..., int], cheap: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("hardware=cpux2", "strategy=zero3", "adapter=lora_experts")
    assert train(*cheap, *settings) == 1
    assert "adapter.targets=experts" in capsys.readouterr().err
