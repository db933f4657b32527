from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aes.hardware import HardwareSpec
from aes.plan import Plan
from aes.plan.comparison import strategies_for

Reference = Callable[..., Plan]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["single", "zero3_offload"]),
        ({"devices": 4}, ["ddp", "zero2", "fsdp2", "zero3", "zero3_offload"]),
        ({"num_nodes": 2}, ["ddp", "zero2", "fsdp2", "zero3", "zero3_offload"]),
        ({"accelerator": "cpu"}, ["single"]),
        ({"accelerator": "cpu", "devices": 2}, ["ddp", "zero2", "fsdp2", "zero3"]),
    ],
)
def test_only_strategies_that_make_sense_are_compared(
    h800: HardwareSpec, changes: dict[str, Any], names: list[str]
) -> None:
    assert [s.name for s in strategies_for(replace(h800, **changes))] == names


def test_each_strategy_costs_what_it_costs_when_it_is_chosen(reference: Reference) -> None:
    four = {"devices": 4, "price_per_hour": 10.0}
    plans = {name: reference(hardware=four, strategy=name) for name in ("ddp", "zero3", "fsdp2")}
    for name, plan in plans.items():
        (costs,) = [c for c in plans["ddp"].strategies if c.strategy == name]
        assert costs.memory == plan.memory
        assert costs.communication == plan.communication
        assert costs.time == plan.time


def test_sharded_weights_take_longer_where_the_model_fits_whole(reference: Reference) -> None:
    found = reference(hardware={"devices": 4}, strategy="ddp").strategies
    seconds = [costs.time.expected_s for costs in found]
    names = [costs.strategy for costs in found]
    assert names == ["ddp", "zero2", "fsdp2", "zero3", "zero3_offload"]
    assert seconds == sorted(seconds)
