"""Models that read text alone: built, loaded, adapted, quantized, and what is refused of them."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from aes.kernels.forward import hidden_states, logits
from aes.model import LoraSpec, ModelSpec
from aes.model.loading import build_on_meta, load_base, model_folder, read_config
from aes.model.nano import build_nano, save_hub_layout
from aes.model.trained import load_trained
from aes.model.vision_cache import VisionCacheSpec, choose_place
from aes.plan import count_parameters
from aes.records import Essay
from aes.training.saving import save_trained

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra quantization)"
)


@pytest.fixture(scope="module")
def checkpoint(nano_text_spec: ModelSpec, session_cache: Path) -> Path:
    """Not to be changed."""
    return model_folder(nano_text_spec, session_cache)


@pytest.mark.parametrize("key", ["vision", "min_pixels", "glyph_px", "page_width_px"])
def test_what_is_said_of_pages_must_be_left_open(
    key: str, nano_text_spec: ModelSpec, nano_spec: ModelSpec
) -> None:
    value = getattr(nano_spec, key)
    with pytest.raises(ValidationError, match=f"model.{key} must be null with .*qwen3, which"):
        dataclasses.replace(nano_text_spec, **{key: value})
    with pytest.raises(ValidationError, match=f"model.{key} is missing with .*reads pages"):
        dataclasses.replace(nano_spec, **{key: None})


def test_sections_of_positions_are_for_pages(nano_text_spec: ModelSpec) -> None:
    text = dataclasses.replace(nano_text_spec.text, mrope_section=(8, 4, 4))
    with pytest.raises(ValidationError, match=r"model\.text\.mrope_section must be null"):
        dataclasses.replace(nano_text_spec, text=text)


@torch.no_grad()
def test_the_folder_loads_in_plain_transformers_with_equal_logits(
    checkpoint: Path, make_text: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    assert not (checkpoint / "preprocessor_config.json").exists()
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    batch = make_text(1)
    ours = load_base(checkpoint, dtype=torch.float32)
    found = logits(ours, hidden_states(ours, batch)[0, -3:])
    truth = theirs(input_ids=batch["input_ids"], logits_to_keep=3).logits[0]
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)


@pytest.fixture
def make_text(
    make_batch: Callable[..., Any],
    text_builder: Any,
    text_processor: Any,
    essays: tuple[Essay, ...],
) -> Callable[..., Any]:
    return lambda number: make_batch(
        essays[:number], builder=text_builder, processor=text_processor
    )


def test_tied_embeddings_are_saved_once_and_tied_again(
    nano_text_spec: ModelSpec, tmp_path: Path
) -> None:
    text = dataclasses.replace(nano_text_spec.text, tie_embeddings=True, num_layers=1)
    build_nano(dataclasses.replace(nano_text_spec, text=text), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model: Any = load_base(tmp_path, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_saving_and_loading_gives_the_same_model(
    load_nano_text: Callable[..., Any], tmp_path: Path
) -> None:
    model = load_nano_text()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    save_hub_layout(model, tmp_path)
    ours, theirs = model.state_dict(), load_base(tmp_path, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_of_the_other_kind_is_refused(
    nano_text_spec: ModelSpec, nano_spec: ModelSpec, checkpoint: Path, nano_checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match=r"holds a qwen3_vl_moe model, but .* for qwen3;"):
        read_config(dataclasses.replace(nano_text_spec, path=str(nano_checkpoint)))
    with pytest.raises(ValueError, match=r"holds a qwen3 model, but .* for qwen3_vl_moe;"):
        read_config(dataclasses.replace(nano_spec, path=str(checkpoint)))


def test_lora_is_on_the_attention_of_every_layer(
    load_nano_text: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    model = load_nano_text(make_lora())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    places = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained}
    assert places == {
        f"model.layers.{layer}.self_attn.{matrix}_proj" for layer in range(2) for matrix in "qkvo"
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": ("vision",)}, "targets names vision, but this model reads text alone"),
        ({"targets": ("attention", "experts")}, "this model is dense and has none"),
        ({"modules_to_save": ("visual.merger",)}, "names visual.merger, which this model does not"),
    ],
)
def test_an_adapter_on_what_is_not_there_is_refused(
    changes: dict[str, Any],
    words: str,
    nano_text_spec: ModelSpec,
    make_lora: Callable[..., LoraSpec],
) -> None:
    with pytest.raises(ValueError, match=words):
        build_on_meta(nano_text_spec, make_lora(**changes))


@torch.no_grad()
def test_a_run_s_adapter_is_loaded_again(
    nano_text_spec: ModelSpec,
    load_nano_text: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_text: Callable[..., Any],
    session_cache: Path,
    tmp_path: Path,
) -> None:
    model = load_nano_text(make_lora()).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    save_trained(model, tmp_path, base="nano_text", grading={"ranges": {}})
    loaded = load_trained(
        nano_text_spec, tmp_path, cache=session_cache, precision="fp32", accelerator="cpu"
    )
    batch = make_text(1)
    assert torch.equal(hidden_states(loaded, batch), hidden_states(model, batch))


@needs_bitsandbytes
def test_projections_are_quantized_and_nothing_else(
    nano_text_spec: ModelSpec,
    load_nano_text: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_text: Callable[..., Any],
) -> None:
    import bitsandbytes

    model = load_nano_text(
        make_lora(), spec=dataclasses.replace(nano_text_spec, quantization="4bit")
    )
    found = [n for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(found) == 7 * 2
    assert all(".layers." in name for name in found)
    hidden_states(model.train(), make_text(1)).square().sum().backward()  # type: ignore[no-untyped-call]


def test_nothing_of_pages_is_kept(
    nano_text_spec: ModelSpec, make_lora: Callable[..., LoraSpec], read_conf: Callable[..., Any]
) -> None:
    from aes.hardware import StrategySpec

    def choose(place: Any) -> Any:
        return choose_place(
            VisionCacheSpec(place=place, max_gib=1.0),
            build_on_meta(nano_text_spec, make_lora()),
            strategy=StrategySpec(name="single"),
            precision="fp32",
            num_page_tokens=0,
            max_epochs=3,
        )

    assert choose("auto").place == "none"
    with pytest.raises(ValueError, match=r"vision_cache\.place=memory would keep nothing of use"):
        choose("memory")


def test_qwen3_4b_has_the_published_sizes(
    read_conf: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    """Source: the model card says 4.0 B, of them 3.6 B without embeddings."""
    spec = ModelSpec(**read_conf("model/qwen3_4b"))
    counts = count_parameters(build_on_meta(spec, make_lora()))
    assert counts["embeddings"].total == 151936 * 2560
    assert "lm_head" not in counts
    base = sum(count.total for part, count in counts.items() if not part.startswith("LoRA"))
    assert base == 4_022_468_096
    # Of each of 36 layers: q and o between 2560 and 4096, k and v between 2560 and 1024.
    lora = 36 * 8 * 2 * ((2560 + 4096) + (2560 + 1024))
    assert counts["LoRA: attention"] == (lora, lora)
