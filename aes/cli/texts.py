"""What differs where answers are texts or labels instead of grades: settings, and what is measured.

Reads settings alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aes.cli.settings import TARGET, Settings
from aes.corpus.instructions import InstructionData
from aes.rubric import NoRubric
from aes.training.spec import CheckpointSpec

AUTO_MONITOR = "auto"


def check_texts(settings: Settings) -> None:
    """Refuses rubric, loss and pages that do not belong to the data.

    Raises:
        ValueError: If one does not.
    """
    data, rubric = settings.choices["data"], settings.choices["rubric"]
    is_scored = not isinstance(settings.rubric, NoRubric)
    if not settings.has_texts:
        if not is_scored:
            raise ValueError(
                f"rubric={rubric} scores nothing, but data={data} is essays; choose a rubric, such "
                "as rubric=holistic100"
            )
        return
    if is_scored:
        raise ValueError(
            f"rubric={rubric} would do nothing, since data={data} has answers that are not scored; "
            "leave it out"
        )
    if settings.loss.name != "ce":
        raise ValueError(
            f"loss={settings.choices['loss']} is about scores, of which data={data} has none; use "
            "loss=ce, or leave it out"
        )
    if settings.loss.feedback_weight != 1:
        raise ValueError(
            f"loss.feedback_weight={settings.loss.feedback_weight} weighs feedback against scores, "
            f"of which data={data} has none; leave it out"
        )
    _check_page(settings)


def _check_page(settings: Settings) -> None:
    page, choice = settings.page, settings.choices["page"]
    if page.style != "none":
        raise ValueError(
            f"page={choice} sets typed essays on paper, of which data={settings.choices['data']} "
            "has none; leave it out, or use page=picture"
        )


def measured_in_validation(settings: Settings) -> tuple[str, ...]:
    """Metrics by which a checkpoint can be the best."""
    if isinstance(settings.rubric, NoRubric):
        has_labels = isinstance(settings.data, InstructionData) and settings.data.labels
        return ("val/f1", "val/accuracy", "val/loss") if has_labels else ("val/loss",)
    of_traits = (f"val/qwk/{name}" for name in settings.rubric.traits)
    return ("val/qwk/total", *of_traits, "val/pearson/total", "val/spearman/total")


def choose_checkpoint(settings: Settings) -> CheckpointSpec:
    """When to save and what is best, without an ``auto``."""
    return replace(settings.checkpoint, monitor=find_monitor(settings.resolved))


def find_monitor(values: Mapping[str, Any]) -> str:
    """The metric that decides which checkpoint and which trial is best.

    Args:
        values: All settings as plain values.
    """
    monitor = str(values["callbacks"]["checkpoint"]["monitor"])
    if monitor != AUTO_MONITOR:
        return monitor
    if not values["rubric"][TARGET].endswith(f".{NoRubric.__name__}"):
        return "val/qwk/total"
    return "val/f1" if values["data"]["labels"] else "val/loss"
