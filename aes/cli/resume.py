"""``resume=never|auto|PATH`` -> whether a run begins, goes on, or is done, and from which state.

Reads run directories and changes nothing. Every setting counts as deciding the result unless it is
listed here as one that does not, so that a new one is never changed in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.cli.run_directory import CONFIG_FILE, require_unused
from aes.cli.saved_run import read_run
from aes.cli.source import dotted_values
from aes.model.trained import ADAPTER_FOLDER, MODEL_FOLDER
from aes.training.checkpoint import Resumable, find_resumable, read_checkpoint
from aes.training.checkpoint.manifest import library_versions
from aes.training.checkpoint.resumable import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    from aes.cli.samples import Samples
    from aes.cli.settings import Settings
    from aes.model import AdapterSpec

NEVER, AUTO = "never", "auto"

_NO_INFLUENCE = (
    *("run_dir", "resume", "check_only", "sweep", "paths", "logger"),
    # What lies there counts, by its digest.
    *("data.root", "data.path", "data.info", "model.path", "adapter.init_from"),
    *("hardware.num_workers", "hardware.memory_gib", "hardware.peak_tflops"),
    *("hardware.memory_bandwidth_tb_s", "hardware.link_gb_s", "hardware.node_link_gb_s"),
    "hardware.price_per_hour",
    *("trainer.log_every_n_steps", "trainer.on_bad_loss"),
    *("callbacks.sample_table", "callbacks.checkpoint.every_n_train_steps"),
    *("callbacks.checkpoint.save_each_epoch", "callbacks.checkpoint.keep_last"),
    *("page.save_dir", "decoding.batch_size"),
)
"""Keys, and groups of keys, that may be changed: no weight and no metric depends on them."""

_LAYOUT = (
    *("hardware.accelerator", "hardware.devices", "hardware.num_nodes"),
    *("hardware.micro_batch_size", "trainer.gradient_checkpointing", "strategy"),
    *("trainer.gradient_checkpointing_every", "kernels", "vision_cache", "engine"),
    *("batching.layout", "batching.max_tokens"),
)
"""Keys that decide who computes what: without dropout, only the order of additions."""

_LENGTH = ("trainer.max_epochs", "trainer.max_steps")
"""Keys that decide the length of the schedule, and nothing where the rate stays the same."""

LAST_FILES = ("metrics.json", "training_loss.png")
"""What a run leaves at its end, besides what it trained."""


@dataclass(frozen=True, kw_only=True)
class ResumePlan:
    """What ``resume`` comes to.

    Attributes:
        start: The checkpoint to go on from; ``None``: begin.
        reuses_run_dir: The run directory is there already and is gone on with; otherwise it has
            to be made.
        is_finished: There is nothing left to do.
        notes: Lines for the terminal.
    """

    start: Resumable | None = None
    reuses_run_dir: bool = False
    is_finished: bool = False
    notes: tuple[str, ...] = ()

    @property
    def wandb_id(self) -> str | None:
        """The W&B run to go on with; a run that branches off another one has its own."""
        return self.start.manifest.wandb_id if self.start and self.reuses_run_dir else None


def plan_resume(settings: Settings) -> ResumePlan:
    """Find out what there is to go on from; to be called before the run directory is made.

    Raises:
        ValueError: If the run directory is used and nobody asked to go on, if settings that decide
            the result were changed, or if there is no whole checkpoint where there should be one.
    """
    if settings.resume == AUTO:
        if not settings.run_dir_is_fixed or not _is_used(settings.run_dir):
            return ResumePlan()
        return _go_on(settings)
    if settings.run_dir_is_fixed:
        require_unused(settings.run_dir)
    if settings.resume == NEVER:
        return ResumePlan()
    if not Path(settings.resume).exists():
        raise ValueError(
            f"resume={settings.resume}: must be never, auto, or the path of a run or of one of its "
            "checkpoints, and there is nothing of that name"
        )
    start = read_checkpoint(Path(settings.resume))
    notes = _compare_start(start, settings, where=start.folder)
    return ResumePlan(start=start, notes=(*start.told, _from(start, start.folder), *notes))


def describe_run(settings: Settings, samples: Samples) -> dict[str, Any]:
    """What decides a run's result, for its checkpoints to keep: settings, data and weights."""
    from aes.model.loading import model_folder
    from aes.training.checkpoint.identity import samples_digest, weights_digest

    return {
        **_deciding(settings.resolved),
        **{f"samples of {part}": samples_digest(samples.parts[part]) for part in ("train", "val")},
        "weights of the model": weights_digest(model_folder(settings.model, settings.cache)),
        **_beginning(settings.adapter),
    }


def _beginning(adapter: AdapterSpec) -> dict[str, str]:
    """A digest of the adapter that training began with, if there was one."""
    from aes.training.checkpoint.identity import weights_digest

    folder = getattr(adapter, "init_from", None)
    return {} if folder is None else {"weights of adapter.init_from": weights_digest(folder)}


def require_same_run(plan: ResumePlan, described: Mapping[str, Any]) -> None:
    """Checks that data and weights are those of the checkpoint that is gone on from.

    Args:
        described: ``describe_run`` of this run.

    Raises:
        ValueError: If they were changed.
    """
    if plan.start is None:
        return
    was = plan.start.manifest.settings
    for key in described:
        if " of " in key and was.get(key) != described[key]:
            raise ValueError(
                f"{plan.start.folder} cannot be gone on from: the {key} are others than when it "
                "was written; bring the old ones back, or start anew with another run_dir="
            )


