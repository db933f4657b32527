"""What evaluate.py and predict.py share: a finished run's Grader, and the essays of its parts.

Wiring only; nothing is written to disk but the cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aes.cli.engines import needs_weights, open_engine
from aes.cli.requests import Part, TrainedRun
from aes.cli.samples import SPLIT_FILE, Material, read_and_split, tokenise
from aes.cli.saved_run import read_run
from aes.ranks import Ranks
from aes.records import Essay, Example

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.grading import Grader
    from aes.grading.calibration import Calibration
    from aes.prompt.build import ExampleBuilder


@dataclass(frozen=True)
class EssaysOfPart:
    """The essays to be graded, and those that trained.

    Attributes:
        essays: As samples, ladder included; in step with ``examples``.
        trained: What the run trained on; empty for data that is not the run's.
        dropped: Ids of samples that were left out as too long.
        num_seen: Source essays among them that the run was trained on.
    """

    material: Material
    essays: tuple[Essay, ...]
    examples: tuple[Example, ...]
    trained: tuple[Essay, ...]
    dropped: tuple[str, ...]
    num_seen: int


def read_part(run: TrainedRun, part: Part, console: Console) -> EssaysOfPart:
    """Reads the data and takes one part, as the run cut it.

    Raises:
        ValueError: If the data is not right, the part is empty, or the run was trained on some of
            what it was to hold out.
    """
    settings = run.settings
    # Asked as in training, all alike: a prompt must not tell which essays have a comment.
    material, split = read_and_split(
        settings, console, weights=needs_weights(settings), feedback=run.asks_feedback
    )
    if part == "all":
        essays = settings.corpus.expand(material.reading.essays, seed=settings.seed)
    else:
        essays = {"train": split.train, "val": split.val, "test": split.test}[part]
    if not essays:
        raise ValueError(
            f"{run.path} holds no essays out for split={part}; choose another split=, or train "
            f"with data.{'val' if part == 'val' else 'test'}_fraction=0.2"
        )
    own_data = _is_own_data(run)
    if part in ("val", "test"):
        require_unseen(run.path, essays)
    prepared = tokenise(settings, material, essays, label=part)
    examples = prepared.examples()
    kept = {example.id for example in examples}
    return EssaysOfPart(
        material=material,
        essays=tuple(essay for essay in essays if essay.id in kept),
        examples=tuple(examples),
        trained=split.train if own_data and part != "all" else (),
        dropped=prepared.dropped,
        num_seen=len(find_seen(run.path, essays)),
    )


def find_seen(run_dir: Path, essays: Sequence[Essay]) -> list[str]:
    """Ids of the source essays that a run was trained on, wherever they were read from.

    Raises:
        ValueError: If the run does not say what it was trained on.
    """
    file = run_dir / SPLIT_FILE
    try:
        trained = set(json.loads(file.read_text(encoding="utf-8"))["train"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be read, so nobody knows what the run was trained on; restore it, or "
            "train again"
        ) from error
    return sorted({essay.source for essay in essays} & trained)


def require_unseen(run_dir: Path, essays: Sequence[Essay]) -> None:
    """Checks that a run was not trained on essays that shall show what it can.

    Raises:
        ValueError: If it was, as when the data or the seed of the split changed since.
    """
    seen = find_seen(run_dir, essays)
    if seen:
        raise ValueError(
            f"{run_dir} was trained on {len(seen)} essays of these names, such as {seen[0]}: the "
            "data or the split is not what it was; use the same data with the same "
            "data.split_seed, data.fold and fractions, or split=all for other data"
        )


def require_same_question(
    other: TrainedRun, first: TrainedRun, part: EssaysOfPart, name: Part, *, key: str
) -> None:
    """Checks that another run may mark the first one's essays.

    Args:
        key: That names it on the command line.

    Raises:
        ValueError: If it grades by another rubric, or was trained on them.
    """
    if other.settings.rubric.ranges != first.settings.rubric.ranges:
        raise ValueError(
            f"{key}={other.path} grades by another rubric than {first.path}; choose runs of one "
            "rubric"
        )
    if name in ("val", "test"):
        require_unseen(other.path, part.essays)


def _is_own_data(run: TrainedRun) -> bool:
    saved = read_run(run.path).values["data"]
    now = run.settings.resolved["data"]
    if saved["_target_"] != now["_target_"]:
        return False
    before, root = saved.get("root"), now.get("root")
    return before == root or (
        None not in (before, root)
        and Path(before).expanduser().resolve() == Path(root).expanduser().resolve()
    )


def open_grader(
    run: TrainedRun,
    *,
    builder: ExampleBuilder,
    processor: Processor,
    calibration: Calibration | None = None,
    loaded: Any | None = None,
) -> Grader:
    """Loads the run's model into an Engine, into a Grader.

    Args:
        loaded: See ``aes.model.trained.load_trained``.

    Raises:
        ValueError: If the weights are not there or do not fit.
    """
    from aes.grading import Grader

    engine = open_engine(run, processor=processor, renderer=builder.renderer, loaded=loaded)
    return Grader(
        engine=engine, rubric=run.settings.essay_rubric, builder=builder, calibration=calibration
    )


def progress_label(ranks: Ranks) -> str | None:
    """What stands beside the bar of the first rank, which shows its own share; others have none."""
    if not ranks.is_first:
        return None
    return "grading" if ranks.num_ranks == 1 else f"grading, one of {ranks.num_ranks} shares"
