from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, StrategySpec
from aes.model import KernelSpec, ModelSpec
from aes.model.vision_cache import KeptFeatures
from aes.plan import Lengths, Plan
from aes.plan.lengths import summarise
from aes.plan.time import forward_flops
from aes.plan.workload import Checkpointing, Workload

Reference = Callable[..., Plan]


@pytest.fixture
def measured_job(lengths: Callable[..., Lengths]) -> dict[str, Any]:
    """300 samples of 1,065 tokens, 450 of them supervised."""
    return {"train": lengths([1065] * 300)}


def test_forward_pass_by_hand(
    model_spec: Callable[[str], ModelSpec],
    h800: HardwareSpec,
    lengths: Callable[..., Lengths],
    reference: Reference,
    plain_kernels: KernelSpec,
    make_batching: Callable[..., BatchingSpec],
) -> None:
    load = Workload(
        model=model_spec("qwen3_vl_30b_a3b"),
        parameters=reference().parameters,
        hardware=h800,
        strategy=StrategySpec(name="single"),
        checkpointing=Checkpointing(policy="all", every=1),
        kernels=plain_kernels,
        is_packed=False,
        page_features=None,
        rank=8,
        longest_tokens=(1065,),
        max_batch_tokens=None,
        max_image_tokens=576,
        max_supervised=450,
    )
    summary = summarise(
        lengths([1065]), global_batch_size=1, micro_batch_size=1, batching=make_batching()
    )
    flops = forward_flops(load, summary)
    # Per token 2 x (0.906 + 28.991 x 8 / 128 + 0.013 + 0.007) B weights; 0.42 GFLOP attention.
    assert flops.layers / 1065 / 1e9 == pytest.approx(5.475, abs=0.005)
    assert flops.attention / 1065 / 1e9 == pytest.approx(0.419, abs=0.001)
    assert flops.lm_head / 450 / 1e9 == pytest.approx(0.622, abs=0.001)
    assert flops.vision / 1e12 == pytest.approx(2.70, abs=0.05)


