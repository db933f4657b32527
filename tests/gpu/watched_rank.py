"""``train.py`` as one rank that tells what no file of a run shows, and may spoil a loss.

Run as ``torchrun ... watched_rank.py JOB key=value ...``. JOB is JSON: ``folder``, where each rank
writes ``rank-N.json`` with the dtypes of its weights when training starts; ``spoilt_pass``, the
forward pass, from 1, whose loss becomes NaN on the last rank, or 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from aes.cli.environment import prepare_environment

prepare_environment()

from aes.cli import entry  # noqa: E402
from aes.training import module  # noqa: E402


def tell_dtypes(folder: Path) -> None:
    """Let the module write them down when training starts: DeepSpeed has had its way by then."""
    before = module.TuningModule.on_train_start

    def on_train_start(self: Any) -> None:
        before(self)
        found: dict[str, set[str]] = {"frozen": set(), "trained": set()}
        for parameter in self.model.parameters():
            kind = "trained" if parameter.requires_grad else "frozen"
            found[kind].add(str(parameter.dtype).removeprefix("torch."))
        told = {kind: sorted(dtypes) for kind, dtypes in found.items()}
        path = folder / f"rank-{self.ranks.rank}.json"
        path.write_text(json.dumps(told | {"device": self.device.type}), encoding="utf-8")

    module.TuningModule.on_train_start = on_train_start  # type: ignore[method-assign]


def spoil_loss(number: int) -> None:
    """Let one forward pass of the last rank give no number."""
    before = module.TuningModule.training_step
    passes = iter(range(1, sys.maxsize))
    compute = module.summed_loss

    def training_step(self: Any, *args: Any) -> Any:
        is_spoilt = next(passes) == number and self.ranks.rank == self.ranks.num_ranks - 1

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            loss = compute(*args, **kwargs)
            return loss * float("nan") if is_spoilt else loss

        module.summed_loss = spoilt
        return before(self, *args)

    module.TuningModule.training_step = training_step  # type: ignore[method-assign]


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    tell_dtypes(Path(job["folder"]))
    if job["spoilt_pass"]:
        spoil_loss(job["spoilt_pass"])
    sys.argv = ["train.py", *sys.argv[2:]]
    entry.train()
