"""LLaMA-Factory in an environment of its own: found, given a checkpoint and a job, run.

Nothing is written into that environment: what it needs besides lies in a folder of ours. Knows
none of our classes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparing.reference_job import PAGE_SIZE_PX, Sample, write_sharegpt
from comparing.watched import Watched, watch

_ASK_VERSIONS = """
import importlib.metadata, json
found = {}
for name in ("llamafactory", "transformers", "torch", "peft"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_OUR_PROCESSORS = {
    "preprocessor_config.json": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
    },
    "video_preprocessor_config.json": {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
    },
}


@dataclass(frozen=True)
class Peer:
    """An environment with LLaMA-Factory.

    Attributes:
        python: Its interpreter.
        versions: Of what decides its speed, by package.
    """

    python: Path
    versions: dict[str, str]

    def run(self, arguments: Sequence[str], *, folder: Path, threads: int) -> Watched:
        """Run its interpreter with these arguments in ``folder``.

        Raises:
            ValueError: If it fails.
        """
        stand_ins = folder / "stand_ins"
        stand_ins.mkdir(exist_ok=True)
        # The torchaudio that it brings does not fit its torch; nothing here makes a sound.
        (stand_ins / "torchaudio.py").touch()
        environment = {
            "PYTHONPATH": str(stand_ins),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "hf_home"),
            "OMP_NUM_THREADS": str(threads),
        }
        # Not resolved: the interpreter of a virtual environment is a link.
        command = [str(self.python.absolute()), *arguments]
        return watch(command, environment=environment, folder=folder)

    def train(self, settings: dict[str, Any], *, folder: Path, threads: int) -> Watched:
        """``llamafactory-cli train`` with these settings, kept beside its results."""
        job = folder / "job.yaml"  # JSON is YAML
        job.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        arguments = ["-m", "llamafactory.cli", "train", str(job)]
        return self.run(arguments, folder=folder, threads=threads)


def find_peer(python: Path) -> Peer:
    """The environment to which the interpreter belongs.

    Raises:
        ValueError: If there is none, or it lacks LLaMA-Factory 0.9.
    """
    cure = "give --python the bin/python of an environment with llamafactory 0.9 installed"
    if not python.is_file() or not os.access(python, os.X_OK):
        raise ValueError(f"There is no Python at {python}: {cure}.")
    asked = subprocess.run(
        [str(python.absolute()), "-c", _ASK_VERSIONS],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        versions = json.loads(asked.stdout)
    except json.JSONDecodeError as error:
        raise ValueError(f"{python} is no Python that works: {cure}.") from error
    if "llamafactory" not in versions:
        raise ValueError(f"The environment of {python} has no llamafactory: {cure}.")
    if not versions["llamafactory"].startswith("0.9."):
        raise ValueError(
            f"The environment of {python} has llamafactory {versions['llamafactory']}, which this "
            f"benchmark does not know: {cure}."
        )
    return Peer(python, versions)


def write_checkpoint(source: Path, folder: Path) -> None:
    """The checkpoint of ``source``, its processors named as LLaMA-Factory looks for them."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in _OUR_PROCESSORS:
            (folder / path.name).symlink_to(path)
    sizes = json.loads((source / "preprocessor_config.json").read_text(encoding="utf-8"))
    for name, added in _OUR_PROCESSORS.items():
        (folder / name).write_text(json.dumps(sizes | added), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class HyperParameters:
    """What both sides are told alike.

    Attributes:
        lr: Peak of the cosine.
        rank: Of LoRA on q, k, v and o of the language model; alpha is twice as much.
        micro_batch_size: Samples a forward pass.
        global_batch_size: Samples an optimiser step.
        num_workers: Loader processes.
    """

    lr: float = 1e-3
    rank: int = 8
    micro_batch_size: int = 2
    global_batch_size: int = 8
    num_workers: int = 2


def write_job(
    folder: Path,
    samples: Sequence[Sample],
    *,
    checkpoint: Path,
    adapter: Path | None,
    hyper: HyperParameters,
) -> dict[str, Any]:
    """Write data set and checkpoint for one pass over ``samples`` in their order.

    Args:
        adapter: Trained further; None for one that it draws itself.

    Returns:
        The settings that ``Peer.train`` takes. Gradient checkpointing is on, as it is by default.
    """
    write_sharegpt(folder / "data", samples)
    if not (folder / "checkpoint").exists():
        write_checkpoint(checkpoint, folder / "checkpoint")
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(folder / "checkpoint"),
        **({"adapter_name_or_path": str(adapter)} if adapter else {}),
        "template": "qwen3_vl_nothink",
        "dataset": "job",
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "out"),
        "overwrite_cache": True,
        "cutoff_len": 2048,
        "image_max_pixels": PAGE_SIZE_PX[0] * PAGE_SIZE_PX[1],  # else it would resize the pages
        "disable_shuffling": True,
        "finetuning_type": "lora",
        "lora_rank": hyper.rank,
        "lora_alpha": 2 * hyper.rank,
        "lora_dropout": 0.0,
        "lora_target": "q_proj,k_proj,v_proj,o_proj",
        "learning_rate": hyper.lr,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "num_train_epochs": 1,
        "per_device_train_batch_size": hyper.micro_batch_size,
        "gradient_accumulation_steps": hyper.global_batch_size // hyper.micro_batch_size,
        "dataloader_num_workers": hyper.num_workers,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def read_losses(folder: Path) -> list[float]:
    """Loss of each step of the run that ``write_job`` prepared."""
    log = (folder / "out" / "trainer_log.jsonl").read_text(encoding="utf-8")
    return [entry["loss"] for line in log.splitlines() if "loss" in (entry := json.loads(line))]
