"""Bootstrap intervals against a plain loop, and sources that stay together."""

from math import isnan

import numpy as np
import pytest
import torch
from torch import Tensor

from aes.metrics.agreement import (
    adjacent,
    continuous_kappa,
    mae,
    mean_shift,
    pearson,
    rmse,
    sd_ratio,
    smd,
    spearman,
)
from aes.metrics.bootstrap import bootstrap, draw_counts

SOURCES = ["a", "b", "a", "c", "d", "a", "e", "c"]
RNG = np.random.default_rng(0)
GOLD = torch.from_numpy(RNG.integers(0, 6, len(SOURCES)))
PRED = torch.from_numpy(np.round(GOLD.numpy() + RNG.normal(0, 1.5, len(SOURCES)), 1))


def counts(num_resamples: int, sources: list[str] = SOURCES, seed: int = 3) -> Tensor:
    return torch.cat(list(draw_counts(sources, num_resamples=num_resamples, seed=seed)))


def test_whole_sources_are_drawn_as_many_as_there_are() -> None:
    drawn = counts(500)
    assert drawn.shape == (500, len(SOURCES))
    for name in "ac":
        columns = [i for i, source in enumerate(SOURCES) if source == name]
        assert all((drawn[:, i] == drawn[:, columns[0]]).all() for i in columns)
    first_of_each = [SOURCES.index(name) for name in "abcde"]
    assert (drawn[:, first_of_each].sum(dim=1) == 5).all()
    assert drawn[:, first_of_each].mean(dim=0).tolist() == pytest.approx([1] * 5, abs=0.15)


@pytest.mark.parametrize(
    "formula",
    [continuous_kappa, pearson, spearman, mae, rmse, mean_shift, smd, sd_ratio, adjacent],
)
def test_each_resample_is_what_a_plain_loop_measures(formula: object) -> None:
    drawn = counts(40)
    together = formula(PRED, GOLD, drawn)  # type: ignore[operator]
    assert together.shape == (40,)
    for row, value in zip(drawn, together, strict=True):
        chosen = torch.arange(len(SOURCES)).repeat_interleave(row.long())
        alone = formula(PRED[chosen], GOLD[chosen])  # type: ignore[operator]
        assert float(value) == pytest.approx(float(alone), abs=1e-6, nan_ok=True)


def test_ends_are_percentiles() -> None:
    interval = bootstrap(
        lambda drawn: {"mae": mae(PRED, GOLD, drawn)}, SOURCES, num_resamples=400, seed=3
    )["mae"]
    values = [
        float(mae(PRED[chosen], GOLD[chosen]))
        for chosen in (torch.arange(8).repeat_interleave(row.long()) for row in counts(400))
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


def test_copies_make_an_interval_no_narrower() -> None:
    gold = torch.from_numpy(RNG.normal(60, 9, 40))
    pred = gold + torch.from_numpy(RNG.normal(0, 6, 40))

    def width(copies: int, *, same_source: bool) -> float:
        p, g = pred.repeat(copies), gold.repeat(copies)
        sources = [
            f"e{i}" if same_source else f"e{i}-{k}" for k in range(copies) for i in range(40)
        ]
        interval = bootstrap(
            lambda drawn: {"r": pearson(p, g, drawn)}, sources, num_resamples=400, seed=0
        )["r"]
        return interval.high - interval.low

    honest = width(1, same_source=True)
    assert width(9, same_source=True) == pytest.approx(honest, rel=1e-4)
    assert width(9, same_source=False) < 0.5 * honest


def test_the_seed_decides_and_stretches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counts(50)
    assert torch.equal(whole, counts(50))
    assert not torch.equal(whole, counts(50, seed=4))
    monkeypatch.setattr("aes.metrics.bootstrap._MOST_COUNTS", 3 * len(SOURCES))
    stretches = list(draw_counts(SOURCES, num_resamples=50, seed=3))
    assert len(stretches) == 17
    assert torch.equal(torch.cat(stretches), whole)


def test_what_cannot_be_drawn_has_no_interval() -> None:
    def measured(sources: list[str], num_resamples: int) -> dict[str, object]:
        gold = torch.arange(len(sources))
        return dict(
            bootstrap(
                lambda drawn: {"mae": mae(gold + 1, gold, drawn)},
                sources,
                num_resamples=num_resamples,
                seed=0,
            )
        )

    assert measured(["a", "b"], 0) == {}
    assert measured([], 100) == {}
    interval = measured(["a", "a"], 100)["mae"]
    assert isnan(interval.low)  # type: ignore[attr-defined]
    assert isnan(interval.high)  # type: ignore[attr-defined]


def test_undefined_resamples_are_left_out() -> None:
    gold, pred = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    found = bootstrap(
        lambda drawn: {"r": pearson(pred, gold, drawn), "none": pearson(pred, pred * 0, drawn)},
        ["a", "b"],
        num_resamples=100,
        seed=0,
    )
    assert (found["r"].low, found["r"].high) == pytest.approx((1, 1))
    assert isnan(found["none"].low)
