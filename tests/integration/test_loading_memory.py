"""Loading a checkpoint of 2 GB takes little more memory of its own than the checkpoint itself.

Measured in a child process, every 2 ms while it loads: its anonymous and shared resident memory
(RssAnon + RssShmem), less what it had after the imports. Pages of the checkpoint's file that are
mapped and were read (RssFile) are printed but not counted: they are the page cache, which the
kernel takes back when memory is short. Where nothing is short they come on top, once the file's
size, and tools that show the whole resident set show both.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aes.model import ModelSpec
from aes.model.nano import build_nano

_CHILD = """
import sys
import threading
from pathlib import Path
import torch
from transformers import Qwen3VLMoeForConditionalGeneration
from aes.model.loading import load_base

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return (kib["RssAnon:"] + kib["RssShmem:"]) * 1024, kib["RssFile:"] * 1024

before, (own, file), done = resident(), (0, 0), threading.Event()

def watch():
    global own, file
    while not done.wait(0.002):
        own, file = map(max, (own, file), resident())

watcher = threading.Thread(target=watch)
watcher.start()
model = load_base(Path(sys.argv[1]), dtype=torch.float32)
done.set()
watcher.join()
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(own - before[0], file - before[1], size)
"""


@pytest.fixture(scope="module")
def big_checkpoint(nano_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, most of them in experts, as in the real MoE."""
    text = dataclasses.replace(
        nano_spec.text,
        num_layers=8,
        hidden_size=512,
        num_experts=32,
        expert_intermediate_size=1200,
        vocab_size=8192,
    )
    folder = tmp_path_factory.mktemp("big")
    build_nano(dataclasses.replace(nano_spec, text=text), folder)
    return folder


@pytest.mark.command
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_of_loading(big_checkpoint: Path) -> None:
    size = (big_checkpoint / "model.safetensors").stat().st_size
    assert size > 1.8e9
    out = subprocess.run(
        [sys.executable, "-c", _CHILD, str(big_checkpoint)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    peak, _file, weights = map(int, out.stdout.split()[-3:])
    assert weights == pytest.approx(size, rel=0.01)
    assert peak > 0.9 * size, "the weights are not in memory, so the peak was missed"
    assert peak < 1.3 * size