def test_a_step_of_the_reference_job_at_the_peak(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    """Seconds at 800 TFLOP/s, with 0.027 s of vision in each step; three epochs of them."""
    known = {"none": (0.138, 15.5), "attention": (0.162, 18.2), "all": (0.201, 22.6)}
    for checkpointing, (step_s, job_s) in known.items():
        plan = reference(
            data=measured_job, hardware={"micro_batch_size": 8}, checkpointing=checkpointing
        )
        assert plan.time.tflop_per_step / 800 - 0.027 == pytest.approx(step_s, rel=0.01)
        assert plan.time.floor_s - 3.05 == pytest.approx(job_s, rel=0.01)


def test_every_nth_layer_recomputes_its_share(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    def tflop(checkpointing: str, every: int = 2) -> float:
        plan = reference(data=measured_job, checkpointing=checkpointing, checkpointing_every=every)
        return plan.time.tflop_per_step

    whole = tflop("all") - tflop("none")
    for every, share in ((2, 24 / 48), (5, 10 / 48), (48, 1 / 48)):
        assert tflop("every_nth", every) - tflop("none") == pytest.approx(share * whole)


def _kept(place: Literal["memory", "disk"], *, share: float = 1.0) -> KeptFeatures:
    return KeptFeatures(place=place, num_bytes=1000, max_bytes=int(1000 * share))


def test_pages_that_are_kept_are_computed_once(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    """3 epochs: a third of 0.027 s a step."""
    anew, kept = (
        reference(data=measured_job, checkpointing="none", page_features=features).time
        for features in (None, _kept("memory"))
    )
    saved = (anew.tflop_per_step - kept.tflop_per_step) / 800
    assert saved == pytest.approx(2 / 3 * 0.027, rel=0.02)
    one_epoch = {"schedule": {"max_epochs": 1}, "data": measured_job}
    anew, kept = (
        reference(**one_epoch, page_features=features).time for features in (None, _kept("memory"))
    )
    assert kept.tflop_per_step == anew.tflop_per_step


@pytest.mark.parametrize(
    ("kept", "computed"),
    [
        (_kept("memory"), 1 + 3 / 4 + 9 / 16),  # a rank has seen 1/4, then 7/16 of all samples
        (_kept("memory", share=0.3), 1 + 3 / 4 + 0.7),
        (_kept("disk"), 1),
        (_kept("disk", share=0.3), 1 + 0.7 + 0.7),
    ],
)
def test_ranks_find_in_memory_what_they_have_seen_themselves(
    reference: Reference, measured_job: dict[str, Any], kept: KeptFeatures, computed: float
) -> None:
    def tflop(features: KeptFeatures | None) -> float:
        four = {"hardware": {"devices": 4}, "strategy": "ddp", "data": measured_job}
        return reference(**four, page_features=features).time.tflop_per_step

    saved = (tflop(None) - tflop(kept)) / 800
    assert saved == pytest.approx((3 - computed) / 3 * 0.027, rel=0.02)


def test_each_part_of_a_step_is_repeated_as_often_as_it_must(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    layers, attention, lm_head = 1065 * 5.47532e9, 1065**2 * 2 * 4096 * 48, 450 * 0.62233e9
    for checkpointing, again in (("none", 0), ("all", 1)):
        plan = reference(data=measured_job, checkpointing=checkpointing)
        # Frozen: forward and gradient of inputs; attention's backward is 2.5 forwards.
        language = (2 + again) * layers + (3.5 + again) * attention + 2 * lm_head
        vision = plan.time.tflop_per_step - 8 * language / 1e12
        assert vision == pytest.approx(8 * 2.71, abs=0.3)


def test_a_micro_batch_is_no_faster_than_its_weights_are_read(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    # 62.2 GB at 3 TB/s three times: 62 ms; two essays compute in 57 ms, eight in 228 ms.
    small = reference(data=measured_job, hardware={"micro_batch_size": 2}).time
    assert small.floor_s / 450 == pytest.approx(3 * 62.17e9 / 3e12, rel=0.01)
    large = reference(data=measured_job, hardware={"micro_batch_size": 8}).time
    assert large.floor_s == pytest.approx(900 / 8 * large.tflop_per_step / 800, rel=0.01)


def test_four_devices_take_a_quarter_and_cost_the_same(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    one = reference(data=measured_job).time
    four = reference(data=measured_job, hardware={"devices": 4, "price_per_hour": 10.0}).time
    # Not quite a quarter: an epoch's last 4 samples are two micro-batches of one, one of four.
    assert four.floor_s == pytest.approx(one.floor_s / 4 * 114 / 112.5)
    assert four.expected_s < one.expected_s
    assert one.cost == pytest.approx(2.5 * one.total_s / 3600)
    assert reference(hardware={"price_per_hour": 0.0}).time.cost is None


def test_a_validation_by_hand(
    reference: Reference, h800: HardwareSpec, lengths: Callable[..., Lengths]
) -> None:
    # 40 prompts of 615 tokens in batches of 16; then 3 batches x 1 trait of 62.2 GB at 3 TB/s.
    plan = reference()
    flops = 5.475e9 * 615 + 2 * 615**2 * 4096 * 48 + 0.622e9 + 2.70e12
    floor_s = 40 * flops / 800e12 + 3 * 1 * 62.17e9 / 3e12
    floor_s *= len(plan.steps.validations) / plan.time.utilisation
    assert plan.time.validation_s == pytest.approx(floor_s, rel=0.01)
    longer_comments = {"validation": lengths([1665] * 40, supervised=1050)}
    assert reference(data=longer_comments).time.validation_s == plan.time.validation_s


def test_the_expectation_is_never_below_the_floor(reference: Reference) -> None:
    time = reference().time
    assert time.expected_s > time.floor_s
    assert time.total_s == time.expected_s + time.validation_s
    assert time.validation_s > 0


def test_training_every_weight_costs_one_more_forward(
    reference: Reference, measured_job: dict[str, Any]
) -> None:
    frozen = reference(data=measured_job)
    body = ("attention", "experts", "router")
    trained = {
        name: (count.total, count.total if name in body else 0)
        for name, count in frozen.parameters.items()
    }
    whole = reference(data=measured_job, parameters=trained)
    # 8 samples of 1,065 tokens through 2.738 B active weights once more.
    more = 8 * 1065 * 2 * 2.738e9 / 1e12
    assert whole.time.tflop_per_step - frozen.time.tflop_per_step == pytest.approx(more, rel=0.01)


def test_a_longer_sample_costs_more(reference: Reference, lengths: Callable[..., Lengths]) -> None:
    short = reference(data={"train": lengths([1000] * 300)})
    long = reference(data={"train": lengths([2000] * 300)})
    assert long.time.tflop_per_step > 1.7 * short.time.tflop_per_step