def _is_used(run_dir: Path) -> bool:
    """Whether a directory holds anything; a crash before its first file leaves only drafts."""
    return run_dir.is_dir() and any(run_dir.iterdir())


def _go_on(settings: Settings) -> ResumePlan:
    run_dir = settings.run_dir
    if not (run_dir / CONFIG_FILE).is_file():
        if any(not path.name.startswith(".") for path in run_dir.iterdir()):
            raise ValueError(
                f"{run_dir} is in use, but not by a run: it holds no {CONFIG_FILE}; choose another "
                "run_dir="
            )
        return ResumePlan(reuses_run_dir=True)
    saved = read_run(run_dir).values
    before = _deciding(saved)
    notes = _compare(before, settings, where=run_dir)
    if is_finished(run_dir) and not _changed(before, _deciding(settings.resolved), _LENGTH):
        return ResumePlan(
            reuses_run_dir=True, is_finished=True, notes=(f"the run in {run_dir} is finished",)
        )
    start = find_resumable(run_dir / CHECKPOINTS_FOLDER)
    if start is None and saved.get("resume") not in (None, NEVER, AUTO):
        start = read_checkpoint(Path(saved["resume"]))  # which it was killed before it took in
    if start is None:
        begins = f"the run in {run_dir} had saved nothing yet: it begins again"
        return ResumePlan(reuses_run_dir=True, notes=(begins, *notes))
    notes = _compare_start(start, settings, where=run_dir)
    return ResumePlan(
        start=start, reuses_run_dir=True, notes=(*start.told, _from(start, run_dir), *notes)
    )


def is_finished(run_dir: Path) -> bool:
    """Whether a run did all it had to do: its weights are saved and its last files written."""
    trained = any((run_dir / name).is_dir() for name in (ADAPTER_FOLDER, MODEL_FOLDER))
    return trained and all((run_dir / name).is_file() for name in LAST_FILES)


def _from(start: Resumable, place: Path) -> str:
    manifest = start.manifest
    return f"going on after step {manifest.step} of {manifest.total_steps} from {place}"


def _compare_start(start: Resumable, settings: Settings, *, where: Path) -> list[str]:
    """Notes on changes since a checkpoint was written.

    Raises:
        ValueError: If it cannot be gone on from.
    """
    manifest, trainer = start.manifest, settings.trainer
    notes = _compare(manifest.settings, settings, where=where)
    is_beyond = manifest.step > (trainer.max_steps or manifest.step)
    if is_beyond or manifest.epoch >= trainer.max_epochs:
        raise ValueError(
            f"{where} is at step {manifest.step}, in epoch {manifest.epoch + 1}, already, beyond "
            f"trainer.max_steps={trainer.max_steps} and trainer.max_epochs={trainer.max_epochs}; "
            "raise them, or start anew with another run_dir="
        )
    now = library_versions()
    others = [
        f"{name} {was} -> {now[name]}"
        for name, was in manifest.versions.items()
        if name in now and now[name] != was
    ]
    if others:
        notes.append(f"other libraries than before, so numbers may differ: {', '.join(others)}")
    return notes


def _compare(was: Mapping[str, Any], settings: Settings, *, where: Path) -> list[str]:
    """Notes on harmless changes.

    Raises:
        ValueError: If others were made.
    """
    now = _deciding(settings.resolved)
    optim = settings.optim
    has_length = optim.schedule != "constant" or optim.warmup_ratio > 0
    allowed = _LAYOUT if has_length else (*_LAYOUT, *_LENGTH)
    changed = _changed(was, now)
    refused = [key for key in changed if not _is_in(key, allowed)]
    if refused:
        raise ValueError(
            f"{where} was trained with other settings, which decide the result: "
            f"{_told(was, now, refused)}; go on with the old values, or start anew, without "
            "resume= and with another run_dir="
        )
    layout = [key for key in changed if _is_in(key, _LAYOUT)]
    if layout and getattr(settings.adapter, "dropout", 0) > 0:
        raise ValueError(
            f"{where} cannot be gone on from in another way ({_told(was, now, layout)}) with "
            f"adapter.dropout={settings.adapter.dropout}, whose draws depend on it; go on with "  # type: ignore[union-attr]
            "the old values, or start anew with another run_dir="
        )
    notes = [f"changed: {_told(was, now, changed)}"] if changed else []
    return notes + (["the path stays the same but for the order of additions"] if layout else [])


def _changed(
    was: Mapping[str, Any], now: Mapping[str, Any], keys: tuple[str, ...] | None = None
) -> list[str]:
    """Keys that differ or are missing on one side, digests of data and weights left out."""
    return [
        key
        for key in sorted(was.keys() | now.keys())
        if " of " not in key
        and (keys is None or _is_in(key, keys))
        and was.get(key) != now.get(key)
    ]


def _told(was: Mapping[str, Any], now: Mapping[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key}: {_shown(was.get(key))} -> {_shown(now.get(key))}" for key in keys)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that decide the result by dotted key, as JSON would give them back."""
    flat: dict[str, Any] = json.loads(json.dumps(dotted_values(values), default=str))
    return {key: value for key, value in flat.items() if not _is_in(key, _NO_INFLUENCE)}


def _is_in(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
