"""Where measurements go beside ``metrics.jsonl``: W&B, CSV files, or nowhere.

To be built by rank 0 alone. Knows no metric; what a W&B run holds beside metrics, and what it shows
to others once it is synced, stands in docs/dashboards.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from aes.training.spec import CsvSpec, LoggerSpec, WandbSpec


class StepLogger(WandbLogger):
    """Logs to a W&B run by the optimiser step, and not by the number of calls as Lightning does.

    A resumed run that does some steps again repeats them under the same number: online W&B ignores
    them, and a synced offline run holds them twice with equal values.
    """

    _newest_step = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log; what comes at one step becomes one row.

        Args:
            metrics: By name.
            step: Optimiser step; ``None``: the one logged last, and so for an earlier one, since
                W&B drops what goes back.
        """
        self._newest_step = max(self._newest_step, step or 0)
        self.experiment.log(dict(metrics), step=self._newest_step)


def build_logger(
    spec: LoggerSpec, *, run_dir: Path, config: Mapping[str, Any], run_id: str | None = None
) -> Logger | None:
    """The logger that ``spec`` asks for, open; everything it writes lies in ``run_dir``.

    Args:
        config: The resolved configuration, shown beside the curves.
        run_id: The W&B run to go on with, from ``wandb_id``; ``None``: a new one.

    Raises:
        ValueError: If W&B cannot start, e.g. online without an account.
    """
    if isinstance(spec, CsvSpec):
        return CSVLogger(save_dir=run_dir, name="csv", version="")
    if isinstance(spec, WandbSpec):
        run = _start_run(spec, run_dir, config, run_id)
        return StepLogger(
            experiment=run,
            project=spec.project,
            save_dir=run_dir,
            offline=spec.mode == "offline",
            log_model=False,
        )
    return None


def wandb_id(logger: Logger | None) -> str | None:
    """The id of the W&B run, for a checkpoint to keep; ``None`` for every other logger."""
    return str(logger.experiment.id) if isinstance(logger, WandbLogger) else None


def log_final(logger: Logger | None, metrics: Mapping[str, float]) -> None:
    """Make the values of ``metrics.json`` the W&B summary, which tables and sweeps compare.

    To be called last: no step can be logged after it.

    Args:
        metrics: By name, e.g. ``val/mae/operation/cut``; values that are not finite are left out.
    """
    if isinstance(logger, WandbLogger):
        # A row that waits for more of its step would write its own values over these.
        logger.experiment.log({}, commit=True)
        logger.experiment.summary.update({k: v for k, v in metrics.items() if isfinite(v)})


def close_logger(logger: Logger | None) -> None:
    """Finish a W&B run, so that its folder is whole when the card is printed."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def _start_run(
    spec: WandbSpec, run_dir: Path, config: Mapping[str, Any], run_id: str | None
) -> Any:
    """Open the run ourselves: Lightning would pass settings that W&B has dropped, and warns of."""
    import wandb

    folder = run_dir / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    # Images of tables and logs would land in the home directory without these.
    os.environ["WANDB_DATA_DIR"] = str(folder)
    os.environ["WANDB_CACHE_DIR"] = str(folder / "cache")
    # Else W&B's service looks for a server to report to, offline too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        return wandb.init(
            project=spec.project,
            entity=spec.entity,
            name=spec.name or run_dir.name,
            group=spec.group,
            tags=spec.tags,
            mode=spec.mode,
            config=dict(config),
            dir=run_dir,
            id=run_id,
            # Offline there is nobody to ask; the folders of one id are joined when they are synced.
            resume="allow" if spec.mode == "online" else None,
            # A run that an embedding program has open is not ours to log to.
            reinit="create_new",
            settings=wandb.Settings(
                # A remote's address and the code may hold anything; what the user has set stays.
                disable_git=os.environ.get("WANDB_DISABLE_GIT", "true"),
                disable_code=os.environ.get("WANDB_DISABLE_CODE", "true"),
            ),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"W&B cannot start with logger.mode={spec.mode} ({reason}); sign in with wandb login, "
            "or choose logger.mode=offline and sync the run later"
        ) from error
