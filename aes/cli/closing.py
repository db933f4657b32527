"""What a finished training leaves: the adapter, the plot, and the card with what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aes.cli.samples import Samples
from aes.cli.settings import Settings
from aes.corpus import SampleCorpus
from aes.corpus.instructions import InstructionData
from aes.corpus.instructions.file_data import CaptionData
from aes.ranks import Ranks
from aes.report.card import ClosingCard, print_card

if TYPE_CHECKING:
    from aes.training.fit import Fitted


def grading_facts(
    settings: Settings, samples: Samples, described: Mapping[str, Any]
) -> dict[str, Any]:
    """What whoever asks the model must know, to be saved with it: how it was asked in training.

    Taken before training begins, since a file that it comes from may be gone at the end.

    Args:
        described: See ``aes.cli.resume.describe_run``.
    """
    facts = {
        "page": asdict(settings.page),
        "ranges": settings.rubric.ranges,
        "asks_feedback": not settings.has_texts
        and any(example.asks_feedback for example in samples.train.examples()),
        "base_digest": described["weights of the model"],
    }
    data = settings.data
    if isinstance(data, InstructionData):
        facts |= {"system": data.system_prompt(), "labels": list(data.labels)}
    if isinstance(data, CaptionData):
        facts["question"] = data.question
    return facts


def finish(
    settings: Settings,
    model: Any,
    grading: Mapping[str, Any],
    fitted: Fitted,
    baselines: dict[str, float],
    run_dir: Path,
    ranks: Ranks,
    console: Console,
) -> None:
    """Save the adapter, for which all ranks are needed, and the plot, and print the card.

    Args:
        grading: Of ``grading_facts``.
    """
    from aes.model.loading import model_folder
    from aes.report.plots import plot_training_loss
    from aes.training.saving import save_trained

    base = settings.model.path or str(model_folder(settings.model, settings.cache))
    save_trained(model, run_dir, base=base, grading=grading, ranks=ranks)
    if not ranks.is_first:
        return
    if fitted.num_steps:
        plot_training_loss(run_dir / "metrics.jsonl", run_dir / "training_loss.png")
    if fitted.num_skipped:
        console.print(
            f"{fitted.num_skipped} of {fitted.num_steps} steps were left out, since their loss or "
            "gradient was no finite number; their batches are in bad_batches/ of the run",
            style="yellow",
        )
    print_card(
        console,
        ClosingCard(
            run_dir=run_dir,
            metrics=fitted.metrics,
            baselines=baselines,
            groups=fitted.groups,
            commands=_next_commands(settings, run_dir),
            is_sample=isinstance(settings.data, SampleCorpus),
        ),
    )


def _next_commands(settings: Settings, run_dir: Path) -> Sequence[str]:
    """Commands that work from here."""
    run = shlex.quote(str(run_dir))
    if isinstance(settings.data, SampleCorpus):
        return (
            f"python evaluate.py run={run} baseline=true",
            "python train.py page=squared_paper seed=2",
            "python train.py check_only=true model=qwen3_vl_8b hardware=h800x1",
        )
    if settings.has_texts:
        part = "test" if settings.data.test_fraction > 0 else "val"
        held_out = part if settings.data.val_fraction > 0 or part == "test" else "train"
        return (
            f"python evaluate.py run={run} split={held_out} baseline=true",
            f"python -m aes.export {run} --out DIR",
        )
    predict = f"python predict.py run={run} input=FOLDER output=grades.jsonl"
    if settings.data.test_fraction > 0:
        return (f"python evaluate.py run={run} baseline=true", predict)
    root = shlex.quote(str(getattr(settings.data, "root", "DIR")))
    held_out = "data.on_problem=drop data.val_fraction=0.1 data.test_fraction=0.1"
    plan = f"python train.py experiment=aes_h800x1 data.root={root} {held_out} check_only=true"
    return (predict, plan)
