"""A rank that loads a checkpoint of 2 GB for two ranks never holds it whole.

Measured in each rank as in ``test_loading_memory.py``: anonymous and shared resident memory. What
a rank needs beside its half are a few copies of the largest tensor: as it is read, turned, sent.
"""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aes.cli.launch import run_ranks
from aes.model import ModelSpec
from aes.model.nano import build_nano

pytestmark = pytest.mark.slow

_RANK = """
import json, pickle, sys, threading
from dataclasses import replace
from pathlib import Path
import lightning.pytorch, peft, torch
from transformers import Qwen3VLMoeForConditionalGeneration
from aes.hardware import StrategySpec
from aes.model import LoraSpec
from aes.model.loading import load_model
from aes.model.zero import start_deepspeed
from aes.ranks import find_ranks

spec, name, out = pickle.loads(Path(sys.argv[1]).read_bytes()), sys.argv[2], Path(sys.argv[3])
ranks = find_ranks()
ranks.connect("cpu")
if name != "fsdp2":
    start_deepspeed(ranks, "cpu")

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return (kib["RssAnon:"] + kib["RssShmem:"]) * 1024

before = most = resident()
done = threading.Event()

def watch():
    global most
    while not done.wait(0.002):
        most = max(most, resident())

watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(
    spec,
    LoraSpec(
        rank=8, alpha=16, dropout=0.0, targets=("attention",), modules_to_save=(), init_from=None
    ),
    cache=out, precision="fp32", accelerator="cpu", gradient_checkpointing="none", seed=1,
    strategy=StrategySpec(name=name), ranks=ranks,
)
done.set()
watcher.join()
parts = [getattr(p, "ds_tensor", getattr(p, "_local_tensor", p)) for p in model.parameters()]
shapes = [getattr(p, "ds_numel", p.numel()) for p in model.parameters()]
found = {
    "peak": most - before,
    "after": resident() - before,
    "held": sum(p.numel() for p in parts) * 4,
    "largest": max(shapes) * 4,
}
(out / f"{ranks.rank}.json").write_text(json.dumps(found))
ranks.disconnect()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_no_rank_holds_the_model(name: str, nano_spec: ModelSpec, tmp_path: Path) -> None:
    text = replace(
        nano_spec.text,
        num_layers=8,
        hidden_size=512,
        num_experts=32,
        expert_intermediate_size=1200,
        vocab_size=8192,
    )
    spec = replace(nano_spec, text=text)
    folder = tmp_path / "big"
    folder.mkdir()
    build_nano(spec, folder)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 1.8e9
    (tmp_path / "spec").write_bytes(pickle.dumps(replace(spec, path=str(folder))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        line = [sys.executable, "-c", _RANK, str(tmp_path / "spec"), name, str(tmp_path)]
        assert run_ranks(line, 2) == 0
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["held"] == pytest.approx(size / 2, rel=0.03)
        assert found["peak"] > 0.45 * size, "the weights are not in memory, so the peak was missed"
        assert found["peak"] < size / 2 + 4 * found["largest"] + 1e8, found
        print(name, rank, found, size)  # noqa: T201 (with -s: what was measured)
