"""The learning rate's course and which weights get which rate."""

from typing import Any

import pytest
import torch

from aes.training import OptimSpec
from aes.training.optim import build_optimizer, build_schedule, lr_course


def _spec(**changes: Any) -> OptimSpec:
    plain: dict[str, Any] = {
        "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
        "schedule": "cosine", "warmup_ratio": 0.0, "lr_factors": {},
    }  # fmt: skip
    return OptimSpec(**plain | changes)


class Toy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(2, 2)
        self.merger = torch.nn.Linear(2, 2)
        self.merger_list = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)


def _rates(spec: OptimSpec, num_steps: int) -> list[float]:
    optimizer = build_optimizer(Toy(), spec)
    schedule = build_schedule(optimizer, spec, num_steps=num_steps)
    rates = []
    for _ in range(num_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_falls_from_the_full_rate_to_zero() -> None:
    rates = _rates(_spec(), 10)
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.05)
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_linear_falls_in_equal_steps_and_constant_stays() -> None:
    rates = _rates(_spec(schedule="linear"), 10)
    assert rates == pytest.approx([0.1 - 0.01 * i for i in range(11)])
    assert _rates(_spec(schedule="constant"), 10) == pytest.approx([0.1] * 11)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_rises_linearly_and_then_the_course_begins(schedule: Any) -> None:
    rates = _rates(_spec(schedule=schedule, warmup_ratio=0.3), 10)
    assert rates[:4] == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    assert rates[10] == pytest.approx(0.1 if schedule == "constant" else 0, abs=1e-12)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_course(num_steps: int) -> None:
    factor = lr_course(_spec(warmup_ratio=0.5), num_steps=num_steps)
    assert all(0 <= factor(step) <= 1 for step in range(num_steps + 3))
    assert factor(num_steps + 5) == pytest.approx(0, abs=1e-12)


def test_factors_make_groups_of_their_own() -> None:
    model = Toy()
    optimizer = build_optimizer(model, _spec(lr_factors={"merger": 0.5}))
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = {name: rates.get(id(p)) for name, p in model.named_parameters()}
    assert named["merger.weight"] == named["merger.bias"] == pytest.approx(0.05)
    assert named["body.weight"] == named["merger_list.weight"] == pytest.approx(0.1)
    assert named["frozen.weight"] is None
    assert len(rates) == 6


def test_all_groups_follow_the_course() -> None:
    spec = _spec(lr_factors={"merger": 0.5})
    optimizer = build_optimizer(Toy(), spec)
    schedule = build_schedule(optimizer, spec, num_steps=2)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.025])


@pytest.mark.parametrize("name", ["mergers", "frozen", "merg", "weight"])
def test_a_factor_for_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"lr_factors names {name}, but nothing is trained there"):
        build_optimizer(Toy(), _spec(lr_factors={name: 0.5}))


def test_settings_reach_the_optimiser() -> None:
    optimizer = build_optimizer(Toy(), _spec(betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2))
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-3, 0.2)


@pytest.mark.parametrize(
    "change",
    [{"lr": 0}, {"lr": 2}, {"eps": 0}, {"weight_decay": -1}, {"schedule": "poly"},
     {"warmup_ratio": 1}, {"lr_factors": {"merger": 0}}, {"momentum": 0.9}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        _spec(**change)
