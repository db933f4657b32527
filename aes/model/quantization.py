"""Frozen linear layers in 8 or 4 bits, by bitsandbytes: what is held so, and where that is refused.

Of the language model the projections of attention and MLP are; lm_head, embeddings and norms stay
as they are, and so does the vision tower, which is small beside them and reads the pupils' writing.
What is trained stands beside the frozen layers, in float32. Knows nothing of training.

Source: Dettmers et al. (2022), LLM.int8(); Dettmers et al. (2023), QLoRA, for ``nf4`` with
quantized scales.
"""

from __future__ import annotations

from typing import Any, Literal

from aes.hardware import StrategySpec
from aes.model.spec import AdapterSpec, LoraSpec, ModelSpec

Quantization = Literal["none", "8bit", "4bit"]

QUANTIZED_GROUPS = ("attention", "MLP")
"""Parts of a model that are held in few bits, as ``aes.plan.parameters`` names them."""

_WHOLE = ("model.visual", "lm_head", "model.language_model.embed_tokens")
_BLOCK, _SCALES_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one."""


def bytes_per_weight(quantization: Quantization, width_bytes: float) -> float:
    """Bytes of a weight in a quantized part, its share of the scales included.

    In 8 bits a scale serves a whole row, and counts for nothing.

    Args:
        width_bytes: Bytes of a weight that is not quantized.
    """
    if quantization == "none":
        return width_bytes
    if quantization == "8bit":
        return 1.0
    return 0.5 + (1 + 4 / _SCALES_BLOCK) / _BLOCK


def require_quantizable(
    spec: ModelSpec, adapter: AdapterSpec, strategy: StrategySpec, *, model: str
) -> None:
    """Refuse a quantization that could not run or would do next to nothing.

    Args:
        model: The name under which the model was chosen, for the message.

    Raises:
        ValueError: If so.
    """
    if spec.quantization == "none":
        return
    asked = f"model.quantization={spec.quantization}"
    if spec.text.num_experts:
        raise ValueError(
            f"{asked}: bitsandbytes leaves fused experts as they are, so it is of no use to "
            f"model={model}; use a dense model such as model=qwen3_vl_8b, or "
            "model.quantization=none"
        )
    if not isinstance(adapter, LoraSpec):
        raise ValueError(
            f"{asked} holds frozen weights in few bits, but adapter=none trains them all; use "
            "adapter=lora, or model.quantization=none"
        )
    if strategy.name not in ("single", "ddp"):
        raise ValueError(
            f"{asked} does not go with strategy={strategy.name}, which would cut or copy weights "
            "that are packed with their scales; use strategy=single or ddp, or "
            "model.quantization=none"
        )


def require_bitsandbytes(quantization: Quantization, accelerator: Literal["cpu", "cuda"]) -> None:
    """Check that the library is there and works on the device.

    Raises:
        ValueError: If not.
    """
    if quantization == "none":
        return
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"model.quantization={quantization} needs bitsandbytes, which is not installed: pip "
            'install "aes[quantization]", or leave it out'
        ) from error
    known: set[str] = getattr(bitsandbytes, "supported_torch_devices", set())
    if accelerator not in known:
        raise ValueError(
            f"model.quantization={quantization}: bitsandbytes {bitsandbytes.__version__} does not "
            f"work on {accelerator}; upgrade it, or leave the setting out"
        )


def quantization_config(quantization: Quantization, dtype: Any) -> Any:
    """What transformers is told when it loads a checkpoint; ``None`` to load it as it is.

    Args:
        dtype: Torch dtype in which 4-bit layers compute; 8-bit ones multiply whole numbers.
    """
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        llm_int8_skip_modules=list(_WHOLE),
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
