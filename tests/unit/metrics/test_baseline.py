"""Baselines against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aes.metrics.baseline import baseline_metrics, predict_mean, ridge_on_length

RNG = np.random.default_rng(0)
TRAIN_LENGTHS = RNG.integers(200, 1200, 60)
TRAIN_GOLD = np.clip(20 + TRAIN_LENGTHS // 25 + RNG.integers(-9, 10, 60), 0, 100)
LENGTHS = RNG.integers(200, 1200, 25)
GOLD = np.clip(20 + LENGTHS // 25 + RNG.integers(-9, 10, 25), 0, 100)


def measured(train_lengths: np.ndarray, lengths: np.ndarray, alpha: float) -> dict[str, float]:
    return baseline_metrics(
        train_lengths=train_lengths.tolist(),
        train_gold=TRAIN_GOLD.tolist(),
        lengths=lengths.tolist(),
        gold=GOLD.tolist(),
        minimum=0,
        maximum=100,
        alpha=alpha,
    )


def test_predict_mean() -> None:
    assert predict_mean([1, 2, 6], 2).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 50.0])
def test_ridge_equals_scikit_learn(alpha: float) -> None:
    model = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
    model.fit(TRAIN_LENGTHS[:, None], TRAIN_GOLD)
    expected = model.predict(LENGTHS[:, None])
    result = ridge_on_length(TRAIN_LENGTHS, TRAIN_GOLD, LENGTHS, alpha)
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_ridge_without_any_length_predicts_the_mean() -> None:
    zeros = np.zeros(60)
    assert ridge_on_length(zeros, TRAIN_GOLD, [0, 300], 1.0).tolist() == [TRAIN_GOLD.mean()] * 2


def test_metrics_are_of_rounded_predictions() -> None:
    metrics = measured(TRAIN_LENGTHS, LENGTHS, alpha=1.0)
    pred = ridge_on_length(TRAIN_LENGTHS, TRAIN_GOLD, LENGTHS, 1.0).round().astype(int)
    kappa = cohen_kappa_score(pred, GOLD, labels=range(101), weights="quadratic")
    assert metrics["baseline/mean/qwk"] == 0.0
    assert metrics["baseline/length_ridge/qwk"] == pytest.approx(kappa, abs=1e-6)
    assert kappa > 0.5
    assert metrics["baseline/length_ridge/mae"] < metrics["baseline/mean/mae"]


def test_a_line_that_leaves_the_range_is_clipped() -> None:
    metrics = measured(TRAIN_LENGTHS, LENGTHS * 100, alpha=0.0)
    assert math.isfinite(metrics["baseline/length_ridge/qwk"])
