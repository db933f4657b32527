from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, StrategySpec
from aes.model import KernelSpec, LoraSpec, ModelSpec
from aes.plan import Lengths, MeasuredData, Plan, PlannedRun, Schedule, make_plan

_CONF = Path(__file__).parents[3] / "conf"

# Sizes of Qwen3-VL-30B-A3B with LoRA r=8 on attention; test_plan_parameters counts them for real.
PARAMETERS_30B = {
    "experts": (28_991_029_248, 0),
    "attention": (905_969_664, 0),
    "vision tower": (415_891_440, 0),
    "merger": (122_739_968, 0),
    "router": (12_582_912, 0),
    "embeddings": (311_164_928, 0),
    "lm_head": (311_164_928, 0),
    "norms": (210_944, 0),
    "LoRA: attention": (6_684_672, 6_684_672),
}


def _read(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("_target_", "defaults")}


@pytest.fixture
def model_spec() -> Callable[[str], ModelSpec]:
    """ModelSpec by its name in conf/model."""
    return lambda name: ModelSpec(**_read(_CONF / "model" / f"{name}.yaml"))


@pytest.fixture
def h800() -> HardwareSpec:
    return HardwareSpec(**_read(_CONF / "hardware" / "h800x1.yaml"))


@pytest.fixture
def plain_kernels() -> KernelSpec:
    return KernelSpec(**_read(_CONF / "kernels" / "plain.yaml"))


@pytest.fixture
def fast_kernels() -> KernelSpec:
    """As a run of the reference job has them: ``auto`` is decided."""
    spec = KernelSpec(**_read(_CONF / "kernels" / "fast.yaml"))
    return replace(spec, attention="varlen", experts="frozen")


@pytest.fixture
def lora() -> LoraSpec:
    return LoraSpec(
        rank=8,
        alpha=16,
        dropout=0.0,
        targets=("attention",),
        modules_to_save=(),
        init_from=None,
    )


@pytest.fixture
def lengths() -> Callable[..., Lengths]:
    def make(num_tokens: list[int], *, image: int = 576, supervised: int = 450) -> Lengths:
        num = len(num_tokens)
        return Lengths(
            ids=tuple(f"essay_{i}" for i in range(num)),
            num_tokens=tuple(num_tokens),
            num_image_tokens=(image,) * num,
            num_supervised=(supervised,) * num,
            num_pages=(1 if image else 0,) * num,
        )

    return make


@pytest.fixture
def reference(
    model_spec: Callable[[str], ModelSpec],
    h800: HardwareSpec,
    lora: LoraSpec,
    lengths: Callable[..., Lengths],
    make_batching: Callable[..., BatchingSpec],
    plain_kernels: KernelSpec,
) -> Callable[..., Plan]:
    """The reference job, 300 samples of up to 2,048 tokens, with any argument replaced.

    ``hardware``, ``data`` and ``schedule`` take a mapping of fields to replace.
    """

    def make(
        *,
        hardware: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        strategy: Any = "single",
        **changes: Any,
    ) -> Plan:
        measured = MeasuredData(
            train=lengths([1065] * 299 + [2048]),
            validation=lengths([1065] * 40),
            test=lengths([]),
            essays={"read": 345, "kept": 340, "shrunk": 3},
            dropped={"no scores": 5},
            overlong={},
            glyph_px=(17, 20),
            max_tokens=2048,
        )
        arguments: dict[str, Any] = {
            "model": model_spec("qwen3_vl_30b_a3b"),
            "adapter": lora,
            "parameters": PARAMETERS_30B,
            "hardware": replace(h800, **(hardware or {})),
            "strategy": StrategySpec(name=strategy),
            "data": replace(measured, **(data or {})),
            "schedule": Schedule(
                **{
                    "max_epochs": 3,
                    "max_steps": None,
                    "val_every_n_epochs": 1,
                    "every_n_train_steps": 200,
                    "save_each_epoch": True,
                    "warmup_ratio": 0.0,
                    "course": "cosine",
                    **(schedule or {}),
                }
            ),
            "ranges": {"holistic": (0, 100)},
            "global_batch_size": 8,
            "batching": make_batching(),
            "validation_batch_size": 16,
            "lr": 5e-5,
            "checkpointing": "all",
            "checkpointing_every": 2,
            "kernels": plain_kernels,
            "page_features": None,
            "machine_memory_gib": None,
        }
        return make_plan(PlannedRun(**{**arguments, **changes}))

    return make
