"""What a model is and which of its weights are trained, as plain settings.

Geometry stands here so that plans need no weights. Nothing is built in this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_SCHEMA = ConfigDict(extra="forbid")
_Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class TextGeometry:
    """Sizes of the language model.

    Experts are 0 in a dense one; ``mrope_section`` is ``None`` where positions are those of text
    alone.
    """

    num_layers: _Positive
    hidden_size: _Positive
    intermediate_size: _Positive
    num_heads: _Positive
    num_kv_heads: _Positive
    head_dim: _Positive
    num_experts: Annotated[int, Field(ge=0)]
    experts_per_token: Annotated[int, Field(ge=0)]
    expert_intermediate_size: Annotated[int, Field(ge=0)]
    vocab_size: _Positive
    rope_theta: Annotated[float, Field(gt=0)]
    mrope_section: Annotated[tuple[int, ...], Field(min_length=3, max_length=3)] | None
    tie_embeddings: bool


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class VisionGeometry:
    """Sizes of the vision tower. Patches are 16 px and merge 2 x 2 into a token of 32 x 32 px."""

    depth: _Positive
    hidden_size: _Positive
    intermediate_size: _Positive
    num_heads: _Positive
    num_position_embeddings: _Positive
    deepstack_layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class ModelSpec:
    """A Qwen3-VL or Qwen3 model: where it is, its sizes, and the pages it is given.

    Qwen3 reads text alone: ``vision`` and all that is said of pages are ``None``.

    Attributes:
        path: Local folder or hub id; ``None`` builds random weights from the geometry.
        quantization: Frozen linear layers are held in 8 or 4 bits (bitsandbytes); dense models on
            one device or under ddp alone.
        architecture: ``model_type`` of the checkpoint's config.
        weights_seed: Seeds random weights; ``None`` for a checkpoint.
        modules_to_save: Names (suffixes) of modules that are trained whole beside LoRA.
        min_pixels: Least area of a page that the image processor leaves as it is.
        max_pixels: Greatest such area.
        glyph_px: Size of the type on drawn pages.
        page_width_px: Width of drawn pages.
        page_max_height_px: Greatest height of drawn pages.
    """

    path: str | None
    quantization: Literal["none", "8bit", "4bit"]
    architecture: Literal["qwen3", "qwen3_vl", "qwen3_vl_moe"]
    weights_seed: int | None
    modules_to_save: tuple[str, ...]
    text: TextGeometry
    vision: VisionGeometry | None
    min_pixels: _Positive | None
    max_pixels: _Positive | None
    glyph_px: _Positive | None
    page_width_px: _Positive | None
    page_max_height_px: _Positive | None

    @model_validator(mode="after")
    def _check_sight(self) -> ModelSpec:
        seeing = {name: getattr(self, name) for name in _OF_SIGHT}
        seeing["text.mrope_section"] = self.text.mrope_section
        for name, value in seeing.items():
            if (value is not None) == self.reads_text_alone:
                state = "must be null" if self.reads_text_alone else "is missing"
                raise ValueError(
                    f"model.{name} {state} with model.architecture={self.architecture}, which "
                    f"reads {'text alone' if self.reads_text_alone else 'pages'}"
                )
        return self

    @property
    def reads_text_alone(self) -> bool:
        """Whether it has no eyes: no pages, no tower, nothing kept of either."""
        return self.architecture == "qwen3"


_OF_SIGHT = (
    *("vision", "min_pixels", "max_pixels"),
    *("glyph_px", "page_width_px", "page_max_height_px"),
)


TargetSet = Literal[
    "attention", "mlp", "experts", "vision",
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class LoraSpec:
    """LoRA: low-rank updates beside frozen weights.

    Attributes:
        rank: Inner size of the update.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Chance that an input of the update is dropped in training.
        targets: Named sets of matrices: ``attention`` (q, k, v, o of the language model),
            ``mlp`` (gate, up, down of a dense one), ``experts`` (fused expert matrices of another),
            ``vision`` (linear layers of the tower); or single ones of the language model's.
        modules_to_save: Names (suffixes) of modules that are trained whole and saved with it.
        init_from: Folder of an adapter in PEFT layout that training begins with; ``None``: with one
            that changes nothing.
    """

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[tuple[TargetSet, ...], Field(min_length=1)]
    modules_to_save: tuple[str, ...]
    init_from: Path | None


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class NoAdapterSpec:
    """Every weight of the model is trained."""


AdapterSpec = LoraSpec | NoAdapterSpec


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class KernelSpec:
    """How a pass through the model is computed; the result is the same but for rounding.

    Attributes:
        experts: ``eager``, ``batched_mm`` and ``grouped_mm`` are transformers' own. ``frozen``:
            grouped products with a backward pass that keeps the pre-activation alone, for experts
            that are not trained. ``auto``: ``frozen`` where that is so, else ``grouped_mm``.
        attention: ``eager`` and ``sdpa`` are transformers' own. ``varlen``: each sample of a packed
            row by itself. ``auto``: the fastest that fits the device and the batches.
        logit_rows: Rows of ``lm_head``'s logits that are there at once; ``None``: all; 0, on a CPU
            and for a frozen head in float32: none; ``auto``: what is fast on the device.
        fused_ops: ``all``: RMSNorm, rotary positions and SwiGLU as one operation each, and the
            embedding of a page's patches as one matrix product.
        compile: ``layers``: ``torch.compile`` of each decoder layer.
    """

    experts: Literal["auto", "eager", "batched_mm", "grouped_mm", "frozen"]
    attention: Literal["auto", "eager", "sdpa", "varlen"]
    logit_rows: Annotated[int, Field(ge=0)] | Literal["auto"] | None
    fused_ops: Literal["none", "all"]
    compile: Literal["none", "layers"]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class VisionCacheSpec:
    """Where the features of pages are kept that a frozen tower made.

    Attributes:
        place: ``memory``: of the host, for this run; ``disk``: in the cache folder, for later runs
            too; ``none``: nowhere; ``auto``: in memory, where features can be used again.
        max_gib: Bound of it: of one rank in memory, of all runs together on disk. Pages beyond are
            computed each time.
    """

    place: Literal["auto", "none", "memory", "disk"]
    max_gib: Annotated[float, Field(gt=0)]
