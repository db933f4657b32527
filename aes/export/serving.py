"""An export -> the line that has vLLM serve it, and what vLLM would not serve of it.

Source: vLLM 0.33.0, ``config/lora.py``, ``lora/peft_helper.py``, ``engine/arg_utils.py``,
``entrypoints/openai/cli_args.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from aes.inference.vllm_offline import LORA_RANKS
from aes.model.spec import AdapterSpec, LoraSpec

_MAX_PAGES = 20
"""Of an essay, as ``predict.py`` takes at most."""

_LENGTH_STEP = 1024


@dataclass(frozen=True, kw_only=True)
class Served:
    """What vLLM has to be told.

    Attributes:
        name: Under which it answers.
        base: Name or folder of the base model, for an adapter alone.
        max_tokens: Longest prompt with its answer.
        sees_pages: Whether the model reads pages.
    """

    name: str
    base: str
    max_tokens: int
    sees_pages: bool


def serve_line(served: Served, folder: str, *, adapter: LoraSpec | None) -> str:
    """The command.

    Args:
        folder: Of the export, as the command shall name it.
        adapter: ``None``: the weights are merged.
    """
    parts = ["vllm serve", quote(served.base if adapter is not None else folder)]
    if adapter is not None:
        rank = next((size for size in LORA_RANKS if size >= adapter.rank), adapter.rank)
        parts += [
            "--enable-lora",
            f"--max-lora-rank {rank}",
            f"--lora-modules {quote(f'{served.name}={folder}')}",
        ]
    else:
        parts.append(f"--served-model-name {quote(served.name)}")
    length = -(-served.max_tokens // _LENGTH_STEP) * _LENGTH_STEP
    parts.append(f"--max-model-len {length}")
    if served.sees_pages:
        parts.append(f"""--limit-mm-per-prompt '{{"image": {_MAX_PAGES}, "video": 0}}'""")
    else:  # the text models' template thinks unless told, which training never did
        parts.append("""--default-chat-template-kwargs '{"enable_thinking": false}'""")
    return " ".join(parts)


def obstacle(adapter: AdapterSpec) -> str:
    """What vLLM would refuse of an adapter, or pass over in silence; empty if nothing."""
    if not isinstance(adapter, LoraSpec):
        return ""
    if adapter.modules_to_save:
        return (
            f"vLLM refuses this adapter, since {', '.join(adapter.modules_to_save)} was trained "
            "whole beside LoRA: serve merged weights"
        )
    if "experts" in adapter.targets:
        return "vLLM does not serve LoRA on fused experts: serve merged weights"
    if "vision" in adapter.targets:
        return (
            "vLLM ignores LoRA on the vision tower, unless it is started with "
            "--enable-tower-connector-lora, which is experimental: serve merged weights"
        )
    if adapter.rank > LORA_RANKS[-1]:
        return f"vLLM serves ranks up to {LORA_RANKS[-1]}: serve merged weights"
    return ""
