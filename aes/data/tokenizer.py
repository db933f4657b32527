"""A folder -> its tokenizer with a chat template, and a digest of what it is made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "added_tokens*", "special_tokens*")


def load_tokenizer(folder: Path, *, reads_pages: bool) -> Any:
    """The tokenizer.

    Raises:
        ValueError: If there is none, it has no chat template, or, for a model that reads pages, no
            token for them.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as exc:
        raise ValueError(
            f"{folder} holds no tokenizer that can be read; download it again, or, in the cache, "
            "delete the folder"
        ) from exc
    legacy = folder / "chat_template.json"  # older hub folders keep the template here
    if tokenizer.chat_template is None and legacy.is_file():
        tokenizer.chat_template = json.loads(legacy.read_text(encoding="utf-8"))["chat_template"]
    if tokenizer.chat_template is None:
        raise ValueError(f"{folder} has no chat template; take the files of an Instruct model")
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    if reads_pages and image_token in (None, tokenizer.unk_token_id):
        raise ValueError(
            f"the tokenizer in {folder} has no token for pages; take the files of a Qwen3-VL model"
        )
    return tokenizer


def digest_tokenizer(folder: Path) -> str:
    """Digest of the files that a tokenizer is made of; its own serialisation takes 20 times longer.

    Of the chat template only the text in use counts, which a caller finds in the tokenizer.
    """
    digest = hashlib.sha256()
    found = (path for name in _TOKENIZER_FILES for path in folder.glob(name))
    for path in sorted(filter(Path.is_file, found)):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
