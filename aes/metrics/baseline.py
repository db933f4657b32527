"""Training essays and their totals -> what a grader that reads little or nothing would reach.

Floors for the total: always the mean, a straight line through the essay's length, and a ridge
regression on the characters that occur. A model that does not beat the first two has learnt nothing
from the page; one that does not beat the third knows essays by their vocabulary. They know no
rubric and no traits.

Ridge regression on few essays hardly dares to leave the mean, and kappa punishes that more than
anything. Hence the third floor comes twice: as fitted, with the smaller error, and stretched to the
spread of the training scores, with the higher kappa. What it must be stretched by is measured on
predictions for training essays that were left out of the fit with all their copies (ten folds);
predictions for essays that were fitted, or copies of them, spread much wider.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from aes.metrics.agreement import mae, quadratic_kappa

FloatArray = NDArray[np.float64]

# One to three characters that stand in two essays or more. On the 300 essays of AES-Dataset, same
# folds, the rescaled kappa is .34 to .36 with runs of up to two, three or four characters and with
# penalties of 0.3 to 2 (SD between choices of folds .005); the unscaled one falls from .19 to .11
# as the penalty grows.
_NGRAMS = (1, 3)
_MIN_ESSAYS_WITH_NGRAM = 2
_TFIDF_ALPHA = 0.5
_LENGTH_ALPHA = 1.0
_NUM_FOLDS = 10
_FEWEST_TEXTS = 20


def predict_mean(gold_train: ArrayLike, n: int) -> FloatArray:
    """The mean training score for every essay.

    Args:
        gold_train: Training scores, shape ``[M]``, M at least 1.
        n: Number of essays to predict.

    Returns:
        Float64, shape ``[n]``.
    """
    return np.full(n, np.mean(np.asarray(gold_train, dtype=np.float64)))


def ridge_on_length(
    train_lengths: ArrayLike, train_gold: ArrayLike, lengths: ArrayLike, alpha: float
) -> FloatArray:
    """Ridge regression of the score on the standardised length, intercept unpenalised.

    Args:
        train_lengths: Lengths of the training essays in characters, shape ``[M]``, M at least 1.
        train_gold: Their scores, shape ``[M]``.
        lengths: Lengths to predict for, shape ``[N]``.
        alpha: Weight of the penalty on the squared slope, at least 0.

    Returns:
        Float64, shape ``[N]``; the mean score where all training lengths are equal.

    Source: Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
    """
    x, y, new = (np.asarray(a, dtype=np.float64) for a in (train_lengths, train_gold, lengths))
    scale = x.std()
    if scale == 0:
        return predict_mean(y, len(new))
    z = (x - x.mean()) / scale
    slope = z @ (y - y.mean()) / (z @ z + alpha)
    return np.asarray(y.mean() + slope * (new - x.mean()) / scale, dtype=np.float64)


def tfidf_ridge(
    train_texts: Sequence[str],
    train_gold: ArrayLike,
    texts: Sequence[str],
    alpha: float,
    *,
    train_sources: Sequence[str] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Ridge regression of the score on TF-IDF of runs of one to three characters.

    Args:
        train_texts: Training essays, not all of different characters.
        train_gold: Their scores, shape ``[M]``.
        texts: N essays to predict for.
        alpha: Weight of the penalty, above 0.
        train_sources: Source of each training essay, length M; ``None``: no two share one.

    Returns:
        Float64, shape ``[N]``, twice: as fitted, and rescaled to the spread of ``train_gold``;
        as fitted both times where there is but one source.

    Source: Salton and Buckley (1988), Information Processing & Management 24(5), 513-523
        (TF-IDF); Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
    """
    # Slow to import, and not needed by most who import this module.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    y = np.asarray(train_gold, dtype=np.float64)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=_NGRAMS, min_df=_MIN_ESSAYS_WITH_NGRAM
    )
    train = vectorizer.fit_transform(train_texts)
    fitted = Ridge(alpha=alpha).fit(train, y).predict(vectorizer.transform(texts))
    sources = [str(i) for i in range(len(y))] if train_sources is None else train_sources
    folds = _deal_sources(sources, _NUM_FOLDS)
    if not folds.any():
        return fitted, fitted
    unseen = cross_val_predict(Ridge(alpha=alpha), train, y, cv=PredefinedSplit(folds))
    if unseen.std() == 0:
        return fitted, fitted
    return fitted, y.mean() + (fitted - unseen.mean()) * y.std() / unseen.std()


