"""Agreement against scikit-learn and scipy, and where it is undefined."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from aes.metrics.agreement import (
    adjacent,
    continuous_kappa,
    exact,
    mae,
    mean_shift,
    pearson,
    quadratic_kappa,
    rmse,
    sd_ratio,
    smd,
    spearman,
    within,
)


def graders(seed: int, num_grades: int, n: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, num_grades, n)
    pred = np.clip(gold + rng.integers(-2, 4, n), 0, num_grades - 1)
    return torch.from_numpy(pred), torch.from_numpy(gold)


@pytest.mark.parametrize("num_grades", [2, 6, 21, 101])
@pytest.mark.parametrize("seed", range(5))
def test_quadratic_kappa_equals_scikit_learn(seed: int, num_grades: int) -> None:
    pred, gold = graders(seed, num_grades)
    expected = cohen_kappa_score(
        pred.numpy(), gold.numpy(), labels=range(num_grades), weights="quadratic"
    )
    result = quadratic_kappa(pred, gold, num_grades=num_grades)
    assert result.dtype == torch.float32
    assert result.shape == ()
    assert float(result) == pytest.approx(expected, abs=1e-6)


def test_quadratic_kappa_at_its_ends() -> None:
    gold = torch.arange(21)
    assert float(quadratic_kappa(gold, gold, num_grades=21)) == 1.0
    assert float(quadratic_kappa(20 - gold, gold, num_grades=21)) == -1.0
    assert float(quadratic_kappa(torch.full((21,), 10), gold, num_grades=21)) == 0.0


def test_kappa_is_nan_without_spread_or_grades() -> None:
    threes, fives, none = torch.full((4,), 3), torch.full((4,), 5), torch.empty(0).long()
    assert quadratic_kappa(threes, threes, num_grades=6).isnan()
    assert quadratic_kappa(threes, fives, num_grades=6).isnan()
    assert quadratic_kappa(none, none, num_grades=6).isnan()
    # A third of 0.1s does not sum to 0.1 in floats; it is constant all the same.
    assert continuous_kappa(torch.full((3,), 0.1), torch.full((3,), 0.1)).isnan()


@pytest.mark.parametrize("bad", [[0, 21], [-1, 3]])
def test_quadratic_kappa_refuses_grades_off_the_scale(bad: list[int]) -> None:
    good = torch.tensor([0, 20])
    with pytest.raises(ValueError, match=r"pred holds grades .* outside \[0, 21\)"):
        quadratic_kappa(torch.tensor(bad), good, num_grades=21)
    with pytest.raises(ValueError, match="gold holds grades"):
        quadratic_kappa(good, torch.tensor(bad), num_grades=21)


def test_quadratic_kappa_refuses_fractions_and_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="round the grades"):
        quadratic_kappa(torch.tensor([1.5]), torch.tensor([1]), num_grades=5)
    with pytest.raises(ValueError, match="same shape"):
        quadratic_kappa(torch.zeros(3).long(), torch.zeros(3, 1).long(), num_grades=5)


def test_continuous_kappa_follows_its_formula() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(60, 8, 50)
    pred = 0.5 * gold + rng.normal(35, 3, 50)
    covariance = np.cov(pred, gold, bias=True)[0, 1]
    spread = pred.var() + gold.var() + (pred.mean() - gold.mean()) ** 2
    result = continuous_kappa(torch.from_numpy(pred), torch.from_numpy(gold))
    assert float(result) == pytest.approx(2 * covariance / spread, abs=1e-6)


def test_correlations_equal_scipy_with_ties() -> None:
    pred, gold = graders(3, 6)
    p, g = pred.numpy(), gold.numpy()
    assert float(pearson(pred, gold)) == pytest.approx(stats.pearsonr(p, g)[0], abs=1e-6)
    assert float(spearman(pred, gold)) == pytest.approx(stats.spearmanr(p, g)[0], abs=1e-6)


def test_correlations_are_nan_if_either_is_constant() -> None:
    constant, gold = torch.full((5,), 0.1), torch.arange(5)
    assert pearson(constant, gold).isnan()
    assert spearman(gold, constant).isnan()


def test_errors_are_in_points() -> None:
    pred, gold = torch.tensor([10.0, 14.0]), torch.tensor([13, 10])
    assert float(mae(pred, gold)) == 3.5
    assert float(rmse(pred, gold)) == pytest.approx(12.5**0.5)
    assert mae(torch.empty(0), torch.empty(0)).isnan()


@pytest.mark.parametrize(
    "modules, heavy",
    [
        (
            "aes.metrics.baseline, aes.metrics.double, aes.metrics.groups, aes.metrics.verdict",
            "torchmetrics sklearn",
        ),
        ("aes.report.card, aes.report.plots, aes.report.samples", "matplotlib wandb PIL"),
    ],
)
def test_importing_is_light(modules: str, heavy: str) -> None:
    code = (
        f"import {modules}, sys; loaded = set({heavy!r}.split()) | {{'transformers', 'lightning'}};"
        "sys.exit(str(sorted(loaded & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_shares_of_equal_and_near_scores() -> None:
    pred, gold = torch.tensor([3, 5, 9, 12]), torch.tensor([3, 6, 11, 6])
    assert float(exact(pred, gold)) == 0.25
    assert float(adjacent(pred, gold)) == 0.5
    assert float(within(pred, gold, threshold=2)) == 0.75
    assert float(within(pred, gold, threshold=1.5)) == 0.5
    assert exact(torch.empty(0), torch.empty(0)).isnan()


def test_shift_and_spread_by_hand() -> None:
    # Variances 4 and 1: pooled 2.5; means 13 and 10.
    pred, gold = torch.tensor([11.0, 15.0]), torch.tensor([9, 11])
    assert float(mean_shift(pred, gold)) == 3.0
    assert float(smd(pred, gold)) == pytest.approx(3 / 2.5**0.5)
    assert float(smd(gold, pred)) == pytest.approx(-3 / 2.5**0.5)
    assert float(sd_ratio(pred, gold)) == 2.0


def test_shift_and_spread_where_a_side_is_constant() -> None:
    constant, gold = torch.full((3,), 0.1), torch.tensor([0.0, 0.1, 0.5])
    assert float(sd_ratio(constant, gold)) == 0.0
    assert sd_ratio(gold, constant).isnan()
    assert smd(constant, constant + 1).isnan()
    assert float(smd(gold, constant)) == pytest.approx(0.1 / (gold.var(correction=0) / 2) ** 0.5)
    assert mean_shift(torch.empty(0), torch.empty(0)).isnan()


def test_weights_must_fit_the_scores() -> None:
    with pytest.raises(ValueError, match=r"weights has shape \(2,\) for 3 scores"):
        mae(torch.zeros(3), torch.zeros(3), torch.ones(2))


def test_large_scores_lose_no_digits() -> None:
    pred, gold = graders(4, 21)
    far = continuous_kappa(pred.double() + 1e8, gold.double() + 1e8)
    assert float(far) == pytest.approx(float(continuous_kappa(pred, gold)), abs=1e-6)
