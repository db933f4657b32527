from __future__ import annotations

from collections.abc import Callable

import pytest

from aes.plan import Plan

Reference = Callable[..., Plan]

FOUR = {"devices": 4}
TRAINED_GIB = 4 * 6_684_672 / 2**30
LAYER = 28_991_029_248 + 905_969_664 + 12_582_912 + 210_944


def test_the_frozen_base_stands_whole_on_each_rank_unless_weights_are_sharded(
    reference: Reference,
) -> None:
    whole = reference().memory.weights
    for strategy, share in (("ddp", 1), ("zero2", 1), ("zero3", 4), ("fsdp2", 4)):
        memory = reference(hardware=FOUR, strategy=strategy).memory
        assert memory.weights == pytest.approx(whole / share)
        assert memory.host == 0


def test_gradients_and_states_are_cut_by_all_but_ddp(reference: Reference) -> None:
    states = {"ddp": 2, "zero2": 3 / 4, "zero3": 3 / 4, "fsdp2": 2 / 4}
    gradients = {"ddp": 1, "zero2": 1 / 4, "zero3": 1 / 4, "fsdp2": 1 / 4}
    buffers = {"ddp": 1, "zero2": 2, "zero3": 1, "fsdp2": 2 / 48}
    for strategy in states:
        memory = reference(hardware=FOUR, strategy=strategy).memory
        # DeepSpeed keeps a float32 copy beside AdamW's two moments.
        assert memory.optimiser == pytest.approx(states[strategy] * TRAINED_GIB)
        assert memory.gradients == pytest.approx(gradients[strategy] * TRAINED_GIB)
        assert memory.buffers == pytest.approx(buffers[strategy] * TRAINED_GIB)


def test_a_bucket_has_an_upper_end(reference: Reference) -> None:
    everything = {"MLP": (2 * 10**9, 2 * 10**9)}
    memory = reference(hardware=FOUR, strategy="zero3", parameters=everything).memory
    assert memory.buffers == pytest.approx(4 * 2e8 / 2**30)


def test_gathered_are_the_layer_at_work_the_next_and_its_buffer(reference: Reference) -> None:
    memory = reference(hardware=FOUR, strategy="zero3").memory
    assert memory.gathered == pytest.approx(3 * 2 * LAYER / 48 / 2**30)
    fsdp2 = reference(hardware=FOUR, strategy="fsdp2").memory  # the head besides
    assert fsdp2.gathered == pytest.approx(memory.gathered + 2 * 311_164_928 / 2**30)
    # DeepSpeed keeps up to 10^9 weights of a small model gathered, here all of it.
    small = {"MLP": (48 * 10**6, 0)}
    zero3 = reference(hardware=FOUR, strategy="zero3", parameters=small).memory
    assert zero3.gathered == pytest.approx(49e6 * 2 / 2**30)
    fsdp2 = reference(hardware=FOUR, strategy="fsdp2", parameters=small).memory
    assert fsdp2.gathered == pytest.approx(3e6 * 2 / 2**30)


def test_offload_leaves_only_what_is_gathered_on_the_device(reference: Reference) -> None:
    zero3 = reference(hardware=FOUR, strategy="zero3").memory
    for hardware in ({}, FOUR):
        memory = reference(hardware=hardware, strategy="zero3_offload").memory
        assert memory.weights == memory.gradients == memory.optimiser == memory.step == 0
        assert memory.gathered == zero3.gathered
        assert memory.host == pytest.approx(57.9 + 4 * TRAINED_GIB, abs=0.01)
    two_nodes = reference(
        hardware=FOUR | {"num_nodes": 2}, strategy="zero3_offload", global_batch_size=16
    )
    assert two_nodes.memory.host == pytest.approx(memory.host / 2)


def test_ranks_on_a_cpu_share_its_memory(reference: Reference) -> None:
    cpu = {"accelerator": "cpu", "memory_gib": None}
    two = reference(hardware=cpu | {"devices": 2}, strategy="ddp", machine_memory_gib=100.0)
    assert two.memory.available == 50
    assert two.memory.fits is False
    assert reference(hardware=cpu, machine_memory_gib=100.0).memory.fits is True