def baseline_totals(
    *,
    train_texts: Sequence[str],
    train_gold: Sequence[float],
    texts: Sequence[str],
    minimum: float,
    maximum: float,
    train_sources: Sequence[str] | None = None,
) -> dict[str, FloatArray]:
    """Totals that each floor predicts, kept within the rubric's range but not rounded.

    Args:
        train_texts: Training essays, at least one; empty where the text is not known, as of
            photos.
        train_gold: Their gold totals.
        texts: Essays to grade; alike.
        minimum: Least total of the rubric.
        maximum: Highest total of the rubric.
        train_sources: Source of each training essay; ``None``: no two share one.

    Returns:
        ``mean``; where all texts are known also ``length_ridge``, and with at least twenty to
        learn from ``tfidf_ridge`` and ``tfidf_ridge_rescaled``; float64, shape ``[N]``.
    """
    totals = {"mean": predict_mean(train_gold, len(texts))}
    if texts and all(train_texts) and all(texts):
        lengths, train_lengths = (
            [len("".join(text.split())) for text in part] for part in (texts, train_texts)
        )
        totals["length_ridge"] = ridge_on_length(train_lengths, train_gold, lengths, _LENGTH_ALPHA)
        if len(train_texts) >= _FEWEST_TEXTS:
            fitted, rescaled = tfidf_ridge(
                train_texts, train_gold, texts, _TFIDF_ALPHA, train_sources=train_sources
            )
            totals |= {"tfidf_ridge": fitted, "tfidf_ridge_rescaled": rescaled}
    return {name: np.clip(values, minimum, maximum) for name, values in totals.items()}


def cross_fitted_totals(
    texts: Sequence[str],
    gold: Sequence[float],
    sources: Sequence[str],
    *,
    minimum: float,
    maximum: float,
    num_folds: int = 5,
) -> dict[str, FloatArray]:
    """Totals of each floor where nobody knows other essays to learn from: one part from the rest.

    Args:
        texts: N essays; empty where the text is not known, as for ``baseline_totals``.
        gold: Their gold totals.
        sources: Source of each; no essay is predicted from copies of its own source.
        minimum: Least total of the rubric.
        maximum: Highest total of the rubric.
        num_folds: At most so many parts, at least 2.

    Returns:
        As ``baseline_totals``, those floors that every part has; nothing with fewer than two
        sources.
    """
    folds = _deal_sources(sources, num_folds)
    found: dict[str, FloatArray] = {}
    if not folds.any():
        return found
    for fold in range(int(folds.max()) + 1):
        rest, part = (np.flatnonzero(chosen).tolist() for chosen in (folds != fold, folds == fold))
        totals = baseline_totals(
            train_texts=[texts[i] for i in rest],
            train_gold=[gold[i] for i in rest],
            train_sources=[sources[i] for i in rest],
            texts=[texts[i] for i in part],
            minimum=minimum,
            maximum=maximum,
        )
        for name, values in totals.items():
            found.setdefault(name, np.full(len(texts), np.nan))[part] = values
    return {name: values for name, values in found.items() if not np.isnan(values).any()}


def _deal_sources(sources: Sequence[str], num_folds: int) -> NDArray[np.int64]:
    """Number of each essay's fold, from 0; the sources are dealt out in turn, in a mixed order."""
    names = sorted(set(sources))
    order = np.random.default_rng(0).permutation(len(names))
    fold_of = {name: int(i) % num_folds for name, i in zip(names, order, strict=True)}
    return np.array([fold_of[source] for source in sources], dtype=np.int64)


def baseline_metrics(
    *,
    train_lengths: Sequence[int],
    train_gold: Sequence[int],
    lengths: Sequence[int],
    gold: Sequence[int],
    minimum: int,
    maximum: int,
    alpha: float = _LENGTH_ALPHA,
) -> dict[str, float]:
    """Agreement of the two cheap floors with the gold totals, rounded into the range.

    Args:
        train_lengths: Lengths of the training essays in characters, at least one.
        train_gold: Their gold totals.
        lengths: Lengths of the essays to grade.
        gold: Their gold totals.
        minimum: Least total of the rubric.
        maximum: Highest total of the rubric.
        alpha: Penalty of ``ridge_on_length``.

    Returns:
        ``baseline/mean/qwk`` (0 by construction), ``baseline/length_ridge/qwk`` and the same
        two with ``mae``; NaN where undefined.
    """
    predictions = {
        "mean": predict_mean(train_gold, len(gold)),
        "length_ridge": ridge_on_length(train_lengths, train_gold, lengths, alpha),
    }
    gold_total = torch.tensor(gold, dtype=torch.int64)
    metrics = {}
    for name, raw in predictions.items():
        pred = torch.from_numpy(raw).round().clamp(minimum, maximum).long()
        kappa = quadratic_kappa(
            pred - minimum, gold_total - minimum, num_grades=maximum - minimum + 1
        )
        metrics[f"baseline/{name}/qwk"] = float(kappa)
        metrics[f"baseline/{name}/mae"] = float(mae(pred, gold_total))
    return metrics
