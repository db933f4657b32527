"""Builds a small random Qwen3-VL or Qwen3 as a checkpoint folder, exactly as the hub lays one out.

The folder holds config, weights, tokenizer and, for pages, image processor settings, so that
everything downstream treats it like any other checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.model.config import build_config, model_class
from aes.model.folders import build_folder
from aes.model.spec import ModelSpec
from aes.model.vocabulary import CHAT_TEMPLATE, SPECIAL_TOKENS, save_tokenizer
from aes.model.weights_file import EXPERT_TENSORS

if TYPE_CHECKING:
    from torch import Tensor


def nano_folder(spec: ModelSpec, cache: Path) -> Path:
    """Folder of the random model for ``spec``, built on first use.

    Args:
        cache: Folders are kept under ``cache/models``; one for each set of sizes and seed.
    """
    import transformers
    from pydantic import TypeAdapter

    settings = TypeAdapter(ModelSpec).dump_json(spec).decode()
    key = hashlib.sha256(
        "\n".join((settings, transformers.__version__, CHAT_TEMPLATE, *SPECIAL_TOKENS)).encode()
        + Path(__file__).read_bytes()
    ).hexdigest()[:16]
    return build_folder(cache / "models" / f"random-{key}", partial(build_nano, spec))


def build_nano(spec: ModelSpec, folder: Path) -> None:
    """Write a checkpoint with random weights in hub layout into the existing ``folder``."""
    import torch

    config = build_config(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.weights_seed or 0)
        model = model_class(config).from_config(config, dtype=torch.float32)
        # The usual 0.02 leaves logits so flat that a frozen head could never prefer any word; with
        # this their standard deviation is 2, since the last norm makes states of unit variance.
        torch.nn.init.normal_(model.lm_head.weight, std=2 * spec.text.hidden_size**-0.5)
    save_hub_layout(model, folder)
    save_tokenizer(folder)
    if not spec.reads_text_alone:
        _save_image_processor(spec, folder)


def save_hub_layout(model: Any, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write config and weights as the hub has them: expert matrices transposed.

    ``save_pretrained`` leaves them as they are in memory.

    Args:
        state: Its weights, where it holds only a part of them itself.
    """
    from safetensors.torch import save_file

    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    tensors: dict[str, Tensor] = {
        name: (t.transpose(1, 2) if name.endswith(EXPERT_TENSORS) else t).detach().contiguous()
        for name, t in (model.state_dict() if state is None else state).items()
        if name not in tied
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def _save_image_processor(spec: ModelSpec, folder: Path) -> None:
    settings = image_processor_settings(spec)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2))


def image_processor_settings(spec: ModelSpec) -> dict[str, Any]:
    """How a model that reads pages wants them, under the names of a checkpoint's file."""
    return {
        "size": {"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
