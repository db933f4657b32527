"""Agreement against scikit-learn and scipy, and where it is undefined."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from aes.metrics.agreement import (
    continuous_kappa,
    mae,
    pearson,
    quadratic_kappa,
    rmse,
    spearman,
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
        ("aes.metrics.agreement, aes.metrics.baseline, aes.metrics.groups", "torchmetrics"),
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
