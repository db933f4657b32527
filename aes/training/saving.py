"""Saves what was trained: an adapter folder in PEFT layout, or the whole model in hub layout.

Written aside and then named, so that a folder under its final name is whole.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aes.files import sync
from aes.model.nano import save_hub_layout
from aes.model.sharding import trained_state_dict
from aes.model.trained import ADAPTER_FOLDER, GRADING_FILE, MODEL_FOLDER
from aes.ranks import ALONE, Ranks


def save_trained(
    model: Any,
    run_dir: Path,
    *,
    base: str,
    grading: Mapping[str, Any],
    ranks: Ranks = ALONE,
) -> Path:
    """Write ``adapter/`` (PEFT model) or ``model/`` (whole model) into ``run_dir``.

    Args:
        model: Its shards are gathered, so all ranks must call this together; the first writes.
        base: Name or folder of the base model, kept in the adapter's config.
        grading: What whoever grades with it must know, kept with the weights: page settings,
            ranges of the traits, whether it was trained on comments, the digest of the base; of
            instruction data the system prompt and the labels.

    Returns:
        The folder.
    """
    has_adapter = hasattr(model, "peft_config")
    final = run_dir / (ADAPTER_FOLDER if has_adapter else MODEL_FOLDER)
    state = trained_state_dict(model, keep=ranks.is_first)
    if not ranks.is_first:
        return final
    aside = Path(tempfile.mkdtemp(prefix=".saving-", dir=run_dir))
    try:
        if has_adapter:
            for config in model.peft_config.values():
                config.base_model_name_or_path = base
            # Embeddings are frozen; without the word, PEFT would look them up on the hub.
            model.save_pretrained(aside, save_embedding_layers=False, state_dict=state)
            (aside / "README.md").unlink(missing_ok=True)  # a template without content
        else:
            save_hub_layout(model, aside, state=state)
        facts = json.dumps(grading, indent=2, default=str, ensure_ascii=False)
        (aside / GRADING_FILE).write_text(facts, encoding="utf-8")
        aside.chmod(0o755)
        for file in aside.iterdir():  # safetensors makes files that only their owner reads
            file.chmod(0o644)
            sync(file)
        sync(aside)
        replace_folder(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def replace_folder(new: Path, final: Path) -> None:
    """Give ``new`` the name ``final``; an older folder of that name goes away."""
    if final.exists():
        old = final.with_name(f".old-{final.name}")
        final.rename(old)
        new.rename(final)
        sync(final.parent)
        shutil.rmtree(old)
    else:
        new.rename(final)
        sync(final.parent)
