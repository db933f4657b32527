"""Sizes of the models that are measured, and of the job that they are measured with.

Constants, since a machine with a card may lack what reads conf/model; a test compares the two.
Knows no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Text:
    """The language model, named as in conf/model."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    experts_per_token: int
    expert_intermediate_size: int
    vocab_size: int = 151936
    rope_theta: float = 5000000.0
    mrope_section: tuple[int, int, int]
    tie_embeddings: bool


@dataclass(frozen=True, kw_only=True)
class Vision:
    """The tower, named as in conf/model."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_position_embeddings: int = 2304
    deepstack_layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a sample is; the reference job is 900 of them in steps of 8.

    Attributes:
        page: Rows and columns of a page's tokens, one page a sample.
        num_tokens: Of a sample on average, page included.
        num_supervised: Those of the answer among them.
        spread: Lengths of answers lie within this share of their mean.
    """

    page: tuple[int, int]
    num_tokens: int = 1065
    num_supervised: int = 450
    spread: float = 0.25
    samples_per_step: int = 8


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A model and its job."""

    text: Text
    vision: Vision
    job: Job

    @property
    def image_token(self) -> int:
        """The page placeholder, as far from the vocabulary's end as in Qwen's: 151655 there."""
        return self.text.vocab_size - 281

    def config(self) -> Any:
        """The transformers configuration."""
        from transformers import Qwen3VLMoeConfig

        text, vision = self.text, self.vision
        return Qwen3VLMoeConfig(
            text_config={
                "vocab_size": text.vocab_size,
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "num_hidden_layers": text.num_layers,
                "num_attention_heads": text.num_heads,
                "num_key_value_heads": text.num_kv_heads,
                "head_dim": text.head_dim,
                "num_experts": text.num_experts,
                "num_experts_per_tok": text.experts_per_token,
                "moe_intermediate_size": text.expert_intermediate_size,
                "decoder_sparse_step": 1,
                "max_position_embeddings": 262144,
                "tie_word_embeddings": text.tie_embeddings,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": text.rope_theta,
                    "mrope_section": list(text.mrope_section),
                    "mrope_interleaved": True,
                },
            },
            vision_config={
                "depth": vision.depth,
                "hidden_size": vision.hidden_size,
                "intermediate_size": vision.intermediate_size,
                "num_heads": vision.num_heads,
                "num_position_embeddings": vision.num_position_embeddings,
                "deepstack_visual_indexes": list(vision.deepstack_layers),
                "out_hidden_size": text.hidden_size,
            },
            tie_word_embeddings=text.tie_embeddings,
            image_token_id=self.image_token,
            video_token_id=self.image_token + 1,
            vision_start_token_id=self.image_token - 3,
            vision_end_token_id=self.image_token - 2,
        )


GEOMETRIES = {
    # The nano with few words on small pages, of which every way takes a moment: for tests.
    "tiny": Geometry(
        text=Text(
            num_layers=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            num_experts=4,
            experts_per_token=2,
            expert_intermediate_size=48,
            vocab_size=1024,
            mrope_section=(8, 4, 4),
            tie_embeddings=False,
        ),
        vision=Vision(
            depth=2, hidden_size=64, intermediate_size=128, num_heads=4, deepstack_layers=(0,)
        ),
        job=Job(page=(3, 4), num_tokens=40, num_supervised=16, samples_per_step=4),
    ),
    "nano": Geometry(
        text=Text(
            num_layers=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            num_experts=4,
            experts_per_token=2,
            expert_intermediate_size=48,
            mrope_section=(8, 4, 4),
            tie_embeddings=False,
        ),
        vision=Vision(
            depth=2, hidden_size=64, intermediate_size=128, num_heads=4, deepstack_layers=(0,)
        ),
        job=Job(page=(20, 10), num_tokens=685),
    ),
    "nano_50m": Geometry(
        text=Text(
            num_layers=4,
            hidden_size=256,
            intermediate_size=512,
            num_heads=8,
            num_kv_heads=4,
            head_dim=32,
            num_experts=16,
            experts_per_token=4,
            expert_intermediate_size=192,
            mrope_section=(8, 4, 4),
            tie_embeddings=True,
        ),
        vision=Vision(
            depth=4,
            hidden_size=192,
            intermediate_size=512,
            num_heads=4,
            deepstack_layers=(0, 1, 2),
        ),
        job=Job(page=(29, 20)),
    ),
    "qwen3_vl_30b_a3b": Geometry(
        text=Text(
            num_layers=48,
            hidden_size=2048,
            intermediate_size=6144,
            num_heads=32,
            num_kv_heads=4,
            head_dim=128,
            num_experts=128,
            experts_per_token=8,
            expert_intermediate_size=768,
            mrope_section=(24, 20, 20),
            tie_embeddings=False,
        ),
        vision=Vision(
            depth=27,
            hidden_size=1152,
            intermediate_size=4304,
            num_heads=16,
            deepstack_layers=(8, 16, 24),
        ),
        job=Job(page=(24, 24)),
    ),
}
