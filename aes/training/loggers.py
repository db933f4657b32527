"""Where measurements go beside ``metrics.jsonl``: W&B, CSV files, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from aes.training.spec import CsvSpec, LoggerSpec, WandbSpec


def build_logger(spec: LoggerSpec, *, run_dir: Path, config: Mapping[str, Any]) -> Logger | None:
    """The logger that ``spec`` asks for; everything it writes lies in ``run_dir``.

    Args:
        config: The resolved configuration, shown beside the curves.
    """
    if isinstance(spec, CsvSpec):
        return CSVLogger(save_dir=run_dir, name="csv", version="")
    if isinstance(spec, WandbSpec):
        # Images of tables would land outside the run without these.
        os.environ["WANDB_DATA_DIR"] = str(run_dir / "wandb")
        os.environ["WANDB_CACHE_DIR"] = str(run_dir / "wandb" / "cache")
        (run_dir / "wandb").mkdir(exist_ok=True)
        return WandbLogger(
            save_dir=str(run_dir),
            project=spec.project,
            name=spec.name or run_dir.name,
            group=spec.group,
            offline=spec.mode == "offline",
            config=dict(config),
            log_model=False,
        )
    return None


def close_logger(logger: Logger | None) -> None:
    """Finish a W&B run, so that its folder is whole when the card is printed."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
