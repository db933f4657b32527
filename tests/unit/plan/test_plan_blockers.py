from __future__ import annotations

from collections.abc import Callable

import pytest

from aes.data import BatchingSpec
from aes.plan import Lengths, Plan

Reference = Callable[..., Plan]


def test_the_reference_recipe_is_not_stopped(reference: Reference) -> None:
    assert reference().blockers == ()


def test_a_sample_over_the_limit_is_named_with_the_limit_it_needs(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    (blocker,) = reference(data={"train": lengths([1065, 2100, 2300, 1065])}).blockers
    assert blocker.startswith("2 samples (essay_1, essay_2): longer than data.max_tokens=2048")
    assert "set it to 2300" in blocker


def test_a_validation_sample_over_the_limit_stops_too(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    (blocker,) = reference(data={"validation": lengths([2049] * 40)}).blockers
    assert blocker.startswith("40 samples (essay_0, essay_1, essay_2 ...)")


def test_a_prompt_that_leaves_no_room_for_an_answer(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    data = {"train": lengths([2048 + 450]), "max_tokens": 2048}
    (blocker,) = reference(data=data).blockers
    assert "the prompt alone reaches data.max_tokens=2048" in blocker


def test_too_few_samples_for_one_step(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    assert "0 training samples" in reference(data={"train": lengths([])}).blockers[0]
    four = {"hardware": {"devices": 4}, "strategy": "ddp"}
    assert reference(data={"train": lengths([1065] * 3)}, **four).blockers
    assert not reference(data={"train": lengths([1065] * 4)}, **four).blockers


def test_a_limit_that_no_sample_meets_is_named_with_what_the_shortest_needs(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    data = {"train": lengths([]), "overlong": {"essay_0": 2412, "essay_1": 2302}}
    (blocker,) = reference(data=data).blockers
    assert "2 were dropped as longer than data.max_tokens=2048" in blocker
    assert "(essay_1) has 2302 tokens at full size; raise data.max_tokens" in blocker
    assert "data.root" not in blocker


def test_a_sample_that_no_micro_batch_holds(
    reference: Reference,
    lengths: Callable[..., Lengths],
    make_batching: Callable[..., BatchingSpec],
) -> None:
    data = {"train": lengths([1065, 1500, 1065, 1065])}
    (blocker,) = reference(data=data, batching=make_batching(max_tokens=1499)).blockers
    assert "sample essay_1 has 1500 tokens, more than batching.max_tokens=1499" in blocker
    assert not reference(data=data, batching=make_batching(max_tokens=1500)).blockers


def test_a_batch_that_cannot_be_cut_is_refused(reference: Reference) -> None:
    with pytest.raises(ValueError, match="make it a multiple of 2"):
        reference(global_batch_size=7)
