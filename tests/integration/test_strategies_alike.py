"""All strategies train the same model: real processes, real DeepSpeed, gloo.

One process with micro-batches of 2 is the truth; two ranks with micro-batches of 1 accumulate as
often. Nine essays in steps of 4: the last step of each epoch is one essay, so that one rank has
nothing but a filler. Every strategy runs once and most tests read what it saw.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import concatenate_datasets

from aes.cli.launch import run_ranks
from aes.data import BatchingSpec
from aes.data.prepare import prepare
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.hardware import HardwareSpec, StrategySpec
from aes.inference import DecodingSpec, HfEngineSpec
from aes.model import KernelSpec, LoraSpec, ModelSpec
from aes.model.nano import nano_folder
from aes.model.spec import NoAdapterSpec
from aes.page import PageSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay
from aes.training import LossSpec, OptimSpec
from aes.training.spec import ExpectedLossSpec

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_SHARDED = ("zero3", "zero3_offload", "fsdp2")
_STRATEGIES = ("ddp", "zero2", *_SHARDED)
_NUM_STEPS = 20
_SAVED_AT = 6  # the end of the second epoch
_CLIP = 8.0  # between the norms that there are: some steps are clipped, so a factor would show

Seen = list[dict[str, Any]]
Run = Callable[..., Seen]


@pytest.fixture(scope="module")
def run(
    nano_spec: ModelSpec,
    nano_checkpoint: Path,
    builder: ExampleBuilder,
    processor: Processor,
    essays: tuple[Essay, ...],
    make_lora: Callable[..., LoraSpec],
    read_conf: Callable[..., dict[str, Any]],
    session_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Trains under a strategy; returns what each rank saw."""
    train, val = (
        prepare(
            part,
            builder=builder,
            processor=processor,
            max_tokens=2048,
            on_overlong="error",
            cache=session_cache,
            label="",
        )
        for part in (essays[:9], essays[9:])
    )

    def run_once(name: str, *, precision: str = "fp32", **changes: Any) -> Seen:
        folder = tmp_path_factory.mktemp(name)
        num_ranks = 1 if name == "single" else 2
        job = {
            "strategy": StrategySpec(name=name),  # type: ignore[arg-type]
            "hardware": HardwareSpec(
                **read_conf(
                    "hardware/cpu",
                    devices=num_ranks,
                    num_workers=0,
                    micro_batch_size=2 // num_ranks,
                    precision=precision,
                )
            ),
            "adapter": make_lora(modules_to_save=("visual.merger",)),
            "model": replace(nano_spec, path=str(nano_checkpoint)),
            "checkpoint": nano_checkpoint,
            "builder": builder,
            "engine": HfEngineSpec(**read_conf("engine/hf")),
            "decoding": DecodingSpec(
                **read_conf("decoding/expected", batch_size=2, max_feedback_tokens=2)
            ),
            "loss": LossSpec(name="valid_digits", feedback_weight=1.0),
            # AdamW hides a factor on the gradient; a large eps lets it through.
            "optim": OptimSpec(
                **read_conf(
                    "optim/adamw",
                    lr=5e-3,
                    eps=1e-3,
                    warmup_ratio=0.1,
                    weight_decay=0.01,
                    lr_factors={"visual.merger": 0.5},
                )
            ),
            "global_batch_size": 4,
            "num_steps": _NUM_STEPS,
            "clip": _CLIP,
            "train": train,
            "val": val,
            "folder": folder,
            **changes,
        }
        (folder / "job").write_bytes(pickle.dumps(job))
        line = [sys.executable, str(Path(__file__).with_name("strategy_rank.py"))]
        line.append(str(folder / "job"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(_ROOT))
            patch.setenv("PATH", os.path.dirname(sys.executable))  # no compiler  # noqa: PTH120
            status = subprocess.call(line) if num_ranks == 1 else run_ranks(line, num_ranks)
        assert status == 0
        return [
            {"folder": folder, **torch.load(folder / f"rank{rank}.pt", weights_only=False)}
            for rank in range(num_ranks)
        ]

    return run_once


@pytest.fixture(scope="module")
def seen(run: Run) -> Callable[[str], Seen]:
    """The run of 20 steps under a strategy."""
    return cache(lambda name: run(name, save_at=_SAVED_AT, base_loss=True))


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one["trained"].keys() == other["trained"].keys()
    return max(
        float((one["trained"][name] - value).abs().max())
        for name, value in other["trained"].items()
    )


def _flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_the_single_process_learns_and_clips_some_steps(seen: Callable[[str], Seen]) -> None:
    (single,) = seen("single")
    norms, losses = single["norms"], single["losses"]
    assert len(losses) == single["global_step"] == _NUM_STEPS
    assert sum(norm > _CLIP for norm in norms) >= 3
    assert sum(norm < _CLIP for norm in norms) >= 3
    assert max(losses) - min(losses) > 1
    assert any(float(t.abs().max()) > 1e-3 for n, t in single["trained"].items() if "lora_B" in n)
    assert losses[0] == pytest.approx(single["base_loss"], abs=1e-5)


@pytest.mark.parametrize("name", _STRATEGIES)
def test_a_strategy_trains_the_same_model(name: str, seen: Callable[[str], Seen]) -> None:
    (single,), ranks = seen("single"), seen(name)
    for rank in ranks:
        assert rank["lora_b_is_zero"]
        assert rank["global_step"] == _NUM_STEPS
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _flat(rank["rates"]) == pytest.approx(_flat(single["rates"]))
        assert _distance(rank, single) < 1e-5
    worst = max(abs(a - b) for a, b in zip(ranks[0]["losses"], single["losses"], strict=True))
    print(  # noqa: T201 (with -s: what was measured)
        f"{name}: losses {worst:.1e}, weights {_distance(ranks[0], single):.1e}, "
        f"{ranks[0]['s_per_step']:.2f} s a step, {ranks[0]['peak_gib']:.2f} GiB"
    )


@pytest.mark.parametrize("name", _STRATEGIES)
def test_validation_grades_each_essay_once(name: str, seen: Callable[[str], Seen]) -> None:
    """Three essays on two ranks."""
    (single,), ranks = seen("single"), seen(name)
    for rank in ranks:
        assert rank["num_graded"] == 3
        assert rank["grades"].keys() == single["grades"].keys()
        for essay, grade in single["grades"].items():
            assert rank["grades"][essay] == pytest.approx(grade, abs=1e-3)


@pytest.mark.parametrize("name", _STRATEGIES)
def test_a_rank_holds_its_part(name: str, seen: Callable[[str], Seen]) -> None:
    for rank in seen(name):
        share = rank["held"] / rank["whole"]
        assert share == (pytest.approx(0.5, abs=0.02) if name in _SHARDED else 1)


@pytest.mark.parametrize("name", _STRATEGIES)
def test_the_first_rank_saves_what_all_trained(name: str, seen: Callable[[str], Seen]) -> None:
    from safetensors.torch import load_file

    ranks = seen(name)
    folder = ranks[0]["folder"] / "adapter"
    saved = load_file(folder / "adapter_model.safetensors")
    assert len(saved) == len(ranks[0]["trained"])
    for key, value in ranks[0]["trained"].items():
        plain = key.replace(".default", "").replace("modules_to_save.", "")
        assert torch.equal(saved[plain], value), key


@pytest.mark.parametrize("name", _STRATEGIES)
def test_a_checkpoint_holds_what_is_trained_alone(name: str, seen: Callable[[str], Seen]) -> None:
    state = torch.load(seen(name)[0]["folder"] / "saved.ckpt", weights_only=False)
    (single,) = seen("single")
    truth = torch.load(single["folder"] / "saved.ckpt", weights_only=False)
    assert state["state_dict"].keys() == truth["state_dict"].keys()
    (ours,), (torchs,) = state["optimizer_states"], truth["optimizer_states"]
    assert ours["state"].keys() == torchs["state"].keys()
    for index, moments in torchs["state"].items():
        for key, value in moments.items():
            torch.testing.assert_close(ours["state"][index][key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("zero2", "zero2"),
        ("zero3", "zero3"),
        ("fsdp2", "zero2"),
        ("zero3_offload", "fsdp2"),
        ("ddp", "zero3"),
        ("single", "zero3"),
    ],
)
def test_a_run_goes_on_under_any_strategy(
    name: str, before: str, run: Run, seen: Callable[[str], Seen]
) -> None:
    last = _SAVED_AT + 3
    saved = seen(before)[0]["folder"] / "saved.ckpt"
    (single,) = seen("single")
    for rank in run(name, resume=str(saved), max_steps=last):
        assert rank["global_step"] == last
        assert rank["losses"] == pytest.approx(single["losses"][_SAVED_AT:last], abs=1e-5)
        assert _flat(rank["rates"]) == pytest.approx(_flat(single["rates"][_SAVED_AT:last]))


@pytest.fixture(scope="module")
def mixed(
    builder: ExampleBuilder,
    processor: Processor,
    essays: tuple[Essay, ...],
    nano_page: PageSpec,
    read_conf: Callable[..., dict[str, Any]],
    session_cache: Path,
) -> Prepared:
    """Samples with pages, and shorter ones that are text alone."""
    sizes = {"width_px": nano_page.width_px, "max_height_px": nano_page.max_height_px}
    page = PageSpec(**read_conf("page/none", min_pixels=nano_page.min_pixels, **sizes))
    text = ExampleBuilder(rubric=builder.rubric, prompt=builder.prompt, page=page, seed=1)
    parts = [
        prepare(
            part,
            builder=one,
            processor=processor,
            max_tokens=2048,
            on_overlong="error",
            cache=session_cache,
            label="",
        )
        for part, one in ((essays[:5], builder), (essays[5:9], text))
    ]
    return replace(parts[0], rows=concatenate_datasets([part.rows for part in parts]))


@pytest.mark.parametrize("name", ["ddp", "zero3", "fsdp2"])
def test_ranks_with_and_without_pages_stay_in_step(name: str, run: Run, mixed: Prepared) -> None:
    changes = {"train": mixed, "max_steps": 6}
    (single,) = run("single", **changes)
    for rank in run(name, **changes):
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5


_EXPECTED = ExpectedLossSpec(name="expected", feedback_weight=1.0, score_weight=0.5)


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_branches_and_checkpointing_in_shards(name: str, run: Run) -> None:
    """A loss that reads single rows of the head, and passes that are done twice."""
    changes = {"loss": _EXPECTED, "gradient_checkpointing": "all", "max_steps": 4}
    (single,) = run("single", **changes)
    for rank in run(name, **changes):
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("policy", ["attention", "every_nth"])
def test_parts_recomputed_and_logits_in_chunks_in_shards(name: str, policy: str, run: Run) -> None:
    """Ranks differ in chunks, and in an epoch's last step one of them has none that counts."""
    (single,) = run("single", max_steps=4, loss=LossSpec(name="ce", feedback_weight=0.5))
    changes = {
        "loss": LossSpec(name="ce", feedback_weight=0.5),
        "gradient_checkpointing": policy,
        "logit_rows": 16,
        "max_steps": 4,
    }
    for rank in run(name, **changes):
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp2"])
def test_packed_steps_of_unlike_numbers_of_micro_batches(
    name: str, run: Run, read_conf: Callable[..., dict[str, Any]]
) -> None:
    """Ranks pass over the same empty micro-batches, and DeepSpeed counts right."""
    changes = {"global_batch_size": 4, "max_steps": 8}
    (single,) = run("single", **changes)
    hardware = HardwareSpec(
        **read_conf("hardware/cpu", devices=2, num_workers=0, micro_batch_size=2)
    )
    batching = BatchingSpec(order="bucketed", pool_steps=8, layout="packed", max_tokens=400)
    packed = {"hardware": hardware, "batching": batching, "attention": "varlen"}
    for rank in run(name, **changes, **packed):
        assert set(rank["sizes"]) == {0, 1, 2}
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5


@pytest.mark.parametrize("policy", ["none", "all"])
@pytest.mark.parametrize("name", ["ddp", "zero3", "fsdp2"])
def test_frozen_experts_and_fused_operations_in_shards(
    name: str, policy: str, run: Run, read_conf: Callable[..., dict[str, Any]]
) -> None:
    """Weights that were let go behind a layer's forward are there again in our own backward."""
    kernels = KernelSpec(**read_conf("kernels/fast", experts="frozen", attention="sdpa"))
    (single,) = run("single", max_steps=3)
    for rank in run(name, max_steps=3, kernels=kernels, gradient_checkpointing=policy):
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5
        share = rank["held"] / rank["whole"]
        assert share == (pytest.approx(0.5, abs=0.02) if name in _SHARDED else 1)


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_all_weights_are_trained_alike(
    name: str, run: Run, read_conf: Callable[..., dict[str, Any]]
) -> None:
    optim = OptimSpec(**read_conf("optim/adamw", lr=1e-3, eps=1e-3))
    changes = {"adapter": NoAdapterSpec(), "optim": optim, "max_steps": 3}
    (single,) = run("single", **changes)
    for rank in run(name, **changes, logit_rows=16):
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-4)
        assert _distance(rank, single) < 1e-4
        saved = rank["folder"] / "model" / "model.safetensors"
    assert saved.stat().st_size == pytest.approx(single["whole"], rel=0.01)


