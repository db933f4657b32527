"""Machines as numbers, and how a global batch is cut over them."""

from collections.abc import Callable
from typing import Any

import pytest

from aes.hardware import HardwareSpec, StrategySpec, accumulation_steps


@pytest.mark.parametrize(
    ("whole", "micro", "ranks", "steps"), [(8, 8, 1, 1), (8, 1, 1, 8), (8, 2, 4, 1), (24, 2, 4, 3)]
)
def test_accumulation_makes_up_the_global_batch(
    whole: int, micro: int, ranks: int, steps: int
) -> None:
    found = accumulation_steps(global_batch_size=whole, micro_batch_size=micro, num_ranks=ranks)
    assert found == steps


@pytest.mark.parametrize(("whole", "micro", "ranks"), [(8, 3, 1), (4, 8, 1), (8, 4, 4), (0, 1, 1)])
def test_a_batch_that_cannot_be_cut_is_refused(whole: int, micro: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"global_batch_size={whole} .* multiple of"):
        accumulation_steps(global_batch_size=whole, micro_batch_size=micro, num_ranks=ranks)


def test_ranks_count_over_nodes(read_conf: Callable[..., dict[str, Any]]) -> None:
    assert HardwareSpec(**read_conf("hardware/cpu", devices=4, num_nodes=2)).num_ranks == 8


@pytest.mark.parametrize(
    "change",
    [{"devices": 0}, {"precision": "fp16"}, {"accelerator": "tpu"}, {"memory_gib": 0},
     {"peak_tflops": 0}, {"num_workers": -1}, {"gpus": 2}],
)  # fmt: skip
def test_impossible_machines_are_refused(
    read_conf: Callable[..., dict[str, Any]], change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        HardwareSpec(**read_conf("hardware/cpu", **change))


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValueError):
        StrategySpec(name="fsdp9")  # type: ignore[arg-type]
