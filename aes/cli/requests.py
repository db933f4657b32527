"""Command line and run directory -> what evaluate.py or predict.py is asked to do.

Binds values to classes; reads no data and no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as schema

from aes.cli.compose import Composed, compose_again, resolve, without_hydra
from aes.cli.hydra_errors import errors_in_plain_words
from aes.cli.saved_run import SavedRun, find_runs, read_run
from aes.cli.settings import Settings, bind, bind_settings, bind_target
from aes.cli.source import Source
from aes.cli.validate import check_grading
from aes.grading import CalibrationSpec
from aes.inference import VllmSpec
from aes.model.trained import MODEL_FOLDER, read_grading_facts, trained_folder
from aes.prompt.suite_spec import NoSuiteSpec, SuiteSpec

_SCHEMA = ConfigDict(extra="forbid")

Part = Literal["train", "val", "test", "all"]

_GRADES_DEPEND_ON = ("data", "decoding", "page", "prompt", "rubric", "seed")
_CHANGES_NO_GRADE = (
    "decoding.batch_size",
    "decoding.max_feedback_chars",
    "decoding.max_feedback_tokens",
    "page.save_dir",
    "data.max_tokens",
)


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run and the settings to grade with it, those of the command line included.

    Attributes:
        changed: Keys on the command line that may change grades; none: it grades as it trained.
        asks_feedback: Whether it was trained on comments.
    """

    path: Path
    settings: Settings
    changed: tuple[str, ...]
    asks_feedback: bool

    @property
    def name(self) -> str:
        """Its folder; with the one above where that is only a job's number."""
        name = self.path.name
        return f"{self.path.parent.name}/{name}" if name.isdecimal() else name