@pytest.mark.parametrize("name", ["ddp", "zero2"])
def test_experts_are_trained_alike(name: str, run: Run, make_lora: Callable[..., LoraSpec]) -> None:
    changes = {
        "adapter": make_lora(targets=("attention", "experts"), modules_to_save=("visual.merger",)),
        "max_steps": 3,
    }
    (single,) = run("single", **changes)
    for rank in run(name, **changes):
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_a_bfloat16_base_stays_so(name: str, run: Run) -> None:
    changes = {"precision": "bf16", "max_steps": 2}
    (single,) = run("single", **changes)
    for rank in run(name, **changes):
        assert rank["dtypes"] == single["dtypes"] == ["torch.bfloat16", "torch.float32"]
        assert rank["whole"] == single["whole"]
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-2)


@pytest.fixture(scope="module")
def text_job(
    nano_text_spec: ModelSpec,
    text_builder: ExampleBuilder,
    text_processor: Processor,
    essays: tuple[Essay, ...],
    make_lora: Callable[..., LoraSpec],
    read_conf: Callable[..., dict[str, Any]],
    session_cache: Path,
) -> Callable[[bool], dict[str, Any]]:
    """What a run of a model that reads text alone has otherwise, its embeddings tied or not."""

    def make(is_tied: bool) -> dict[str, Any]:
        text = replace(nano_text_spec.text, tie_embeddings=is_tied)
        checkpoint = nano_folder(replace(nano_text_spec, text=text), session_cache)
        train, val = (
            prepare(
                part,
                builder=text_builder,
                processor=text_processor,
                max_tokens=2048,
                on_overlong="error",
                cache=session_cache,
                label="",
            )
            for part in (essays[:9], essays[9:])
        )
        return {
            "model": replace(nano_text_spec, text=text, path=str(checkpoint)),
            "checkpoint": checkpoint,
            "builder": text_builder,
            "adapter": make_lora(modules_to_save=nano_text_spec.modules_to_save),
            "optim": OptimSpec(**read_conf("optim/adamw", lr=5e-3, eps=1e-3)),
            "train": train,
            "val": val,
            "max_steps": 3,
        }

    return cache(make)


