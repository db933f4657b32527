"""Steps of an epoch: complete, independent of the cut, and repeatable."""

import functools
import operator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aes.data import BatchingSpec
from aes.data.sampler import Pick, StepSampler

NUM = 203  # several pools of 8 steps and a ragged step
LENGTHS = np.random.default_rng(0).integers(100, 900, NUM)
SUPERVISED = np.random.default_rng(1).integers(10, 90, NUM)


BATCHING = BatchingSpec(order="bucketed", pool_steps=8, layout="padded", max_tokens=None)


def _sampler(**changes: Any) -> StepSampler:
    plain: dict[str, Any] = {
        "lengths": LENGTHS,
        "num_supervised": SUPERVISED,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "batching": BATCHING,
        "seed": 3,
    }
    return StepSampler(**plain | changes)


def _steps(sampler: StepSampler) -> list[list[Pick]]:
    """Micro-batches put together again to steps, by their number alone."""
    micro = list(sampler)
    per_step = sampler.accumulation
    return [
        functools.reduce(operator.iadd, micro[i : i + per_step], [])
        for i in range(0, len(micro), per_step)
    ]


@pytest.mark.parametrize("num", [NUM, 200, 64, 8, 7, 1])
@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_every_example_comes_once_an_epoch(num: int, micro: int) -> None:
    sampler = _sampler(
        lengths=LENGTHS[:num], num_supervised=SUPERVISED[:num], micro_batch_size=micro
    )
    micro_batches = list(sampler)
    assert sorted(pick.index for batch in micro_batches for pick in batch) == list(range(num))
    assert len(sampler) == len(micro_batches)
    assert max(len(batch) for batch in micro_batches) <= micro


@pytest.mark.parametrize("micro", [1, 4, 8])
def test_what_a_step_holds_does_not_depend_on_the_micro_batch(micro: int) -> None:
    def held(sampler: StepSampler) -> list[set[Pick]]:
        return [set(step) for step in _steps(sampler)]

    assert held(_sampler(micro_batch_size=micro)) == held(_sampler())


def test_the_denominator_is_the_sum_over_the_whole_step() -> None:
    for step in _steps(_sampler()):
        total = int(sum(SUPERVISED[pick.index] for pick in step))
        assert {pick.num_supervised_in_step for pick in step} == {total}


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("num", [NUM, 200, 9, 1])
def test_ranks_share_each_step_in_as_many_micro_batches(num: int, num_ranks: int) -> None:
    kept = {"lengths": LENGTHS[:num], "num_supervised": SUPERVISED[:num], "micro_batch_size": 2}
    ranks = [_sampler(**kept, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    dealt = [list(sampler) for sampler in ranks]
    assert [len(micro_batches) for micro_batches in dealt] == [len(ranks[0])] * num_ranks
    per_step = -(-8 // (2 * num_ranks))
    for number, step in enumerate(_sampler(**kept).steps()):
        places = slice(number * per_step, (number + 1) * per_step)
        picks = [p for micro_batches in dealt for batch in micro_batches[places] for p in batch]
        assert sorted(p.index for p in picks if not p.is_filler) == sorted(step)
        assert {p.num_supervised_in_step for p in picks} == {int(SUPERVISED[step].sum())}


def test_a_rank_without_an_example_gets_a_filler() -> None:
    kept = {"lengths": LENGTHS[:9], "num_supervised": SUPERVISED[:9], "num_ranks": 2}
    for rank, is_filler in ((0, False), (1, True)):
        last = list(_sampler(**kept, rank=rank))[-1]
        assert [pick.is_filler for pick in last] == [is_filler]


def test_only_the_last_step_is_ragged() -> None:
    sizes = [len(step) for step in _steps(_sampler())]
    assert sizes == [8] * 25 + [3]


def test_order_changes_with_the_epoch_and_repeats_with_the_seed() -> None:
    one, two = _sampler(), _sampler()
    first = list(one)
    assert list(two) == first
    one.set_epoch(1)
    second = list(one)
    assert second != first
    two.set_epoch(1)
    assert list(two) == second
    assert list(_sampler(seed=4)) != first


def test_steps_are_regrouped_not_only_reordered() -> None:
    sampler = _sampler()
    first = {frozenset(pick.index for pick in step) for step in _steps(sampler)}
    sampler.set_epoch(1)
    second = {frozenset(pick.index for pick in step) for step in _steps(sampler)}
    assert len(first & second) < len(first) / 2


def test_like_lengths_are_put_together() -> None:
    def padding(steps: list[list[int]]) -> int:
        return sum(int(LENGTHS[s].max()) * len(s) - int(LENGTHS[s].sum()) for s in steps)

    planned = [[pick.index for pick in step] for step in _steps(_sampler())]
    order = np.random.default_rng(5).permutation(NUM).tolist()
    shuffled = [order[i : i + 8] for i in range(0, NUM, 8)]
    assert padding(planned) < padding(shuffled) / 2


@pytest.mark.parametrize("pool_steps", [1, 8, None])
def test_wider_pools_pad_less_and_hold_every_example(pool_steps: int | None) -> None:
    def padding(batching: BatchingSpec) -> int:
        steps = _sampler(batching=batching).steps()
        assert sorted(int(i) for step in steps for i in step) == list(range(NUM))
        return sum(int(LENGTHS[s].max()) * len(s) - int(LENGTHS[s].sum()) for s in steps)

    shuffled = replace(BATCHING, order="shuffled", pool_steps=None)
    narrower = {1: shuffled, 8: replace(BATCHING, pool_steps=1), None: BATCHING}[pool_steps]
    wide = padding(replace(BATCHING, pool_steps=pool_steps))
    assert wide <= padding(narrower) if pool_steps == 1 else wide < padding(narrower) / 1.5


LIMITED = [replace(BATCHING, layout=layout, max_tokens=900) for layout in ("padded", "packed")]


@pytest.mark.parametrize("batching", LIMITED)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_limit_of_tokens_holds_and_lightning_counts_to_one_number(
    batching: BatchingSpec, num_ranks: int
) -> None:
    whole = {"batching": batching, "micro_batch_size": 4, "num_ranks": num_ranks}
    ranks = [_sampler(**whole, rank=rank) for rank in range(num_ranks)]
    for epoch in range(3):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in ranks]
        per_step = ranks[0].accumulation
        assert {len(one) for one in dealt} == {len(ranks[0])}
        seen: list[int] = []
        for number, together in enumerate(zip(*dealt, strict=True)):
            # All ranks compute, or none does.
            assert len({bool(batch) for batch in together}) == 1
            # The last place of a step is never empty: Lightning steps there.
            assert together[0] or (number + 1) % per_step
            for batch in together:
                lengths = [int(LENGTHS[pick.index]) for pick in batch]
                cost = sum(lengths) if batching.layout == "packed" else max(lengths, default=0)
                assert cost * (1 if batching.layout == "packed" else len(lengths)) <= 900
                seen += [pick.index for pick in batch if not pick.is_filler]
        assert sorted(seen) == list(range(NUM))
    assert [] in dealt[0], "no step was short enough to show anything"


def test_a_limit_changes_no_step() -> None:
    limited = _sampler(batching=LIMITED[0], micro_batch_size=4)
    held = [{p.index for p in step} for step in _steps(limited)]
    assert held == [set(step.tolist()) for step in _sampler().steps()]


def test_lightning_finds_the_epoch_hook() -> None:
    sampler = _sampler()
    assert sampler.sampler.set_epoch == sampler.set_epoch
