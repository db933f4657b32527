"""Totals and a group for each essay -> agreement within each group, e.g. each degradation.

Knows nothing of what the groups mean. Small groups make noisy numbers, so that each comes with
its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aes.metrics.agreement import continuous_kappa, mae


@dataclass(frozen=True, kw_only=True)
class GroupAgreement:
    """Agreement within one group.

    Attributes:
        num: Essays in the group.
        qwk: Quadratic kappa; NaN where undefined.
        mae: Mean absolute difference in points.
        mean_shift: Mean of prediction minus gold in points; positive: graded too kindly.
    """

    num: int
    qwk: float
    mae: float
    mean_shift: float


def by_group(pred: Tensor, gold: Tensor, groups: Sequence[str]) -> dict[str, GroupAgreement]:
    """Agreement within each group, in the order in which the groups first appear.

    Args:
        pred: Scores, any real dtype, shape ``[N]``; whole numbers give the usual QWK.
        gold: Alike.
        groups: Group of each essay, length N; ``""`` is a group like any other.

    Returns:
        By group.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(groups) != len(pred):
        raise ValueError(f"{len(groups)} groups for {len(pred)} scores; pass one group a score")
    agreement = {}
    for group in dict.fromkeys(groups):
        here = torch.tensor([g == group for g in groups], device=pred.device)
        p, g = pred[here].double(), gold[here].double()
        agreement[group] = GroupAgreement(
            num=len(p),
            qwk=float(continuous_kappa(p, g)),
            mae=float(mae(p, g)),
            mean_shift=float((p - g).mean()),
        )
    return agreement