@pytest.fixture(scope="module")
def text_truth(run: Run, text_job: Callable[[bool], dict[str, Any]]) -> Callable[[bool], Seen]:
    """One process, padded, as transformers computes."""
    return cache(lambda is_tied: run("single", **text_job(is_tied)))


@pytest.mark.parametrize("is_tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("name", _STRATEGIES)
def test_a_model_that_reads_text_alone(
    name: str,
    is_tied: bool,
    run: Run,
    text_job: Callable[[bool], dict[str, Any]],
    text_truth: Callable[[bool], Seen],
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    """Packed and fused, as by default, against the plain way in one process."""
    job, (single,) = text_job(is_tied), text_truth(is_tied)
    batching = BatchingSpec(order="bucketed", pool_steps=8, layout="packed", max_tokens=None)
    kernels = KernelSpec(**read_conf("kernels/fast", experts="eager", attention="varlen"))
    ways = {"batching": batching, "attention": "varlen", "kernels": kernels}
    for rank in run(name, **job, **ways):
        assert rank["lora_b_is_zero"]
        assert rank["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert _distance(rank, single) < 1e-5
        assert rank["grades"].keys() == single["grades"].keys()
        share = rank["held"] / rank["whole"]
        assert share == (pytest.approx(0.5, abs=0.02) if name in _SHARDED else 1)
