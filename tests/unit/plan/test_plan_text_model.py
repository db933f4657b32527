"""The plan of a model that reads text alone is that of the same decoder, less the tower."""

from collections.abc import Callable
from typing import Any

import pytest

from aes.model import LoraSpec, ModelSpec
from aes.model.loading import build_on_meta
from aes.plan import Lengths, Plan, count_parameters


@pytest.fixture
def plan_of(
    reference: Callable[..., Plan],
    model_spec: Callable[[str], ModelSpec],
    lengths: Callable[..., Lengths],
    lora: LoraSpec,
) -> Callable[..., Plan]:
    """A plan for essays as text."""

    def make(name: str, **changes: Any) -> Plan:
        spec = model_spec(name)
        return reference(
            model=spec,
            parameters=count_parameters(build_on_meta(spec, lora)),
            data={
                "train": lengths([1065] * 300, image=0),
                "validation": lengths([1065] * 40, image=0),
            },
            **changes,
        )

    return make


@pytest.mark.parametrize("policy", ["none", "attention", "all"])
def test_it_computes_what_the_same_decoder_computes(
    policy: str, plan_of: Callable[..., Plan]
) -> None:
    """Qwen3-4B and the language model of Qwen3-VL-4B have the same sizes."""
    text, seeing = (plan_of(name, checkpointing=policy) for name in ("qwen3_4b", "qwen3_vl_4b"))
    assert text.time.tflop_per_step == pytest.approx(seeing.time.tflop_per_step)
    for part in ("activations", "logits", "gradients", "optimiser"):
        assert getattr(text.memory, part) == pytest.approx(getattr(seeing.memory, part)), part
    tower = sum(seeing.parameters[part].total for part in ("vision tower", "merger"))
    assert "vision tower" not in text.parameters
    assert seeing.memory.weights - text.memory.weights == pytest.approx(2 * tower / 2**30)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_every_strategy_has_a_plan(strategy: str, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("qwen3_4b", strategy=strategy, hardware={"devices": 4})
    assert plan.memory.fits
    assert not plan.blockers
    assert plan.train.num_pages == 0
