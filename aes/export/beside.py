"""What lies beside exported weights: tokenizer, chat template, image processor, grading facts.

Copied from the base, and set to what training used. Paths of this machine are left behind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aes.model.adapter_file import CONFIG_FILE, WEIGHTS_FILE, read_adapter
from aes.model.loading import local_folder, model_folder
from aes.model.nano import image_processor_settings
from aes.model.spec import ModelSpec
from aes.model.trained import GRADING_FILE
from aes.model.vocabulary import vocabulary_folder

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
_PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json")
_IMAGE_FILE = "preprocessor_config.json"
_GENERATION_FILE = "generation_config.json"
_PATH_KEYS = ("_name_or_path", "name_or_path", "tokenizer_file", "save_dir")

_CORE_KEYS = (
    *("base_model_name_or_path", "peft_type", "task_type", "r", "lora_alpha", "lora_dropout"),
    *("target_modules", "modules_to_save", "bias", "inference_mode", "use_rslora", "use_dora"),
    *("fan_in_fan_out", "init_lora_weights", "peft_version"),
)
"""Settings of an adapter that every version of PEFT, and vLLM, knows."""


def settings_folder(spec: ModelSpec, cache: Path) -> Path:
    """Where the base's small files are, fetched without its weights if it is on the hub.

    Where the hub cannot be reached, the vocabulary that all these models share stands in.
    """
    if spec.path is None or local_folder(spec) is not None:
        return model_folder(spec, cache)
    from huggingface_hub import snapshot_download

    wanted = [*_TOKENIZER_FILES, *_PROCESSOR_FILES, _IMAGE_FILE, _GENERATION_FILE, "config.json"]
    try:
        return Path(snapshot_download(spec.path, allow_patterns=wanted))
    except Exception:  # what the hub's client raises has no class in common
        return vocabulary_folder(cache)


def copy_settings(base: Path, folder: Path, spec: ModelSpec) -> None:
    """Tokenizer, chat template and image processor; the latter with the sizes of training."""
    for name in (*_TOKENIZER_FILES, *_PROCESSOR_FILES):
        if (base / name).is_file():
            _copy(base / name, folder / name)
    if spec.reads_text_alone:
        return
    settings = image_processor_settings(spec) | {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
    }
    if (base / _IMAGE_FILE).is_file():
        settings |= {**_read(base / _IMAGE_FILE), "size": settings["size"]}
    _write(folder / _IMAGE_FILE, settings)


def write_config(base: Path, folder: Path, *, dtype: str, unties: bool) -> None:
    """The base's ``config.json`` with what merging changes.

    Args:
        dtype: Of the merged weights.
        unties: Whether words and head, one in the base, are two now.
    """
    config = _without_paths(_read(base / "config.json"))
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    for part in parts:
        if unties and "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = False
        for key in {"dtype", "torch_dtype"} & part.keys():
            part[key] = dtype
    if unties:
        config["tie_word_embeddings"] = False
    _write(folder / "config.json", config)


def write_generation_config(base: Path, folder: Path) -> None:
    """The base's, or where it has none, one that ends answers where its tokenizer does."""
    if (base / _GENERATION_FILE).is_file():
        _copy(base / _GENERATION_FILE, folder / _GENERATION_FILE)
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = sorted({tokenizer.eos_token_id, tokenizer.pad_token_id}, reverse=True)
    _write(
        folder / _GENERATION_FILE,
        {"do_sample": False, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id},
    )


def copy_grading_facts(trained: Path, folder: Path) -> None:
    """What whoever asks the model must know; of a font file, its name alone."""
    facts = _without_paths(_read(trained / GRADING_FILE))
    page = facts.get("page", {})
    if page.get("font"):
        page["font"] = Path(page["font"]).name
    _write(folder / GRADING_FILE, facts)


def copy_adapter(trained: Path, folder: Path, *, base_name: str) -> None:
    """The adapter in PEFT layout, with the base's public name.

    Raises:
        ValueError: If it is torn.
    """
    read_adapter(trained)
    config = _read(trained / CONFIG_FILE) | {"base_model_name_or_path": base_name}
    # What is unset is left out: older versions of PEFT do not know every key of newer ones.
    kept = {key: value for key, value in config.items() if value or key in _CORE_KEYS}
    _write(folder / CONFIG_FILE, kept)
    shutil.copyfile(trained / WEIGHTS_FILE, folder / WEIGHTS_FILE)


def _copy(source: Path, target: Path) -> None:
    """A file as it is; of JSON, paths are left out."""
    if source.suffix != ".json" or source.name in ("tokenizer.json", "vocab.json"):
        shutil.copyfile(source, target)
    else:
        _write(target, _without_paths(_read(source)))


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: None if key == "save_dir" else _without_paths(inner)
            for key, inner in value.items()
            if key == "save_dir" or key not in _PATH_KEYS
        }
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as JSON; restore it") from error


def _write(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
