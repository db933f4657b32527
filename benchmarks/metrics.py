"""How fast text is scored: ours against the usual pure Python, in one run, on one core.

    python benchmarks/metrics.py [--out benchmarks/results/metrics.json] [--pairs 4] [--repeats 3]

The reference cuts words with jieba, takes ROUGE from rouge-chinese and BLEU-4 from nltk. Pairs are
made of the sample essays: half of them of two stretches, half of a stretch and a copy in which
every tenth character is another. No gold text comes twice; "gold kept" scores the same pairs a
second time, as when a second model is evaluated on the same essays. "words only" cuts both texts
with jieba and does nothing else. The figures are medians over the repeats, which take the ways in
turn, of the mean CPU time a pair (every way uses one thread); building jieba's dictionary is timed
by itself. The run stops if the two ways give unlike scores.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jieba

try:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge
except ImportError as error:
    raise SystemExit(f"{error.name} is missing: pip install -e '.[dev]'") from None

from aes.corpus import load_sample
from aes.metrics.text import text_scores

LENGTHS = (100, 400, 700, 1400)
Pair = tuple[str, str]


def make_pairs(num_chars: int, num_pairs: int, round_: int) -> list[Pair]:
    """Pairs of two stretches and of a stretch and its altered copy, in turn; other ones a round."""
    essays = "\n".join(essay.text for essay in load_sample())
    # Starts that no other round has; the text goes round, as a ring.
    starts = [(round_ * num_pairs + i) * 997 % len(essays) for i in range(num_pairs)]
    ring = essays * 2
    pairs = []
    for i, start in enumerate(starts):
        gold = ring[start : start + num_chars]
        other = ring[(start + len(essays) // 2) % len(essays) :][:num_chars]
        altered = "".join(gold[j] if j % 10 else other[j] for j in range(num_chars))
        pairs.append((altered if i % 2 else other, gold))
    return pairs


def reference_scores(pred: str, gold: str) -> dict[str, float]:
    """The scores as LLaMA-Factory puts them together."""
    found = Rouge().get_scores(" ".join(jieba.cut(pred)), " ".join(jieba.cut(gold)))[0]
    smoothing = SmoothingFunction().method3
    bleu = sentence_bleu([list(gold)], list(pred), smoothing_function=smoothing)
    rouge = {name: round(score["f"] * 100, 4) for name, score in found.items()}
    return {"bleu-4": round(bleu * 100, 4)} | rouge


def cut_both(pred: str, gold: str) -> dict[str, float]:
    """What no way that uses jieba can do without."""
    return {"words": len(list(jieba.cut(pred))) + len(list(jieba.cut(gold)))}


def ms_per_pair(
    score: Callable[[str, str], dict[str, float]], pairs: Sequence[Pair]
) -> tuple[float, list[dict[str, float]]]:
    """Mean CPU time a pair in ms, and the scores."""
    start = time.process_time()
    scores = [score(*pair) for pair in pairs]
    return (time.process_time() - start) / len(pairs) * 1e3, scores


def measure(num_chars: int, num_pairs: int, repeats: int) -> dict[str, float]:
    """Time a pair in ms of each way."""
    rounds = []
    for round_ in range(repeats):
        pairs = make_pairs(num_chars, num_pairs, round_)
        ours, scores = ms_per_pair(text_scores, pairs)
        gold_kept, _ = ms_per_pair(text_scores, pairs)
        words_only, _ = ms_per_pair(cut_both, pairs)
        reference, expected = ms_per_pair(reference_scores, pairs)
        assert scores == expected, "the two ways give unlike scores"
        rounds.append(
            {
                "reference": reference,
                "ours": ours,
                "ours_gold_kept": gold_kept,
                "words_only": words_only,
            }
        )
    return {way: statistics.median(times[way] for times in rounds) for way in rounds[0]}


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description="How fast text is scored.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/metrics.json"))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jieba.setLogLevel(logging.CRITICAL)
    jieba.initialize()
    first_ms, _ = ms_per_pair(text_scores, [("花", "花")])
    ms = {n: measure(n, args.pairs, args.repeats) for n in LENGTHS}
    print(f"{args.pairs} pairs of each length, {args.repeats} rounds, one core; all scores equal")
    print(f"{'':>11}{'CPU ms a pair':>44}{'times faster':>24}")
    print(
        f"{'characters':>11}{'reference':>11}{'ours':>9}{'gold kept':>12}{'words only':>12}"
        f"{'ours':>12}{'gold kept':>12}"
    )
    for num_chars, times in ms.items():
        reference, ours, kept, words = times.values()
        print(
            f"{num_chars:>11}{reference:>11.1f}{ours:>9.2f}{kept:>12.2f}{words:>12.2f}"
            f"{reference / ours:>12.1f}{reference / kept:>12.1f}"
        )
    print(f"the first pair of a process: {first_ms:.0f} ms (builds jieba's dictionary)")
    result = {
        "cpu_ms_per_pair": {
            str(n): {way: round(value, 3) for way, value in times.items()}
            for n, times in ms.items()
        },
        "cpu_ms_first_pair": round(first_ms, 1),
        "num_pairs": args.pairs,
        "repeats": args.repeats,
        "times_faster": {
            str(n): round(times["reference"] / times["ours"], 1) for n, times in ms.items()
        },
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"one of {os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "machine": platform.machine(),
    } | {name: version(name) for name in ("jieba", "nltk", "rapidfuzz", "rouge-chinese")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
