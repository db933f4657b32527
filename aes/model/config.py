"""Turns a ModelSpec's geometry into the transformers configuration. Reads no file.

And tells which of transformers' classes a configuration is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aes.model.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Ids of the special tokens in the vocabulary that all Qwen3-VL models share.
_TOKEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
# <|im_end|> ends an answer, <|endoftext|> begins and fills up.
_ENDS = {"bos_token_id": 151643, "eos_token_id": 151645}


def model_class(config: PreTrainedConfig) -> Any:
    """What of transformers builds and loads a model of this configuration, with its head."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    reads_pages = hasattr(config, "vision_config")
    return AutoModelForImageTextToText if reads_pages else AutoModelForCausalLM


def build_config(spec: ModelSpec) -> PreTrainedConfig:
    """Configuration of a Qwen3, or of a dense or MoE Qwen3-VL, with the spec's sizes.

    Raises:
        ValueError: If the sizes contradict the architecture.
    """
    from transformers import Qwen3Config, Qwen3VLConfig, Qwen3VLMoeConfig

    is_moe = spec.architecture == "qwen3_vl_moe"
    if is_moe != (spec.text.num_experts > 0):
        raise ValueError(
            f"model.text.num_experts={spec.text.num_experts} does not fit "
            f"model.architecture={spec.architecture}; qwen3_vl_moe has at least one, others none"
        )
    if spec.vision is None:
        return Qwen3Config(**_text_config(spec), **_ENDS)
    assert spec.text.mrope_section is not None
    sections = sum(spec.text.mrope_section)
    if sections * 2 != spec.text.head_dim:
        raise ValueError(
            f"model.text.mrope_section sums to {sections}, but must sum to half of "
            f"model.text.head_dim={spec.text.head_dim}"
        )
    if is_moe and spec.text.hidden_size in (
        spec.text.expert_intermediate_size,
        2 * spec.text.expert_intermediate_size,
    ):
        raise ValueError(
            f"model.text.expert_intermediate_size={spec.text.expert_intermediate_size} makes "
            f"expert matrices square at model.text.hidden_size={spec.text.hidden_size}, and a "
            "loader cannot tell which way round they lie; choose another size"
        )
    kind = Qwen3VLMoeConfig if is_moe else Qwen3VLConfig
    return kind(
        text_config=_text_config(spec),
        vision_config={
            "depth": spec.vision.depth,
            "hidden_size": spec.vision.hidden_size,
            "intermediate_size": spec.vision.intermediate_size,
            "num_heads": spec.vision.num_heads,
            "num_position_embeddings": spec.vision.num_position_embeddings,
            "deepstack_visual_indexes": list(spec.vision.deepstack_layers),
            "out_hidden_size": spec.text.hidden_size,
        },
        tie_word_embeddings=spec.text.tie_embeddings,
        **_TOKEN_IDS,
    )


def _text_config(spec: ModelSpec) -> dict[str, Any]:
    text = spec.text
    config: dict[str, Any] = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "head_dim": text.head_dim,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": text.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta},
    }
    if text.mrope_section is not None:
        config["rope_parameters"] |= {
            "mrope_section": list(text.mrope_section),
            "mrope_interleaved": True,
        }
    if text.num_experts:
        config |= {
            "num_experts": text.num_experts,
            "num_experts_per_tok": text.experts_per_token,
            "moe_intermediate_size": text.expert_intermediate_size,
            "decoder_sparse_step": 1,
        }
    return config
