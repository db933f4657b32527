"""Two runs' grades of the same essays -> by how much one agrees better with the gold scores.

Both are measured on the same resamples: an essay that is hard is hard for both, so the difference
is known better than either number. It does not know what the runs are.

Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 8 (paired data).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from aes.metrics.bootstrap import bootstrap
from aes.metrics.marks import gold_marks, model_marks
from aes.metrics.measure import agreement_metrics, measure_marks
from aes.metrics.results import Agreement, ComparedRun
from aes.records import Marked
from aes.rubric import Rubric


def compare_runs(
    first: Sequence[Marked],
    other: Sequence[Marked],
    *,
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> ComparedRun:
    """Measure another run on the first one's essays.

    Args:
        first: Essays that the first run graded, with unique ids.
        other: Alike; only essays of both count, since a run may leave out what is too long for it.
        rubric: What both graded by.
        threshold: As for ``aes.metrics.measure.measure``, and so on.

    Raises:
        ValueError: If an essay has no gold score for a trait, or one outside its range.
    """
    by_id = {essay.id: essay for essay in other}
    first = [essay for essay in first if essay.id in by_id]
    other = [by_id[essay.id] for essay in first]
    sources = [essay.source for essay in first]
    gold = gold_marks(first, rubric)
    of_first, of_other = (
        partial(
            agreement_metrics,
            model_marks(graded, rubric),
            gold,
            rubric=rubric,
            threshold=threshold,
        )
        for graded in (first, other)
    )

    def difference(counts: Tensor | None = None) -> dict[str, Tensor]:
        base = of_first(counts)
        return {name: value - base[name] for name, value in of_other(counts).items()}

    return ComparedRun(
        agreement=measure_marks(
            model_marks(other, rubric),
            gold,
            sources=sources,
            num_resamples=num_resamples,
            seed=seed,
            rubric=rubric,
            threshold=threshold,
        ),
        difference=Agreement(
            num=len(first),
            num_sources=len(set(sources)),
            metrics={name: float(value) for name, value in difference().items()},
            intervals=bootstrap(difference, sources, num_resamples=num_resamples, seed=seed),
        ),
    )
