"""Training essays and their totals -> what a grader that reads little or nothing would reach.

Floors for the total: always the mean, a straight line through the essay's length, and a ridge
regression on the characters that occur. A model that does not beat the first two has learnt nothing
from the page; one that does not beat the third knows essays by their vocabulary. They know no
rubric and no traits.

Ridge regression on few essays hardly dares to leave the mean, and kappa punishes that more than
anything. Hence the third floor comes twice: as fitted, with the smaller error, and stretched to the
spread of the training scores, with the higher kappa. What it must be stretched by is measured on
predictions for training essays that were left out of the fit (ten folds); predictions for essays
that were fitted spread much wider.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from aes.metrics.agreement import mae, quadratic_kappa

FloatArray = NDArray[np.float64]

# One to three characters that stand in two essays or more. On the 300 essays of AES-Dataset the
# rescaled kappa moves less with runs of up to two or four characters, or with penalties of 0.3 to
# 2, than with the choice of folds (an SD of 0.03); the unscaled one falls as the penalty grows.
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
    train_texts: Sequence[str], train_gold: ArrayLike, texts: Sequence[str], alpha: float
) -> tuple[FloatArray, FloatArray]:
    """Ridge regression of the score on TF-IDF of runs of one to three characters.

    Args:
        train_texts: Training essays, at least ten, not all of different characters.
        train_gold: Their scores, shape ``[M]``.
        texts: N essays to predict for.
        alpha: Weight of the penalty, above 0.

    Returns:
        Float64, shape ``[N]``, twice: as fitted, and rescaled to the spread of ``train_gold``.

    Source: Salton and Buckley (1988), Information Processing & Management 24(5), 513-523
        (TF-IDF); Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
    """
    # Slow to import, and not needed by most who import this module.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    y = np.asarray(train_gold, dtype=np.float64)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=_NGRAMS, min_df=_MIN_ESSAYS_WITH_NGRAM
    )
    train = vectorizer.fit_transform(train_texts)
    fitted = Ridge(alpha=alpha).fit(train, y).predict(vectorizer.transform(texts))
    folds = KFold(_NUM_FOLDS, shuffle=True, random_state=0)
    unseen = cross_val_predict(Ridge(alpha=alpha), train, y, cv=folds)
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
) -> dict[str, FloatArray]:
    """Totals that each floor predicts, kept within the rubric's range but not rounded.

    Args:
        train_texts: Training essays, at least one; empty where the text is not known, as of
            photos.
        train_gold: Their gold totals.
        texts: Essays to grade; alike.
        minimum: Least total of the rubric.
        maximum: Highest total of the rubric.

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
            fitted, rescaled = tfidf_ridge(train_texts, train_gold, texts, _TFIDF_ALPHA)
            totals |= {"tfidf_ridge": fitted, "tfidf_ridge_rescaled": rescaled}
    return {name: np.clip(values, minimum, maximum) for name, values in totals.items()}


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