@schema(frozen=True, kw_only=True, config=_SCHEMA)
class EvaluateValues:
    """The keys of ``evaluate.yaml`` that belong to no group.

    Attributes:
        run: Run directories, or folders of them.
        split: Which of the run's parts; ``all``: the whole data, not split.
        baseline: Grade without the adapter too.
        second: Another run as a second marker.
        compare: Further runs, or folders of them, each graded on the same essays.
        num_resamples: Of the bootstrap; 0: no intervals.
        arbitration_threshold: In points of the total; ``None``: a tenth of its range.
        out: Folder for the results; ``None``: in the run.
        fresh: Grade again what is there.
    """

    run: tuple[Path, ...]
    split: Part
    baseline: bool
    second: Path | None
    compare: tuple[Path, ...]
    num_resamples: Annotated[int, Field(ge=0, le=100_000)]
    arbitration_threshold: Annotated[float, Field(ge=0)] | None
    out: Path | None
    fresh: bool


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What evaluate.py is asked to do."""

    runs: tuple[TrainedRun, ...]
    second: TrainedRun | None
    compared: tuple[TrainedRun, ...]
    values: EvaluateValues
    suite: SuiteSpec | NoSuiteSpec


@schema(frozen=True, kw_only=True, config=_SCHEMA)
class PredictValues:
    """The keys of ``predict.yaml`` that belong to no group.

    Attributes:
        input: File or folder.
        output: ``.jsonl`` or ``.xlsx``.
        question: Asked about the page instead of grading it.
        feedback: Ask for a comment; ``None``: where the run was trained on comments.
        base: Leave the adapter off.
        max_pages: Most pages of an essay.
        max_chars: Most characters of a typed essay.
    """

    run: Path
    input: Path
    output: Path | None
    question: str | None
    feedback: bool | None
    base: bool
    max_pages: Annotated[int, Field(ge=1)]
    max_chars: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """What predict.py is asked to do."""

    run: TrainedRun
    values: PredictValues
    calibration: CalibrationSpec


def bind_evaluation(source: Source) -> EvaluationRequest:
    """Binds a command line of evaluate.py.

    Raises:
        ValueError: If a run is not there or incomplete, or a setting is wrong.
    """
    saved = [read_run(path) for path in find_runs(_paths(source, "run"))]
    composed = [_compose(source, run) for run in saved]
    own = {name: composed[0].values[name] for name in EvaluateValues.__dataclass_fields__}
    own["run"] = [str(run.path) for run in saved]
    values = bind(EvaluateValues, own, path="")
    suite = bind_target(composed[0].values["suite"], path="suite")
    if not isinstance(suite, SuiteSpec | NoSuiteSpec):
        raise ValueError(f"suite._target_: {type(suite).__name__} does not belong there")
    if values.out is not None and values.out == Path():
        raise ValueError("out: must name a folder, got nothing")
    is_set = {
        "second": values.second is not None,
        "compare": bool(values.compare),
        "suite": isinstance(suite, SuiteSpec),
    }
    if len(saved) > 1 and any(is_set.values()):
        key = next(key for key, value in is_set.items() if value)
        raise ValueError(f"{key}= is about one run, but run= names {len(saved)}; choose one")
    other = (*own, "suite")
    runs = tuple(_bind_run(*pair, source, other) for pair in zip(saved, composed, strict=True))
    for one in runs:
        if values.baseline and trained_folder(one.path).name == MODEL_FOLDER:
            raise ValueError(
                f"{one.path} has no adapter to leave off, since every weight was trained; leave "
                "baseline=true out"
            )
    if any(one.settings.has_texts for one in runs):
        _refuse_for_texts(
            runs[0],
            {
                "second": values.second is not None,
                "suite": isinstance(suite, SuiteSpec),
                "arbitration_threshold": values.arbitration_threshold is not None,
            },
        )
        if len(runs) > 1:
            raise ValueError(
                "runs that learned from instruction data are evaluated one by one, but run= names "
                f"{len(runs)}; choose one"
            )
    second = None
    if values.second is not None:
        run = read_run(values.second.expanduser())
        second = _bind_run(run, _compose(source, run), source, other)
    compared = tuple(
        _bind_run(one, _compose(source, one), source, other)
        for one in map(read_run, find_runs(values.compare))
    )
    _require_different(runs, compared)
    if (second or compared or len(runs) > 1) and isinstance(runs[0].settings.engine, VllmSpec):
        raise ValueError(
            "engine=vllm has one run's adapter at a time, so it cannot answer for several runs; "
            "evaluate them one by one, or use engine=hf"
        )
    return EvaluationRequest(
        runs=runs, second=second, compared=compared, values=values, suite=suite
    )


def bind_prediction(source: Source) -> PredictionRequest:
    """Binds a command line of predict.py.

    Raises:
        ValueError: If the run is not there or incomplete, or a setting is wrong.
    """
    paths = _paths(source, "run")
    if len(paths) > 1:
        raise ValueError("run: names several runs, but predict.py grades with one; choose one")
    saved = read_run(paths[0].expanduser())
    composed = _compose(source, saved)
    own = {name: composed.values[name] for name in PredictValues.__dataclass_fields__}
    values = bind(PredictValues, own, path="")
    calibration = bind_target(composed.values["calibration"], path="calibration")
    if not isinstance(calibration, CalibrationSpec):
        raise ValueError(
            f"calibration._target_: {type(calibration).__name__} does not belong there"
        )
    run = _bind_run(saved, composed, source, (*own, "calibration"))
    if run.settings.has_texts:
        is_set = {
            "calibration": calibration.method != "none",
            "feedback": values.feedback is not None,
        }
        _refuse_for_texts(run, is_set)
        if values.output is None and values.question is None:
            raise ValueError(
                "give output=FILE.jsonl to answer what input= holds, or question=... to ask of it"
            )
    elif (values.output is None) == (values.question is None):
        raise ValueError(
            "give either output=FILE.jsonl (or .xlsx) to grade, or question=... to ask about a page"
        )
    if calibration.method != "none" and run.changed:
        raise ValueError(
            f"calibration={calibration.method} was fitted to grades as the run makes them, which "
            f"{run.changed[0]} changes; leave one of them out"
        )
    return PredictionRequest(run=run, values=values, calibration=calibration)


def _require_different(runs: Sequence[TrainedRun], compared: Sequence[TrainedRun]) -> None:
    """A run compared with itself, or named twice, would say nothing."""
    paths = [run.path.resolve() for run in (*runs, *compared)]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is named more than once; leave one of them out")


def _refuse_for_texts(run: TrainedRun, is_set: dict[str, bool]) -> None:
    """What is about scores would do nothing with a run whose answers are texts."""
    for key, value in is_set.items():
        if value:
            raise ValueError(
                f"{key}= is about scores of essays, but {run.path} learned from instruction data; "
                "leave it out"
            )


def _paths(source: Source, key: str) -> list[Path]:
    """The value of a key that must be known before anything is composed."""
    with errors_in_plain_words(source):
        overrides = OverridesParser.create().parse_overrides(list(source.overrides))
    found = [o.value() for o in overrides if o.key_or_group == key]
    if not found or found[-1] in (None, "", []):
        raise ValueError(f"{key} is not set; give it as {key}=RUN_DIR, the folder of a run")
    value = found[-1]
    return [Path(str(path)) for path in (value if isinstance(value, list) else [value])]


def _compose(source: Source, saved: SavedRun) -> Composed:
    config = compose_again(source, saved)
    return resolve(without_hydra(config), config.hydra, source)


def _bind_run(
    saved: SavedRun, composed: Composed, source: Source, other_keys: tuple[str, ...]
) -> TrainedRun:
    settings = bind_settings(composed, other_keys=other_keys)
    check_grading(settings, saved.path, overrides=source.overrides)
    keys = [override.lstrip("+~").partition("=")[0] for override in source.overrides]
    return TrainedRun(
        path=saved.path,
        settings=settings,
        changed=tuple(
            key
            for key in keys
            if key.partition(".")[0] in _GRADES_DEPEND_ON and key not in _CHANGES_NO_GRADE
        ),
        asks_feedback=bool(read_grading_facts(saved.path).get("asks_feedback")),
    )


def plain(values: Any) -> Any:
    """Settings as plain values, for fingerprints and facts."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(values)).dump_python(values, mode="json")
