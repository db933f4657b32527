"""An AnswersEvaluation -> numbers, the table of models and confusion matrices in W&B.

Keys are ``evaluation/<split>/...``. No sample and no answer is sent. Logs to a run that is open;
opens and finishes none.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from aes.metrics.answers import AnswersEvaluation
from aes.report.evaluation_drawing import to_png
from aes.report.text_files import flat_answer_metrics
from aes.report.text_plots import draw_confusion
from aes.report.text_tables import SPEED, metrics_of, model_name, value_of


def log_answers(run: Any, evaluation: AnswersEvaluation, *, split: str) -> None:
    """Log the panels of the report to W&B, at one step.

    Args:
        run: An open ``wandb`` run, e.g. ``WandbLogger.experiment``.
        evaluation: What to log.
        split: Names the keys, e.g. ``test`` for ``evaluation/test/f1``.
    """
    import wandb

    prefix = f"evaluation/{split}"
    found = flat_answer_metrics(evaluation, prefix=prefix)
    panels: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    metrics = (*metrics_of(evaluation), *SPEED)
    rows = [
        [name, *(value_of(result, metric)[0] for metric in metrics)]
        for name, result in evaluation.models.items()
    ]
    panels[f"{prefix}/tables/models"] = wandb.Table(columns=["model", *metrics], data=rows)
    for name, result in evaluation.models.items():
        if result.labels is None:
            continue
        drawing = draw_confusion(result.labels, model=model_name(name))
        if drawing.figure is not None:
            picture = Image.open(io.BytesIO(to_png(drawing.figure)))
            panels[f"{prefix}/figures/confusion_{name}"] = wandb.Image(picture)
    run.log(panels)
