"""What graders that read little or nothing reach on AES-Dataset: the floor for every model.

    python benchmarks/aes_dataset_baselines.py DATA_ROOT [--seeds 5] [--resamples 1000]
        [--out benchmarks/results/aes_dataset_baselines.json]

Five folds pooled over all 300 essays, mismatched ones included, cut as ``data.fold`` and
``data.num_folds`` cut them: no essay is predicted by a fit that saw it or a near copy of it. One
table a seed would show the choice of folds as skill, so that the numbers are means over seeds, with
the standard deviation between seeds; the intervals are those of the first seed, over essays.

``tfidf_ridge_rescaled`` is stretched within each fold, by what its training essays say.
``tfidf_ridge_stretched`` is the same predictions stretched once, all 300 of them to the spread of
all gold scores, which uses scores that a grader does not have; for comparison with figures that
were made so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from aes.corpus import AesDataset
from aes.corpus.split import split_essays
from aes.metrics.baseline import baseline_totals
from aes.metrics.measure import measure_values
from aes.metrics.results import Agreement
from aes.records import Essay
from aes.rubric import Rubric

CONF = Path(__file__).parents[1] / "conf"
NUM_FOLDS = 5
COLUMNS = ("qwk", "pearson", "spearman", "mae", "rmse", "sd_ratio")


def read_conf(name: str) -> dict[str, object]:
    """Values of a file under conf, without what belongs to Hydra."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key not in ("_target_", "defaults")}


def read_essays(root: Path, rubric: Rubric) -> tuple[Essay, ...]:
    """All essays of the data set, those with problems included."""
    keys = read_conf("data/aes_dataset") | {"split_seed": 0, "on_problem": "keep", "root": root}
    corpus = AesDataset(**keys)  # type: ignore[arg-type]

    def open_page(path: object) -> None:
        raise ValueError(f"{path} is an image; this benchmark needs typed essays")

    return corpus.read(
        find_undrawable=lambda text: "",  # noqa: ARG005 (nothing is drawn here)
        open_page=open_page,
        ranges=rubric.ranges,
    ).essays


def pooled_totals(
    essays: Sequence[Essay], rubric: Rubric, *, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Out-of-fold totals by baseline, in the order of ``essays``."""
    place = {essay.id: i for i, essay in enumerate(essays)}
    pooled: dict[str, NDArray[np.float64]] = {}
    for number in range(NUM_FOLDS):
        parts = split_essays(
            essays, val_fraction=0, test_fraction=0, seed=seed, fold=(number, NUM_FOLDS)
        )
        totals = baseline_totals(
            train_texts=[f"{essay.title}\n{essay.text}" for essay in parts.train],
            train_gold=[rubric.total(essay.scores) for essay in parts.train],
            train_sources=[essay.source or essay.id for essay in parts.train],
            texts=[f"{essay.title}\n{essay.text}" for essay in parts.test],
            minimum=rubric.minimum_total,
            maximum=rubric.maximum_total,
        )
        here = [place[essay.id] for essay in parts.test]
        for name, values in totals.items():
            pooled.setdefault(name, np.full(len(essays), np.nan))[here] = values
    raw, gold = pooled["tfidf_ridge"], np.array([rubric.total(essay.scores) for essay in essays])
    pooled["tfidf_ridge_stretched"] = gold.mean() + (raw - raw.mean()) * gold.std() / raw.std()
    return pooled


def measure_all(
    essays: Sequence[Essay], rubric: Rubric, *, seed: int, num_resamples: int
) -> dict[str, Agreement]:
    """Agreement of each baseline with the gold totals, one choice of folds."""
    return {
        name: measure_values(
            totals,
            [rubric.total(essay.scores) for essay in essays],
            sources=[essay.source for essay in essays],
            rubric=rubric,
            threshold=None,
            num_resamples=num_resamples,
            seed=seed,
        )
        for name, totals in pooled_totals(essays, rubric, seed=seed).items()
    }


def main() -> None:
    """Measures, prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description="Baselines on AES-Dataset.")
    parser.add_argument("root", type=Path, help="folder that holds scores.txt and essays")
    parser.add_argument("--seeds", type=int, default=5, help="choices of folds")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/aes_dataset_baselines.json")
    )
    args = parser.parse_args()
    rubric = Rubric(**read_conf("rubric/holistic100"))  # type: ignore[arg-type]
    essays = read_essays(args.root, rubric)
    rounds = [
        measure_all(essays, rubric, seed=seed, num_resamples=0 if seed else args.resamples)
        for seed in range(args.seeds)
    ]
    result = {
        "num_essays": len(essays),
        "num_folds": NUM_FOLDS,
        "num_seeds": args.seeds,
        "num_resamples": args.resamples,
        "baselines": {name: summarise(name, rounds) for name in rounds[0]},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_table(result)


def summarise(name: str, rounds: Sequence[Mapping[str, Agreement]]) -> dict[str, dict[str, float]]:
    """Mean and SD over seeds of a baseline's metrics, and the interval of the first seed."""
    found = {}
    for column in COLUMNS:
        metric = f"{column}/total"
        values = [agreements[name].metrics[metric] for agreements in rounds]
        interval = rounds[0][name].intervals[metric]
        numbers = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values)),
            "low": interval.low,
            "high": interval.high,
        }
        found[column] = {key: round(value, 4) for key, value in numbers.items()}
    return found


def print_table(result: Mapping[str, Any]) -> None:
    """Means, and for QWK the spread too."""
    print(
        f"{result['num_essays']} essays, {result['num_folds']} folds pooled, "
        f"mean over {result['num_seeds']} seeds"
    )
    headings = "".join(f"{name:>10}" for name in COLUMNS)
    print(f"{'baseline':<24}{headings}   QWK: SD over seeds, 95 % interval")
    for name, found in result["baselines"].items():
        values = "".join(f"{found[column]['mean']:>10.3f}" for column in COLUMNS)
        qwk = found["qwk"]
        spread = f"{qwk['sd']:.3f}, {qwk['low']:.2f} to {qwk['high']:.2f}"
        print(f"{name:<24}{values}   {spread}")


if __name__ == "__main__":
    main()
