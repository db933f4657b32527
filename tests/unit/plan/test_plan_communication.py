from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aes.data.processor import Processor
from aes.grading import Grader
from aes.inference.engine import Engine
from aes.inference.spec import DecodingSpec, HfEngineSpec
from aes.plan import Lengths, Plan
from aes.plan.communication import HOST_LINK_GB_S, LINK_SHARE, validation_passes
from aes.prompt.build import ExampleBuilder
from aes.records import Essay
from aes.rubric import Rubric

Reference = Callable[..., Plan]

TRAINED = 4 * 6_684_672 / 1e9  # GB of float32 gradients
FOUR = {"devices": 4}


def test_what_is_known_of_zero3_on_four_h800(reference: Reference) -> None:
    """46.6 GB a pass; up to 0.87 s a micro-step, which is three passes at 160 of 200 GB/s.

    Two passes are what was counted, so the plan stays a third below that bound.
    """
    plan = reference(hardware=FOUR | {"micro_batch_size": 2}, strategy="zero3")
    sent = plan.communication
    assert sent.gathered == pytest.approx(46.6, abs=0.05)
    assert LINK_SHARE * plan.hardware.link_gb_s == 160
    assert 3 * sent.gathered / 160 == pytest.approx(0.87, abs=0.005)
    assert plan.steps.accumulation == 1
    assert sent.step_s == pytest.approx(2 * sent.gathered / 160, rel=1e-3)


def test_the_known_micro_step_computes_much_faster_than_it_gathers(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    """Against 0.2 s: 8 samples of 1,065 tokens with full checkpointing, and the tower's 0.027 s."""
    plan = reference(
        hardware=FOUR | {"micro_batch_size": 8},
        strategy="zero3",
        data={"train": lengths([1065] * 320)},
        global_batch_size=32,
    )
    compute_s = plan.time.tflop_per_step / 4 / 800
    assert compute_s == pytest.approx(0.201 + 0.027, rel=0.02)
    assert plan.communication.floor_s == pytest.approx(2 * 46.6 / 200, rel=0.01)
    assert plan.time.floor_s == pytest.approx(30 * plan.communication.floor_s)


def test_ddp_sends_gradients_twice_around_the_ring_once_a_step(reference: Reference) -> None:
    for accumulation in (1, 4):
        size = 8 * accumulation
        sent = reference(hardware=FOUR, strategy="ddp", global_batch_size=size).communication
        assert sent.step == sent.gradients == pytest.approx(2 * 3 / 4 * TRAINED)
        assert (sent.gathered, sent.passes, sent.validation) == (0, 0, 0)


def test_zero2_reduces_each_micro_batch_and_gathers_what_was_updated(reference: Reference) -> None:
    for accumulation in (1, 4):
        size = 8 * accumulation
        sent = reference(hardware=FOUR, strategy="zero2", global_batch_size=size).communication
        assert sent.step == pytest.approx((2 * accumulation + 1) * 3 / 4 * TRAINED)


def test_sharded_weights_come_again_for_each_micro_batch(reference: Reference) -> None:
    one = reference(hardware=FOUR, strategy="zero3").communication
    four = reference(hardware=FOUR, strategy="zero3", global_batch_size=32).communication
    assert four.weights == pytest.approx(4 * one.weights) == pytest.approx(8 * one.gathered)
    assert one.step == pytest.approx(one.weights + 3 / 4 * TRAINED)


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_recomputing_gathers_nothing_again(reference: Reference, strategy: str) -> None:
    for checkpointing in ("none", "attention", "all"):
        plan = reference(hardware=FOUR, strategy=strategy, checkpointing=checkpointing)
        assert plan.communication.passes == 2


def test_one_process_receives_nothing(reference: Reference) -> None:
    sent = reference().communication
    assert (sent.step, sent.host, sent.step_s, sent.validation_s) == (0, 0, 0, 0)


def test_offload_brings_each_rank_s_shard_from_host_memory(reference: Reference) -> None:
    one = reference(strategy="zero3_offload").communication
    assert one.step == 0
    assert one.host == pytest.approx(4 * (2 * 62.17) + 5 * TRAINED, rel=1e-3)
    assert one.floor_s == pytest.approx(one.host / HOST_LINK_GB_S)
    four = reference(hardware=FOUR, strategy="zero3_offload").communication
    assert four.host == pytest.approx(2 * 62.17 / 4, rel=2e-3)
    assert four.step == reference(hardware=FOUR, strategy="zero3").communication.step


def test_the_slowest_link_of_the_ring_counts(reference: Reference) -> None:
    node = reference(hardware=FOUR, strategy="zero3").communication
    two = reference(
        hardware=FOUR | {"num_nodes": 2}, strategy="zero3", global_batch_size=16
    ).communication
    assert two.gathered == pytest.approx(node.gathered / (3 / 4) * 7 / 8)
    assert two.step_s == pytest.approx(node.step_s * 4 * (7 / 8) / (3 / 4), rel=1e-3)


def test_a_validation_gathers_all_weights_in_every_forward_pass(reference: Reference) -> None:
    # 40 essays on 4 ranks are 10 each: one batch of up to 16, its prompts and one trait.
    plan = reference(hardware=FOUR, strategy="zero3")
    sent = plan.communication
    assert sent.validation == pytest.approx(2 * sent.gathered)
    assert sent.validation_s == pytest.approx(2 * sent.gathered / 160)
    whole = reference(hardware=FOUR, strategy="zero2")
    waits = len(plan.steps.validations) * sent.validation_s
    assert plan.time.validation_s == pytest.approx(whole.time.validation_s + waits)


@pytest.mark.parametrize(
    ("num_examples", "num_ranks", "batches"), [(0, 2, 0), (12, 1, 4), (11, 2, 2), (13, 2, 3)]
)
def test_ranks_grade_equally_many_batches(num_examples: int, num_ranks: int, batches: int) -> None:
    passes = validation_passes(
        num_examples=num_examples, num_ranks=num_ranks, batch_size=3, num_traits=2
    )
    assert passes == 3 * batches


def test_passes_are_those_that_the_engine_makes(
    load_nano: Callable[..., Any],
    processor: Processor,
    builder: ExampleBuilder,
    small_rubric: Rubric,
    essays: tuple[Essay, ...],
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    spec = DecodingSpec(**read_conf("decoding/expected", batch_size=5))
    model = load_nano()
    engine = Engine(
        model=model,
        processor=processor,
        renderer=builder.renderer,
        decoding=spec,
        precision="fp32",
        spec=HfEngineSpec(**read_conf("engine/hf")),
    )
    passes: list[int] = []
    model.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    examples = [builder.build(essay) for essay in essays]
    list(Grader(engine=engine, rubric=small_rubric).grade(examples, scores_only=True))
    assert len(passes) == validation_passes(
        num_examples=len(essays), num_ranks=1, batch_size=5, num_traits=len(small_rubric.ranges)
    )
