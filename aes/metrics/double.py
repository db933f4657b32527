"""Two runs' grades of the same essays -> what they are worth as two markers.

As in marking by hand: both grade blind to each other; where their totals differ by no more than a
threshold the mean counts, else a third marker is called. It does not know what the runs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aes.metrics.marks import Marks, gold_marks, model_marks
from aes.metrics.measure import agreement_metrics, measure_marks
from aes.metrics.results import DoubleMarking
from aes.records import Marked
from aes.rubric import Rubric


def double_marking(
    first: Sequence[Marked],
    second: Sequence[Marked],
    *,
    names: tuple[str, str],
    rubric: Rubric,
    threshold: float,
    num_resamples: int,
    seed: int,
) -> DoubleMarking:
    """Compare two markers with each other, and each and their mean with the gold scores.

    Awarded totals decide on arbitration. An essay whose answer one of them could not read goes to
    arbitration too: two silent markers agree on nothing.

    Args:
        first: Essays that the first run graded, with unique ids.
        second: Alike; only essays of both count, in the order of ``first``.
        names: What to call the runs.
        rubric: What both graded by.
        threshold: Most points of the total by which they may differ without arbitration.
        num_resamples: Of the bootstrap over sources; 0: no intervals.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: If no essay was graded by both, or gold scores differ between the runs.
    """
    essays, other = _graded_by_both(first, second, names)
    marks = model_marks(essays, rubric), model_marks(other, rubric)
    gold, mean = gold_marks(essays, rubric), mean_marks(*marks)
    compare = partial(
        measure_marks,
        rubric=rubric,
        threshold=threshold,
        num_resamples=num_resamples,
        seed=seed,
    )
    totals = [each.awarded[:, 0] for each in marks]
    is_read = (marks[0].read * marks[1].read).bool()
    accepted = is_read & ((totals[0] - totals[1]).abs() <= threshold)
    sources = [each.source for each in essays]
    between = agreement_metrics(marks[1], marks[0], rubric=rubric, threshold=threshold)
    return DoubleMarking(
        names=names,
        num=len(essays),
        threshold=threshold,
        agreement={name: float(value) for name, value in between.items()},
        arbitration_rate=1 - float(accepted.double().mean()),
        first=compare(marks[0], gold, sources=sources),
        second=compare(marks[1], gold, sources=sources),
        mean=compare(mean, gold, sources=sources),
        mean_accepted=compare(
            mean.take(accepted),
            gold.take(accepted),
            sources=[source for source, kept in zip(sources, accepted, strict=True) if kept],
        ),
    )


def mean_marks(first: Marks, second: Marks) -> Marks:
    """What two markers give together.

    Whole scores, the total's too, are the rounded means of both awarded ones. Halves go to the even
    neighbour, so that they favour nobody. An essay counts as read if both read it.
    """
    expected = (first.expected + second.expected) / 2
    awarded = (first.awarded + second.awarded) / 2
    return Marks(expected, awarded.round(), first.read * second.read)


def _graded_by_both(
    first: Sequence[Marked], second: Sequence[Marked], names: tuple[str, str]
) -> tuple[list[Marked], list[Marked]]:
    by_id = {each.id: each for each in second}
    essays = [each for each in first if each.id in by_id]
    if not essays:
        raise ValueError(
            f"{names[0]} and {names[1]} graded no essay in common; evaluate both on the same split"
        )
    other = [by_id[each.id] for each in essays]
    for a, b in zip(essays, other, strict=True):
        if dict(a.gold) != dict(b.gold):
            raise ValueError(
                f"essay {a.id} has other gold scores in {names[0]} than in {names[1]}; evaluate "
                "both on the same data"
            )
    return essays, other
