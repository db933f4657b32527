"""A finished run -> its model, ready to grade.

Base and adapter, or the whole model where a run trained every weight. Refuses what is incomplete
or of another base. Knows file names in a run, nothing of what a grade is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from aes.model.kernels import apply_kernels, resolve_kernels
from aes.model.loading import load_base, model_folder
from aes.model.spec import KernelSpec, ModelSpec

ADAPTER_FOLDER = "adapter"
MODEL_FOLDER = "model"
GRADING_FILE = "grading.json"
"""Beside the weights: what whoever grades with them must know."""


def trained_folder(run_dir: Path) -> Path:
    """The folder of a run that holds what was trained.

    Raises:
        ValueError: If there is none, or it is incomplete.
    """
    for name, files in (
        (ADAPTER_FOLDER, ("adapter_config.json", "adapter_model.safetensors", GRADING_FILE)),
        (MODEL_FOLDER, ("config.json", GRADING_FILE)),
    ):
        folder = run_dir / name
        if not folder.is_dir():
            continue
        for file in files:
            if not (folder / file).is_file():
                raise ValueError(f"{folder} has no {file}, so it is incomplete; train again")
        return folder
    raise ValueError(
        f"{run_dir} holds neither {ADAPTER_FOLDER}/ nor {MODEL_FOLDER}/: its training did not "
        "finish; go on with it by the same train.py command with run_dir= and resume=auto"
    )


def read_grading_facts(run_dir: Path) -> Mapping[str, Any]:
    """What was saved beside the weights; see ``aes.training.saving``.

    Raises:
        ValueError: If it cannot be read.
    """
    file = trained_folder(run_dir) / GRADING_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        return dict(facts)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read; restore it, or train again") from error


def trained_digest(run_dir: Path) -> str:
    """The first 12 hexadecimal digits of a SHA-256 over the trained weights and their settings.

    Raises:
        ValueError: If the run holds none.
    """
    folder = trained_folder(run_dir)
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json"):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def load_trained(
    spec: ModelSpec,
    run_dir: Path,
    *,
    cache: Path,
    precision: Literal["fp32", "bf16"],
    accelerator: Literal["cpu", "cuda"],
    kernels: KernelSpec | None = None,
    loaded: Any | None = None,
) -> Any:
    """The model as the run left it; trained weights are float32, as they were in training.

    Args:
        kernels: How a pass is computed; ``None``: as transformers does.
        loaded: What this gave for another run of the same base and settings. It loses its adapter
            to this run's, so that the base is not loaded again; see ``may_take_base``.

    Returns:
        The PEFT model, or the transformers model where every weight was trained.

    Raises:
        ValueError: If the run is incomplete, or its adapter does not fit the base.
    """
    import torch

    folder = trained_folder(run_dir)
    is_whole = folder.name == MODEL_FOLDER
    if loaded is not None:
        assert not is_whole
        return _with_adapter(_take_base(loaded), folder).requires_grad_(False)
    dtype = torch.bfloat16 if precision == "bf16" and not is_whole else torch.float32
    base = folder if is_whole else model_folder(spec, cache)
    quantization = "none" if is_whole else spec.quantization
    model: Any = load_base(base, dtype=dtype, device=accelerator, quantization=quantization)
    if not is_whole:
        model = _with_adapter(model, folder)
    model.requires_grad_(False)
    if kernels is not None:
        apply_kernels(model, resolve_kernels(kernels, spec, None))
    return model


def may_take_base(first: Path, second: Path) -> bool:
    """Whether what was trained in two runs stands beside a base that both leave as it is.

    LoRA on experts does not: it is computed by functions that are chosen when a model is loaded.
    """
    for run_dir in (first, second):
        folder = trained_folder(run_dir)
        if folder.name != ADAPTER_FOLDER:
            return False
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config.get("target_parameters"):
            return False
    return True


def _take_base(model: Any) -> Any:
    """The base of a PEFT model, which is of no use any more."""
    originals = {
        name.removeprefix("base_model.model."): module.original_module
        for name, module in model.named_modules()
        if hasattr(module, "original_module")
    }
    base = model.unload()
    for name, original in originals.items():  # PEFT leaves the trained copies there
        base.set_submodule(name, original)
    if hasattr(base, "peft_config"):  # by which PEFT would take it for adapted
        del base.peft_config
    return base


def _with_adapter(base: Any, folder: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        model = PeftModel.from_pretrained(base, folder)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the adapter in {folder} cannot be loaded into this base model "
            f"({str(error).splitlines()[0][:120]}); use the model= that it was trained on"
        ) from error
    # PEFT leaves what it does not find as it was drawn, which would grade as the base does.
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    wrong = set(saved.keys() ^ expected.keys()) | {
        n for n in saved.keys() & expected.keys() if saved[n] != tuple(expected[n].shape)
    }
    if wrong:
        raise ValueError(
            f"the adapter in {folder} does not fit this base model: {len(wrong)} tensors such as "
            f"{min(wrong)}; use the model= that it was trained on"
        )
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = parameter.data.float()
    return model.eval()
