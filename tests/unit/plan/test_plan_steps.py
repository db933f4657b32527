from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aes.data import BatchingSpec
from aes.data.sampler import StepSampler
from aes.plan.steps import Schedule, StepPlan, plan_steps


def _steps(num_examples: int = 300, **changes: Any) -> StepPlan:
    settings: dict[str, Any] = {
        "max_epochs": 3,
        "max_steps": None,
        "val_every_n_epochs": 1,
        "every_n_train_steps": 200,
        "save_each_epoch": True,
        "warmup_ratio": 0.0,
        "course": "cosine",
    }
    schedule = Schedule(**{**settings, **changes})
    return plan_steps(schedule, num_examples=num_examples, global_batch_size=8, accumulation=4)


def test_300_essays_times_3_epochs_in_steps_of_8_are_114() -> None:
    steps = _steps()
    assert (steps.per_epoch, steps.total, steps.last_batch) == (38, 114, 4)
    assert steps.samples == 900
    assert steps.epoch_ends == (38, 76, 114)


def test_a_save_that_is_never_reached_is_said() -> None:
    steps = _steps()
    assert steps.saves == (38, 76, 114)
    assert steps.note == (
        "every 200 steps (never reached in 114) and after each epoch: steps 38, 76, 114"
    )


def test_saves_by_steps_and_always_at_the_end() -> None:
    assert _steps(every_n_train_steps=50, save_each_epoch=False).saves == (50, 100, 114)
    alone = _steps(every_n_train_steps=None, save_each_epoch=False)
    assert alone.saves == (114,)
    assert alone.note == "at the end only: step 114"
    assert _steps(every_n_train_steps=38).note.endswith("steps 38, 76, 114")


def test_many_saves_are_shortened() -> None:
    assert _steps(every_n_train_steps=10, save_each_epoch=False).note == (
        "every 10 steps: steps 10, 20, 30 ... 114 (12 saves)"
    )


def test_max_steps_stops_within_an_epoch() -> None:
    steps = _steps(max_steps=40)
    assert (steps.total, steps.samples) == (40, 316)
    assert steps.epoch_ends == (38,)
    assert steps.validations == (38, 40)
    assert _steps(max_steps=1000).total == 114


def test_validation_comes_every_so_many_epochs_and_at_the_end() -> None:
    assert _steps(val_every_n_epochs=2).validations == (76, 114)


def test_warm_up_is_a_share_of_all_steps() -> None:
    assert _steps(warmup_ratio=0.03).warmup == 4


def test_an_empty_split_makes_no_step() -> None:
    steps = _steps(num_examples=0)
    assert (steps.total, steps.saves, steps.validations) == (0, (), ())
    assert steps.note.endswith("no step")


def test_micro_batches_are_those_that_the_sampler_makes(
    make_batching: Callable[..., BatchingSpec],
) -> None:
    for num_examples, size, micro in ((300, 8, 2), (300, 128, 4), (222, 1024, 32), (301, 8, 2)):
        ranks = 4 if size > 8 else 1
        sampler = StepSampler(
            lengths=[10] * num_examples,
            num_supervised=[5] * num_examples,
            global_batch_size=size,
            micro_batch_size=micro,
            batching=make_batching(),
            seed=0,
            num_ranks=ranks,
        )
        accumulation = size // (micro * ranks)
        steps = plan_steps(
            Schedule(
                max_epochs=2,
                max_steps=None,
                val_every_n_epochs=1,
                every_n_train_steps=None,
                save_each_epoch=True,
                warmup_ratio=0.0,
                course="cosine",
            ),
            num_examples=num_examples,
            global_batch_size=size,
            accumulation=accumulation,
        )
        assert steps.micro_batches == 2 * len(sampler) == 2 * len(list(sampler))
