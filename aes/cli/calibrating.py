"""Graded essays -> the run's calibration, and what it changes on essays that it was not fitted on.

Wiring only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.cli.graded_run import GradedRun
from aes.cli.requests import EvaluationRequest
from aes.grading.calibration_file import CALIBRATION_FILE, load_calibration, save_calibrations
from aes.grading.calibration_fit import cross_fit, fit_calibration
from aes.model.trained import trained_digest
from aes.records import Marked
from aes.rubric import Rubric

if TYPE_CHECKING:
    from aes.grading.calibration import Calibration, Method

METHODS: tuple[Method, ...] = ("linear", "isotonic")
_CALIBRATION_FOLDS = 5


def compare_calibrations(
    request: EvaluationRequest,
    graded: Sequence[GradedRun],
    marked: Sequence[Marked],
    folder: Path,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of an Evaluation about calibration on other essays.

    Validation essays also make the run's calibration, from all of them, if they are graded as the
    run was trained; the report never applies a map to an essay that it was fitted on.
    """
    rubric, split = options["rubric"], request.values.split
    one, is_pooled = graded[0], len(graded) > 1
    as_trained = not is_pooled and not one.run.changed
    unusable = ""
    if split == "test" and as_trained and (one.run.path / CALIBRATION_FILE).is_file():
        try:
            maps = _load(one, rubric)
            applied = {m.method: [m.apply_to(essay, rubric) for essay in marked] for m in maps}
            note = f"fitted on {maps[0].num_essays} graded essays of split=val{_why(maps)}"
            return _compared(applied, options, "val", note)
        except ValueError as error:  # the grades are made: a file beside them must not lose them
            unusable = f"; {error}"
    fitted = [fit_calibration(marked, rubric, method) for method in METHODS]
    if is_pooled:
        save_calibrations(folder / CALIBRATION_FILE, fitted, rubric, split=f"pooled {split}")
    elif split == "val" and request.values.out is None and as_trained:
        file, digest = one.run.path / CALIBRATION_FILE, trained_digest(one.run.path)
        save_calibrations(file, fitted, rubric, split=split, adapter_digest=digest)
    folds, seed = _CALIBRATION_FOLDS, options["seed"]
    refitted = {
        method: cross_fit(marked, rubric, method, num_folds=folds, seed=seed) for method in METHODS
    }
    others = "the other folds" if is_pooled else "other essays of the same part"
    note = f"cross-fitted, each essay by a map of {others}{_why(fitted)}{unusable}"
    return _compared(refitted, options, "folds" if is_pooled else "part", note)


def _load(one: GradedRun, rubric: Rubric) -> list[Calibration]:
    digest, file = trained_digest(one.run.path), one.run.path / CALIBRATION_FILE
    return [load_calibration(file, rubric, method, adapter_digest=digest) for method in METHODS]


def _compared(
    calibrated: Mapping[Method, Sequence[Marked]],
    options: Mapping[str, Any],
    source: str,
    note: str,
) -> dict[str, Any]:
    from aes.metrics.measure import measure

    return {
        "calibrated": {method: measure(marked, **options) for method, marked in calibrated.items()},
        "calibrated_totals": {
            method: [nan if m.grade.parse_error else m.grade.expected_subtotal for m in marked]
            for method, marked in calibrated.items()
        },
        "calibration_source": source,
        "calibration_note": note,
    }


def _why(maps: Sequence[Calibration]) -> str:
    """Why some traits are not calibrated."""
    reasons = {reason for one in maps for reason in one.unchanged.values()}
    return f"; unchanged where {'; '.join(sorted(reasons))}" if reasons else ""
