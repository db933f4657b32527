"""One training job for both sides: run by an arm at a time, each in a process of its own, timed.

Knows which settings mean the same on both sides; compares nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparing.our_side import PROMPT, run_ours
from comparing.our_train import ADAPTER_FOLDER, LOADER_BEGINS, RECORD_FILE
from comparing.peer import HyperParameters, Peer, read_losses, write_job
from comparing.reference_job import NUM_SUPERVISED, Sample
from comparing.watched import Watched

OUR_ARMS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "ours_plain": ("kernels=plain", "batching=plain", "vision_cache=none"),
}
PEER_ARMS: dict[str, dict[str, Any]] = {
    "llamafactory": {},
    "llamafactory_kept": {"disable_gradient_checkpointing": True},
}


@dataclass(frozen=True)
class Timing:
    """One run; seconds, and the loss of each step.

    Attributes:
        loop_s: From before the loader's processes begin to the end of the last step.
        loop_cpu_s: CPU time within.
        steady_s: From the end of the first step on.
        whole_s: Of the process.
    """

    num_samples: int
    loop_s: float
    loop_cpu_s: float
    steady_s: float
    whole_s: float
    whole_cpu_s: float
    losses: tuple[float, ...]

    @property
    def samples_per_s(self) -> float:
        """By the clock."""
        return self.num_samples / self.loop_s

    @property
    def samples_per_cpu_s(self) -> float:
        """By CPU time."""
        return self.num_samples / self.loop_cpu_s


class Comparison:
    """Both sides of one job in a folder.

    Args:
        folder: Everything is written here.
        settings: For ``train.py``, beside what the job says.
        threads: Of each process.
    """

    def __init__(
        self,
        peer: Peer,
        folder: Path,
        *,
        essays: int,
        epochs: int,
        threads: int,
        settings: Sequence[str],
    ) -> None:
        self.peer, self.folder, self.threads = peer, folder, threads
        self.hyper = HyperParameters()
        self.settings = [
            *("model=nano_50m", "data=aes_dataset", f"data.root={folder / 'data'}"),
            *(f"data.max_samples={essays}", "data.val_fraction=0", "data.test_fraction=0"),
            *("loss=ce", "optim=adamw", f"optim.lr={self.hyper.lr}"),
            *(f"adapter.rank={self.hyper.rank}", f"adapter.alpha={2 * self.hyper.rank}"),
            *(f"trainer.max_epochs={epochs}", "trainer.log_every_n_steps=1"),
            f"global_batch_size={self.hyper.global_batch_size}",
            f"hardware.micro_batch_size={self.hyper.micro_batch_size}",
            f"hardware.num_workers={self.hyper.num_workers}",
            "callbacks.checkpoint.save_each_epoch=false",
            *("logger=none", f"paths.cache={folder / 'cache'}", *PROMPT, *settings),
        ]
        self._ours("--record", str(folder / "record"), f"run_dir={folder / 'recorded_run'}")
        text = (folder / "record" / RECORD_FILE).read_text(encoding="utf-8")
        self.record: dict[str, Any] = json.loads(text)
        samples = {name: Sample(**s) for name, s in self.record["samples"].items()}
        self.order = [samples[name] for batch in self.record["order"] for name in batch]

    def _ours(self, *arguments: str) -> Watched:
        arguments = (*arguments, *self.settings)
        return run_ours("our_train", arguments, folder=self.folder, threads=self.threads)

    def run(self, arm: str, number: int) -> Timing:
        """One run of an arm."""
        name = f"{arm}-{number}"
        return self._run_ours(arm, name) if arm in OUR_ARMS else self._run_peer(arm, name)

    def _run_ours(self, arm: str, name: str) -> Timing:
        seen = self._ours(*OUR_ARMS[arm], f"run_dir={self.folder / name}")
        log = (self.folder / name / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [line for line in map(json.loads, log.splitlines()) if "loss" in line]
        ends = seen.moments(r"\bstep \d+/\d+ ")
        start_s = seen.moments(LOADER_BEGINS)[0]
        losses = [line["loss"] for line in lines]
        return self._timing(seen, start_s=start_s, ends=ends, losses=losses)

    def _run_peer(self, arm: str, name: str) -> Timing:
        folder = self.folder / name
        settings = write_job(
            folder,
            self.order,
            checkpoint=Path(self.record["checkpoint"]),
            adapter=self.folder / "record" / ADAPTER_FOLDER,
            hyper=self.hyper,
        )
        seen = self.peer.train(settings | PEER_ARMS[arm], folder=folder, threads=self.threads)
        self._require_same_tokens(seen)
        (start_s,) = seen.moments(r"\*\*\* Running training \*\*\*")
        ends = seen.moments(r"\{'loss': ")
        return self._timing(seen, start_s=start_s, ends=ends, losses=read_losses(folder))

    def _timing(
        self, seen: Watched, *, start_s: float, ends: Sequence[float], losses: Sequence[float]
    ) -> Timing:
        assert len(ends) == len(losses) > 1, f"{len(ends)} steps shown, {len(losses)} logged"
        return Timing(
            num_samples=len(self.order),
            loop_s=ends[-1] - start_s,
            loop_cpu_s=seen.cpu_at(ends[-1]) - seen.cpu_at(start_s),
            steady_s=ends[-1] - ends[0],
            whole_s=seen.wall_s,
            whole_cpu_s=seen.cpu_s,
            losses=tuple(losses),
        )

    def _require_same_tokens(self, seen: Watched) -> None:
        """LLaMA-Factory shows its first sample: ours and a line feed behind the end."""
        lines = [line for _, line in seen.lines]
        shown = json.loads(lines[lines.index("input_ids:") + 1])
        labels = json.loads(lines[lines.index("label_ids:") + 1])
        first = self.order[0]
        assert shown[:-1] == first.input_ids, "the two sides tokenise the first sample differently"
        num_supervised = sum(label >= 0 for label in labels)
        assert num_supervised == NUM_SUPERVISED + 1, f"{num_supervised} tokens are supervised"
