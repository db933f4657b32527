"""Predicted and gold labels -> accuracy, precision, recall and F1, per class and macro.

An answer that is none of the labels is an error like any other, and counted apart as well: it
lowers the recall of its gold class and no class's precision. Knows no model and no text but labels.

Names are ``accuracy``, ``unparsed``, the macro means ``precision``, ``recall``, ``f1``, and of each
class ``precision/<label>`` and so on.

Source: Sokolova and Lapalme (2009), Information Processing and Management 45(4), 427-437 (macro
    averages as means over classes; F1 the mean of the classes' F1). Where there is nothing to
    divide by a class has 0, as in scikit-learn's ``zero_division=0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aes.metrics.bootstrap import bootstrap
from aes.metrics.results import Interval, Metrics

UNPARSED = -1
"""Stands for the class of an answer that is none of the labels."""

OF_CLASSES = ("precision", "recall", "f1")
"""What each class has, in the order in which it is shown."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """How well labels agree with the gold ones.

    Attributes:
        labels: The classes, in the order of the data's labels.
        num: Samples.
        metrics: By name; NaN where undefined.
        intervals: Of those metrics.
        support: Samples of each class by gold.
        confusion: Samples by gold class (rows) and predicted class; the last column: unparsed.
    """

    labels: tuple[str, ...]
    num: int
    metrics: Metrics
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    support: tuple[int, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


def measure_labels(
    preds: Sequence[str | None],
    golds: Sequence[str],
    *,
    labels: Sequence[str],
    sources: Sequence[str] | None = None,
    num_resamples: int = 0,
    seed: int = 0,
) -> Classification:
    """Everything about labels that can be counted.

    Args:
        preds: Predicted labels; ``None`` or what is none of ``labels``: unparsed.
        golds: Gold labels, in the same order.
        labels: The classes.
        sources: Source of each sample for the intervals; ``None``: each is its own.
        num_resamples: Of the bootstrap; 0: no intervals.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: If a gold label is none of ``labels``.
    """
    places = {label: place for place, label in enumerate(labels)}
    if strange := [gold for gold in golds if gold not in places]:
        raise ValueError(
            f"{len(strange)} gold answers are none of the {len(labels)} labels; add them to "
            "data.labels, or mend the data"
        )
    pred = torch.tensor([places.get(p or "", UNPARSED) for p in preds], dtype=torch.int64)
    gold = torch.tensor([places[g] for g in golds], dtype=torch.int64)

    def metrics(weights: Tensor | None = None) -> dict[str, Tensor]:
        return label_metrics(pred, gold, weights, labels=labels)

    table = confusion_matrix(pred, gold, num_classes=len(labels))
    return Classification(
        labels=tuple(labels),
        num=len(golds),
        metrics={name: float(value) for name, value in metrics().items()},
        intervals=bootstrap(
            metrics,
            [str(i) for i in range(len(golds))] if sources is None else sources,
            num_resamples=num_resamples,
            seed=seed,
        ),
        support=tuple(table.sum(dim=1).tolist()),
        confusion=tuple(tuple(row) for row in table.tolist()),
    )


def confusion_matrix(pred: Tensor, gold: Tensor, *, num_classes: int) -> Tensor:
    """Samples by gold and predicted class.

    Args:
        pred: Classes in ``[0, num_classes)``, or ``UNPARSED``, int64 ``[N]``.
        gold: Classes in ``[0, num_classes)``, int64 ``[N]``.

    Returns:
        Int64 ``[num_classes, num_classes + 1]``; the last column holds what is unparsed.
    """
    columns = torch.where(pred == UNPARSED, num_classes, pred)
    cells = gold * (num_classes + 1) + columns
    counts = torch.bincount(cells, minlength=num_classes * (num_classes + 1))
    return counts.view(num_classes, num_classes + 1)


def label_metrics(
    pred: Tensor, gold: Tensor, weights: Tensor | None = None, *, labels: Sequence[str]
) -> dict[str, Tensor]:
    """Every metric by name.

    Args:
        pred: As for ``confusion_matrix``; ``gold`` alike.
        weights: How often each sample counts, float64 ``[..., N]``; ``None``: once.

    Returns:
        Float64, shape ``[...]``; NaN where undefined.
    """
    classes = torch.arange(len(labels))
    of_pred, of_gold = (given[:, None] == classes for given in (pred, gold))
    counts = torch.ones(len(pred), dtype=torch.float64) if weights is None else weights.double()
    return _of_counts(
        hits=counts @ (of_pred & of_gold).double(),
        predicted=counts @ of_pred.double(),
        support=counts @ of_gold.double(),
        unparsed=counts @ (pred == UNPARSED).double(),
        labels=labels,
    )


def metrics_of_confusion(table: Tensor, *, labels: Sequence[str]) -> dict[str, Tensor]:
    """The same from a confusion matrix, such as one that was summed over ranks.

    Args:
        table: See ``confusion_matrix``.
    """
    counts = table.double()
    return _of_counts(
        hits=counts.diagonal(),
        predicted=counts[:, :-1].sum(dim=0),
        support=counts.sum(dim=1),
        unparsed=counts[:, -1].sum(),
        labels=labels,
    )


def _of_counts(
    *, hits: Tensor, predicted: Tensor, support: Tensor, unparsed: Tensor, labels: Sequence[str]
) -> dict[str, Tensor]:
    """Metrics of counts by class ``[..., L]``.

    Macro means are over the classes that the gold labels hold: one that nobody could have found
    says nothing. What is predicted of it still lowers the recall of the right class.
    """
    total = support.sum(dim=-1)
    of_classes = {
        "precision": _share(hits, predicted),
        "recall": _share(hits, support),
        "f1": _share(2 * hits, predicted + support),
    }
    is_there = support > 0
    found = {"accuracy": hits.sum(dim=-1) / total, "unparsed": unparsed / total}
    for name, values in of_classes.items():
        there = torch.where(is_there, values, torch.nan)
        found[name] = there.nanmean(dim=-1)
        for place, label in enumerate(labels):
            found[f"{name}/{label}"] = there[..., place]
    return found


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), 0.0)
