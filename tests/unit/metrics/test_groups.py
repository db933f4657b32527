"""Agreement within groups."""

import math

import pytest
import torch

from aes.metrics.agreement import quadratic_kappa
from aes.metrics.groups import by_group


def test_each_group_is_measured_alone_in_order_of_appearance() -> None:
    pred = torch.tensor([80, 40, 90, 30, 70])
    gold = torch.tensor([82, 30, 84, 36, 70])
    groups = by_group(pred, gold, ["", "cut_50", "", "cut_50", ""])
    assert list(groups) == ["", "cut_50"]
    whole = torch.tensor([0, 2, 4])
    expected = quadratic_kappa(pred[whole], gold[whole], num_grades=101)
    assert groups[""].qwk == pytest.approx(float(expected))
    assert groups[""].num == 3
    assert groups["cut_50"].mae == 8.0
    assert groups["cut_50"].mean_shift == 2.0


def test_a_group_of_one_has_no_kappa_but_an_error() -> None:
    group = by_group(torch.tensor([5]), torch.tensor([9]), ["shuffled"])["shuffled"]
    assert math.isnan(group.qwk)
    assert (group.mae, group.mean_shift) == (4.0, -4.0)


def test_groups_must_fit_the_scores() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 scores"):
        by_group(torch.tensor([1, 2]), torch.tensor([1, 2]), ["a"])
