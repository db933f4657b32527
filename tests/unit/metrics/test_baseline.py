"""Baselines against scikit-learn."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aes.metrics.baseline import (
    baseline_metrics,
    baseline_totals,
    cross_fitted_totals,
    predict_mean,
    ridge_on_length,
    tfidf_ridge,
)
from aes.rubric import Rubric

REAL_ROOT = Path(__file__).parents[4] / "shared" / "data" / "AES_Dataset"
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


def essay(quality: int, length: int, rng: np.random.Generator) -> str:
    """Running text in which good characters grow with the quality."""
    good = rng.random(length) < quality / 100
    codes = np.where(good, 0x4E00, 0x5E00) + rng.integers(0, 60, length)
    return "".join(map(chr, codes))


TEXTS = [essay(g, n, RNG) for g, n in zip(TRAIN_GOLD, TRAIN_LENGTHS, strict=True)]
NEW_TEXTS = [essay(g, n, RNG) for g, n in zip(GOLD, LENGTHS, strict=True)]


def totals(train_texts: list[str], texts: list[str], maximum: int = 100) -> dict[str, np.ndarray]:
    return baseline_totals(
        train_texts=train_texts,
        train_gold=TRAIN_GOLD[: len(train_texts)].tolist(),
        texts=texts,
        minimum=0,
        maximum=maximum,
    )


def test_tfidf_ridge_equals_a_pipeline_of_scikit_learn() -> None:
    model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2), Ridge(2))
    model.fit(TEXTS, TRAIN_GOLD)
    fitted, _ = tfidf_ridge(TEXTS, TRAIN_GOLD, NEW_TEXTS, 2.0)
    np.testing.assert_allclose(fitted, model.predict(NEW_TEXTS), rtol=1e-6)


def test_rescaling_stretches_to_the_spread_of_training_scores() -> None:
    fitted, rescaled = tfidf_ridge(TEXTS, TRAIN_GOLD, NEW_TEXTS, 50.0)
    assert np.corrcoef(fitted, rescaled)[0, 1] == pytest.approx(1)
    # So strong a penalty leaves next to nothing of the spread.
    assert fitted.std() < 0.2 * TRAIN_GOLD.std()
    assert rescaled.std() == pytest.approx(TRAIN_GOLD.std(), rel=0.25)
    kappas = [cohen(pred) for pred in (fitted, rescaled)]
    assert kappas[1] > kappas[0] + 0.2


def cohen(pred: np.ndarray) -> float:
    whole = pred.round().clip(0, 100).astype(int)
    return float(cohen_kappa_score(whole, GOLD, labels=range(101), weights="quadratic"))


def test_totals_of_every_floor_stay_within_the_range() -> None:
    found = totals(TEXTS, NEW_TEXTS, maximum=45)
    assert list(found) == ["mean", "length_ridge", "tfidf_ridge", "tfidf_ridge_rescaled"]
    assert all(values.shape == (25,) for values in found.values())
    assert all(0 <= values.min() <= values.max() <= 45 for values in found.values())
    lengths = ridge_on_length(TRAIN_LENGTHS, TRAIN_GOLD, LENGTHS, 1.0)
    np.testing.assert_allclose(found["length_ridge"], lengths.clip(0, 45))


def test_floors_without_their_material_are_left_out() -> None:
    assert list(totals(["", *TEXTS[1:]], NEW_TEXTS)) == ["mean"]
    assert list(totals(TEXTS, [*NEW_TEXTS, ""])) == ["mean"]
    assert list(totals(TEXTS[:5], NEW_TEXTS)) == ["mean", "length_ridge"]


def test_copies_are_not_left_in_the_fit_that_measures_the_spread() -> None:
    texts, gold = TEXTS[:30] * 3, np.tile(TRAIN_GOLD[:30], 3)
    sources = [f"s{i % 30}" for i in range(90)]
    fitted, apart = tfidf_ridge(texts, gold, NEW_TEXTS, 0.5, train_sources=sources)
    _, together = tfidf_ridge(texts, gold, NEW_TEXTS, 0.5)
    # Left-out essays whose copies were fitted look as if they were predicted with full spread.
    assert apart.std() > 1.3 * together.std() > 1.0 * fitted.std()
    fitted, rescaled = tfidf_ridge(texts, gold, NEW_TEXTS, 0.5, train_sources=["one"] * 90)
    assert (fitted == rescaled).all()


def crossed(texts: list[str], gold: np.ndarray, sources: list[str]) -> dict[str, np.ndarray]:
    return cross_fitted_totals(texts, gold.tolist(), sources, minimum=0, maximum=100)


def test_neither_an_essay_nor_its_copies_influence_its_prediction() -> None:
    texts, sources = list(TEXTS), [f"s{i // 2}" for i in range(60)]
    before = crossed(texts, TRAIN_GOLD, sources)
    assert list(before) == ["mean", "length_ridge", "tfidf_ridge", "tfidf_ridge_rescaled"]
    gold = TRAIN_GOLD.copy()
    gold[[6, 7]] = 100, 0
    texts[7] = "变" * 3000
    after = crossed(texts, gold, sources)
    for name, values in before.items():
        assert values[6] == after[name][6]
        assert not np.isnan(values).any()
        # Others do learn from them.
        assert (values != after[name]).sum() >= 40


def test_fewer_sources_make_fewer_folds() -> None:
    gold = TRAIN_GOLD[:6]
    found = crossed(TEXTS[:6], gold, list("aaabbb"))
    assert list(found) == ["mean", "length_ridge"]
    means = [gold[3:].mean()] * 3 + [gold[:3].mean()] * 3
    assert found["mean"] == pytest.approx(means)
    assert crossed(TEXTS[:6], gold, list("aaaaaa")) == {}
    assert crossed([], gold[:0], []) == {}
    assert list(crossed(["", *TEXTS[1:6]], gold, list("abcdef"))) == ["mean"]


@pytest.mark.command
@pytest.mark.skipif(not REAL_ROOT.is_dir(), reason="AES-Dataset does not lie beside the checkout")
def test_floors_on_aes_dataset() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "aes_dataset_baselines.py"
    spec = importlib.util.spec_from_file_location("aes_dataset_baselines", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rubric = Rubric(**benchmark.read_conf("rubric/holistic100"))
    essays = benchmark.read_essays(REAL_ROOT, rubric)
    found = benchmark.measure_all(essays, rubric, seed=0, num_resamples=0)
    qwk = {name: agreement.metrics["qwk/total"] for name, agreement in found.items()}
    rmse = {name: agreement.metrics["rmse/total"] for name, agreement in found.items()}
    assert found["mean"].num == 300
    # Between choices of folds kappa has an SD of 0.005.
    assert qwk["tfidf_ridge"] == pytest.approx(0.17, abs=0.03)
    assert qwk["tfidf_ridge_rescaled"] == pytest.approx(0.34, abs=0.03)
    assert rmse["mean"] == pytest.approx(8.25, abs=0.02)
    assert rmse["tfidf_ridge"] == pytest.approx(7.8, abs=0.1)
    assert rmse["tfidf_ridge_rescaled"] > rmse["mean"]
    assert found["tfidf_ridge_rescaled"].metrics["sd_ratio/total"] == pytest.approx(1, abs=0.1)
    assert qwk["length_ridge"] < 0.1
