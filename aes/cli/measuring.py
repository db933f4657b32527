"""Graded runs -> an Evaluation: agreement, calibration, baselines, second marker, suite.

Wiring only; every number is made in ``aes.metrics`` and ``aes.grading``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.cli.calibrating import compare_calibrations
from aes.cli.graded_extras import Extras
from aes.cli.graded_run import GradedRun
from aes.cli.requests import EvaluationRequest
from aes.corpus import SampleCorpus
from aes.model.trained import trained_digest
from aes.prompt.suite_spec import SuiteSpec
from aes.records import Essay

if TYPE_CHECKING:
    from aes.metrics.results import (
        Agreement,
        ComparedRun,
        DoubleMarking,
        Evaluation,
        Robustness,
    )


def measure_runs(
    request: EvaluationRequest, graded: Sequence[GradedRun], extras: Extras, folder: Path
) -> Evaluation:
    """Everything that was asked for.

    Args:
        extras: What was graded beside the essays of the runs.
        folder: Of the results.
    """
    from aes.metrics.groups import by_band, by_group, by_length
    from aes.metrics.measure import measure
    from aes.metrics.results import Evaluation

    settings = graded[0].run.settings
    rubric = settings.essay_rubric
    marked = [one for run in graded for one in run.marked]
    options: dict[str, Any] = {
        "rubric": rubric,
        "threshold": _threshold(request),
        "num_resamples": request.values.num_resamples,
        "seed": settings.seed,
    }
    calibration = compare_calibrations(request, graded, marked, folder, options)
    return Evaluation(
        facts=_facts(request, graded),
        marked=marked,
        agreement=measure(marked, **options),
        by_length=by_length(marked, **options),
        by_band=by_band(marked, **options),
        by_group=by_group(marked, **options),
        **calibration,
        baselines=_baselines(graded, options),
        text=_text(graded),
        double=_double(request, graded[0], extras, options),
        compared=_compared(request, graded[0], extras, options),
        robustness=_robustness(request, extras, options),
        threshold=options["threshold"],
        is_sample=isinstance(settings.data, SampleCorpus),
    )


def _threshold(request: EvaluationRequest) -> float:
    rubric = request.runs[0].settings.essay_rubric
    given = request.values.arbitration_threshold
    return (rubric.maximum_total - rubric.minimum_total) / 10 if given is None else given


def _baselines(graded: Sequence[GradedRun], options: Mapping[str, Any]) -> dict[str, Agreement]:
    """Graders that read little or nothing, and the model without its adapter."""
    from aes.metrics.baseline import baseline_totals, cross_fitted_totals
    from aes.metrics.measure import measure, measure_values

    rubric = options["rubric"]
    totals: dict[str, list[float]] = {}
    for one in graded:
        ends = {"minimum": rubric.minimum_total, "maximum": rubric.maximum_total}
        texts = [_text_of(essay) for essay in one.part.essays]
        if one.part.trained:
            predicted = baseline_totals(
                train_texts=[_text_of(essay) for essay in one.part.trained],
                train_gold=[rubric.total(essay.scores) for essay in one.part.trained],
                # Not by source: with few sources the stretch grows wild and breaks the floor.
                texts=texts,
                **ends,
            )
        else:
            gold = [rubric.total(essay.gold) for essay in one.marked]
            sources = [essay.source for essay in one.marked]
            predicted = cross_fitted_totals(texts, gold, sources, **ends)
        for name, values in predicted.items():
            totals.setdefault(name, []).extend(float(value) for value in values)
    marked = [essay for one in graded for essay in one.marked]
    baselines = {
        name: measure_values(
            values,
            [rubric.total(essay.gold) for essay in marked],
            sources=[essay.source for essay in marked],
            **options,
        )
        for name, values in totals.items()
        if len(values) == len(marked)
    }
    base = [essay for one in graded for essay in one.base]
    return baselines | ({"no_adapter": measure(base, **options)} if base else {})


def _text_of(essay: Essay) -> str:
    """Title and body; nothing of an essay that came as images, whose body nobody has read."""
    return "" if essay.pages else f"{essay.title}\n{essay.text}".strip()


def _text(graded: Sequence[GradedRun]) -> dict[str, float]:
    from aes.metrics.text_metric import TextMetrics

    metrics = TextMetrics()
    for one in graded:
        metrics.update(
            [essay.grade.raw for essay in one.marked], [essay.gold_text for essay in one.marked]
        )
    return {name: float(value) for name, value in metrics.compute().items()}


def _double(
    request: EvaluationRequest, one: GradedRun, extras: Extras, options: Mapping[str, Any]
) -> DoubleMarking | None:
    """The second run as second marker of the same essays."""
    if request.second is None or extras.of_second is None:
        return None
    from aes.metrics.double import double_marking

    names = (one.run.name, request.second.name)
    return double_marking(one.marked, extras.of_second, names=names, **options)


def _compared(
    request: EvaluationRequest, one: GradedRun, extras: Extras, options: Mapping[str, Any]
) -> dict[str, ComparedRun]:
    """Other runs on the same essays, by names that tell them apart."""
    from aes.metrics.comparison import compare_runs

    names = Counter([one.run.name, *(run.name for run in request.compared)])
    found = {}
    for run, marked in zip(request.compared, extras.of_compared, strict=True):
        name = run.name if names[run.name] == 1 else f"{run.name} {trained_digest(run.path)}"
        found[name] = compare_runs(one.marked, marked, **options)
    return found


def _robustness(
    request: EvaluationRequest, extras: Extras, options: Mapping[str, Any]
) -> Robustness | None:
    """What becomes of the total when essays get worse or are made to deceive."""
    if extras.suite is None or not isinstance(request.suite, SuiteSpec):
        return None
    from aes.metrics.robustness import measure_robustness

    rubric = options["rubric"]
    points = [
        rubric.minimum_total if essay.grade.parse_error else essay.grade.expected_subtotal
        for essay in extras.of_suite
    ]
    return measure_robustness(
        extras.suite.variants,
        points,
        gain_points=request.suite.gain_under(rubric),
        minimum=rubric.minimum_total,
        maximum=rubric.maximum_total,
        seed=options["seed"],
        num_resamples=request.values.num_resamples,
        skipped=extras.suite.skipped,
    )


def _facts(request: EvaluationRequest, graded: Sequence[GradedRun]) -> dict[str, str]:
    """What was evaluated, for people to read."""
    one = graded[0]
    settings = one.run.settings
    dropped = sum(len(run.part.dropped) for run in graded)
    trained = {essay.source for run in graded for essay in run.part.trained}
    facts = {
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "run": ", ".join(run.run.name for run in graded),
        "split": request.values.split,
        "essays": str(sum(len(run.marked) for run in graded)),
        "model": settings.model.path or settings.choices["model"],
        "adapter": ", ".join(trained_digest(run.run.path) for run in graded),
        "data": settings.choices["data"],
        "rubric": settings.essay_rubric.title,
        "page": settings.choices["page"],
        "decoding": settings.decoding.score,
        "precision": settings.hardware.precision,
        "seed": str(settings.seed),
        "resamples": str(request.values.num_resamples),
    }
    if trained and len(graded) == 1:
        facts["trained on"] = f"{len(trained)}"
    if request.second is not None:
        facts["second"] = request.second.name
    if dropped:
        facts["left out"] = f"{dropped} samples over data.max_tokens={settings.data.max_tokens}"
    if not all(run.part.trained for run in graded):
        facts["baselines"] = "cross-fitted on these essays"
    seen = sum(run.part.num_seen for run in graded)
    if seen:
        facts["note"] = f"{seen} source essays were trained on: the numbers flatter the model"
    folds = Counter(run.run.settings.corpus.fold for run in graded)
    if len(graded) > 1 and None not in folds:
        facts["folds"] = f"{len(folds)} of {settings.corpus.num_folds}"
    return facts
