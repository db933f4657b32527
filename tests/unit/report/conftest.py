"""A made-up evaluation of any size, with numbers that fit each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from aes.metrics import agreement as formulas
from aes.metrics.results import (
    Agreement,
    AttackResult,
    DoubleMarking,
    Evaluation,
    Interval,
    LadderResult,
    Robustness,
)
from aes.page.font import font_path
from aes.records import Deduction, Grade, Marked
from aes.rubric import Rubric

_FORMULAS: dict[str, Callable[..., torch.Tensor]] = {
    "qwk": formulas.continuous_kappa,
    "continuous_qwk": formulas.continuous_kappa,
    "pearson": formulas.pearson,
    "spearman": formulas.spearman,
    "mae": formulas.mae,
    "rmse": formulas.rmse,
}
_WHOLE = {"qwk", "exact", "adjacent"}
_COMMENT = "立意明确，材料真实，能围绕中心展开；第三段过渡稍显生硬，结尾可以再凝练一些。"


@pytest.fixture(scope="session")
def make_rubric(read_conf: Callable[..., dict[str, Any]]) -> Callable[[str], Rubric]:
    return lambda name: Rubric(**read_conf(f"rubric/{name}"))


@pytest.fixture(scope="session")
def make_evaluation() -> Callable[..., Evaluation]:
    return _make_evaluation


@pytest.fixture(scope="session")
def draw_pages() -> Callable[[str], list[Image.Image]]:
    """One or two pages of text for an id."""
    return _draw_pages


def _draw_pages(id_: str) -> list[Image.Image]:
    font = ImageFont.truetype(str(font_path("sans")), 20)
    rng = np.random.default_rng(sum(map(ord, id_)))
    pages = []
    for _ in range(1 + sum(map(ord, id_)) % 2):
        page = Image.new("RGB", (640, 928), "white")
        draw = ImageDraw.Draw(page)
        for line in range(30):
            chars = "".join(chr(0x4E00 + int(c)) for c in rng.integers(0, 3000, 29))
            draw.text((24, 20 + 29 * line), chars, "black", font)
        pages.append(page)
    return pages


def _make_evaluation(num: int, rubric: Rubric, *, full: bool = True, seed: int = 0) -> Evaluation:
    """Essays of every quality, three in a hundred unreadable; ``full``: with every part."""
    rng = np.random.default_rng(seed)
    marked = [_mark(i, rubric, rng, unread=i % 33 == 7) for i in range(num)]
    gold = np.array([float(sum(m.gold.values())) for m in marked])
    pred = np.array(
        [m.grade.subtotal if m.grade.parse_error == "" else rubric.minimum_total for m in marked]
    )
    low, high = rubric.minimum_total, rubric.maximum_total
    everyone = _agreement(marked, pred, rubric)
    plain = Evaluation(
        facts={
            "run": "outputs/2026-01-02/03-04-05",
            "model": "Qwen3-VL-30B-A3B-Instruct + LoRA r=8",
            "adapter": "sha256:1f6c0d9b41f3a2",
            "data": f"aes_dataset, split test, {num} essays",
            "decoding": "constrained JSON, expected scores, greedy",
        },
        marked=marked,
        agreement=everyone,
    )
    if not full:
        return plain
    lengths = np.array([m.num_chars for m in marked])
    noise = rng.normal(0, gold.std(), num)
    guesses = {
        "mean": np.full(num, gold.mean()),
        "length_ridge": gold.mean() + 0.2 * (gold - gold.mean()),
        "tfidf_ridge": gold.mean() + 0.25 * (gold - gold.mean()) + 0.2 * noise,
        "tfidf_ridge_rescaled": gold.mean() + 0.4 * (gold - gold.mean()) + 0.8 * noise,
        "no_adapter": 0.3 * gold + 0.5 * high + 0.3 * noise,
    }
    total_only = {
        name: _of_total(marked, np.clip(guess, low, high), rubric)
        for name, guess in guesses.items()
    }
    quarters = np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths)
    names = ["至 560 字", "561–720 字", "721–900 字", "901 字以上"]
    bands = [rubric.bands[rubric.band_index(g)].label for g in gold]
    shifted = np.clip(pred + 0.4 * (gold - pred), low, high)
    second = np.clip(gold + rng.normal(0, 0.09 * high, num), low, high)
    return replace(
        plain,
        by_length=_split(marked, pred, [names[q] for q in quarters], names, rubric),
        by_band=_split(marked, pred, bands, [band.label for band in rubric.bands], rubric),
        by_group=_split(marked, pred, [m.group for m in marked], ["", "cut_50"], rubric),
        calibrated={
            "linear": _of_total(marked, shifted, rubric),
            "isotonic": _of_total(marked, shifted, rubric),
        },
        calibrated_totals={
            "linear": np.where([m.grade.parse_error != "" for m in marked], nan, shifted).tolist(),
            "isotonic": [nan if m.grade.parse_error else m.grade.expected_subtotal for m in marked],
        },
        calibration_source="folds",
        calibration_note="out-of-fold predictions of the other four folds",
        baselines=total_only,
        text={"predict_bleu-4": 41.23, "predict_rouge-1": 55.1, "predict_rouge-l": 38.02},
        double=DoubleMarking(
            names=("seed 1", "seed 2"),
            num=num,
            threshold=6,
            agreement=_agreement(marked, second, rubric).metrics,
            arbitration_rate=0.173,
            first=everyone,
            second=_of_total(marked, second, rubric),
            mean=_of_total(marked, (second + pred) / 2, rubric),
            mean_accepted=_of_total(marked, (second + gold) / 2, rubric),
        ),
        robustness=_robustness(),
        threshold=6,
        is_sample=num <= 50,
    )


def _mark(i: int, rubric: Rubric, rng: np.random.Generator, *, unread: bool) -> Marked:
    quality, kindness = rng.beta(4, 2), rng.normal(0, 0.08)
    gold, scores, expected, spread = {}, {}, {}, {}
    for name, (low, high) in rubric.ranges.items():
        noise = rng.normal(0, 0.07, 2)
        gold[name] = int(np.clip(round(low + (high - low) * (quality + noise[0])), low, high))
        seen = 0.15 + 0.75 * quality + kindness + noise[1]
        expected[name] = float(np.clip(low + (high - low) * seen, low, high))
        scores[name] = round(expected[name])
        spread[name] = float((0.03 + abs(kindness) * 0.5 + rng.uniform(0, 0.05)) * (high - low))
    answer = json.dumps({"scores": scores, "feedback": _COMMENT}, ensure_ascii=False)
    deductions = (Deduction(code="missing_title", points=2, reason="没有标题"),) * (i % 5 == 0)
    subtotal = float(sum(scores.values()))
    grade = Grade(
        id=f"essay_{i:03d}",
        scores=scores,
        expected=expected,
        spread=spread,
        subtotal=subtotal,
        expected_subtotal=sum(expected.values()),
        uncertainty=float(np.sqrt(sum(s**2 for s in spread.values()))),
        deductions=deductions,
        total=subtotal - sum(d.points for d in deductions),
        feedback=_COMMENT * (1 + i % 3),
        raw=answer,
    )
    if unread:
        grade = Grade(id=grade.id, parse_error="not JSON: Expecting ',' delimiter", raw=answer[:40])
    return Marked(
        id=grade.id,
        source=f"essay_{i - i % 4 if i % 8 == 1 else i:03d}",
        group="cut_50" if i % 8 == 1 else "",
        num_chars=int(300 + 700 * quality + rng.normal(0, 120)),
        gold=gold,
        gold_text=json.dumps({"scores": gold, "feedback": _COMMENT}, ensure_ascii=False),
        grade=grade,
        fold=i % 5,
    )


def _agreement(marked: Sequence[Marked], pred: np.ndarray, rubric: Rubric) -> Agreement:
    """Of the total and of each trait."""
    metrics = dict(_of_total(marked, pred, rubric).metrics)
    for name, (low, _) in rubric.ranges.items():
        gold = np.array([m.gold[name] for m in marked], dtype=float)
        guess = np.array([m.grade.expected.get(name, low) for m in marked], dtype=float)
        metrics |= _measure(guess, gold, name)
    return _with_intervals(marked, metrics)


def _of_total(marked: Sequence[Marked], pred: np.ndarray, rubric: Rubric) -> Agreement:
    gold = np.array([float(sum(m.gold.values())) for m in marked])
    metrics = _measure(pred, gold, "total")
    bands = [np.array([rubric.band_index(round(v)) for v in of]) for of in (pred, gold)]
    apart = abs(bands[0] - bands[1])
    metrics |= {
        "within_threshold/total": float((abs(pred - gold) <= 6).mean()),
        "band_qwk/total": float(formulas.continuous_kappa(*(torch.tensor(b) for b in bands))),
        "band_exact/total": float((apart == 0).mean()),
        "band_adjacent/total": float((apart <= 1).mean()),
        "parse_rate": float(np.mean([not m.grade.parse_error for m in marked])),
    }
    return _with_intervals(marked, metrics)


def _measure(pred: np.ndarray, gold: np.ndarray, part: str) -> dict[str, float]:
    exact, rounded = [torch.from_numpy(v) for v in (pred, gold)], torch.from_numpy(pred.round())
    metrics = {
        f"{name}/{part}": float(formula(rounded if name in _WHOLE else exact[0], exact[1]))
        for name, formula in _FORMULAS.items()
    }
    apart, spread = abs(pred.round() - gold), np.hypot(gold.std(), pred.std()) / np.sqrt(2)
    shift = float((pred - gold).mean())
    return metrics | {
        f"exact/{part}": float((apart == 0).mean()),
        f"adjacent/{part}": float((apart <= 1).mean()),
        f"mean_shift/{part}": shift,
        f"smd/{part}": float(shift / spread) if spread else nan,
        f"sd_ratio/{part}": float(pred.std() / gold.std()) if gold.std() else nan,
    }


def _with_intervals(marked: Sequence[Marked], metrics: dict[str, float]) -> Agreement:
    half = 1.6 / np.sqrt(len(marked))
    return Agreement(
        num=len(marked),
        num_sources=len({m.source for m in marked}),
        metrics=metrics,
        intervals={
            name: Interval(value - half * max(1, value), value + half * max(1, value))
            for name, value in metrics.items()
        },
    )


def _split(
    marked: Sequence[Marked],
    pred: np.ndarray,
    groups: Sequence[str],
    names: Sequence[str],
    rubric: Rubric,
) -> dict[str, Agreement]:
    found = {}
    for name in names:
        here = [i for i, group in enumerate(groups) if group == name]
        if here:
            found[name] = _of_total([marked[i] for i in here], pred[here], rubric)
    return found


def _robustness() -> Robustness:
    def ladder(share: float, drop: float) -> LadderResult:
        ends = Interval(share - 0.07, share + 0.06)
        return LadderResult(
            num_pairs=240,
            share_in_order=share,
            mean_drop=drop,
            interval=ends,
            drop_interval=Interval(drop - 0.9, drop + 0.8),
        )

    def attack(name: str, change: float, rate: float, goal: str = "gain") -> AttackResult:
        return AttackResult(
            name=name,
            goal=goal,  # type: ignore[arg-type]
            num=50,
            mean_change=change,
            interval=Interval(change - 1.2, change + 1.2),
            num_with_room=44,
            success_rate=rate,
            success_interval=Interval(rate - 0.02, rate + 0.05),
            worst_change=change + 9,
        )

    return Robustness(
        ladder={"all": ladder(0.871, 4.2), "cut": ladder(0.96, 6.1), "shuffle": ladder(0.61, 0.4)},
        attacks=[
            attack("order/text", 0.31, 0.02),
            attack("order/page", 3.9, 0.34),
            attack("order/page/w1", 4.5, 0.4),
            attack("order/page/begin", 2.5, 0.2),
            attack("white_on_white", 0.1, 0.0),
            attack("off_topic", -2.0, 0.62, "unnoticed"),
            attack("padding", nan, nan),
        ],
        honest_drift={"noise of the page": 0.42, "type size": 0.88},
        gain_points=6,
        num_essays=50,
        skipped={"no free line for white-on-white text": 3},
    )
