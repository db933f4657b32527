"""The nano model and what goes with it, built once a session: real code, real vocabulary."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The nano is too small to share out: threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml

from aes.data import BatchingSpec
from aes.data.processor import Processor
from aes.model import LoraSpec, ModelSpec
from aes.model.loading import load_model, model_folder
from aes.model.spec import AdapterSpec, NoAdapterSpec
from aes.page import PageSpec
from aes.prompt import PromptSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay
from aes.rubric import Rubric

_CONF = Path(__file__).parents[1] / "conf"


def _read_conf(name: str, **changes: Any) -> dict[str, Any]:
    values = yaml.safe_load((_CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("_target_", "defaults")} | changes


@pytest.fixture(scope="session")
def read_conf() -> Callable[..., dict[str, Any]]:
    """The plain values of one file under conf, e.g. ``read_conf("model/nano", path=None)``."""
    return _read_conf


@pytest.fixture(scope="session")
def make_batching() -> Callable[..., BatchingSpec]:
    """The default way to make up batches, padded, with any setting replaced."""
    return lambda **changes: BatchingSpec(
        **_read_conf("batching/planned", **({"layout": "padded"} | changes))
    )


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def nano_spec() -> ModelSpec:
    return ModelSpec(**_read_conf("model/nano"))


@pytest.fixture(scope="session")
def nano_checkpoint(nano_spec: ModelSpec, session_cache: Path) -> Path:
    """The nano's checkpoint folder; not to be changed."""
    return model_folder(nano_spec, session_cache)


@pytest.fixture(scope="session")
def small_rubric() -> Rubric:
    """Two traits of unlike ranges, so that answers are short."""
    ranges = {"content": (0, 20), "language": (8, 12)}
    traits = {
        name: {
            "label": name,
            "description": "是否通顺",
            "minimum": low,
            "maximum": high,
            "levels": (),
        }
        for name, (low, high) in ranges.items()
    }
    bands = ({"label": "一等", "minimum": 20}, {"label": "二等", "minimum": 8})
    return Rubric(title="两项", traits=traits, bands=bands, deductions=None)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def nano_page(nano_spec: ModelSpec) -> PageSpec:
    return PageSpec(
        **_read_conf(
            "page/plain",
            glyph_px=nano_spec.glyph_px,
            width_px=nano_spec.page_width_px,
            max_height_px=nano_spec.page_max_height_px,
            min_pixels=nano_spec.min_pixels,
        )
    )


@pytest.fixture(scope="session")
def prompt_spec() -> PromptSpec:
    return PromptSpec(**_read_conf("prompt/zh"))


@pytest.fixture(scope="session")
def builder(small_rubric: Rubric, prompt_spec: PromptSpec, nano_page: PageSpec) -> ExampleBuilder:
    return ExampleBuilder(rubric=small_rubric, prompt=prompt_spec, page=nano_page, seed=1)


@pytest.fixture(scope="session")
def make_processor(nano_checkpoint: Path, nano_spec: ModelSpec) -> Callable[..., Processor]:
    """A processor for any ranges."""

    def make(ranges: Mapping[str, tuple[int, int]]) -> Processor:
        return Processor(
            nano_checkpoint,
            ranges=ranges,
            min_pixels=nano_spec.min_pixels,
            max_pixels=nano_spec.max_pixels,
        )

    return make


@pytest.fixture(scope="session")
def processor(make_processor: Callable[..., Processor], small_rubric: Rubric) -> Processor:
    return make_processor(small_rubric.ranges)


@pytest.fixture(scope="session")
def nano_text_spec() -> ModelSpec:
    """The nano that reads text alone."""
    return ModelSpec(**_read_conf("model/nano_text"))


@pytest.fixture(scope="session")
def text_builder(small_rubric: Rubric, prompt_spec: PromptSpec) -> ExampleBuilder:
    """Gives essays as text, for models that read text alone."""
    sizes = dict.fromkeys(("width_px", "max_height_px", "min_pixels"))
    page = PageSpec(**_read_conf("page/none", **sizes))
    return ExampleBuilder(rubric=small_rubric, prompt=prompt_spec, page=page, seed=1)


@pytest.fixture(scope="session")
def text_processor(
    nano_text_spec: ModelSpec, small_rubric: Rubric, session_cache: Path
) -> Processor:
    return Processor(
        model_folder(nano_text_spec, session_cache),
        ranges=small_rubric.ranges,
        min_pixels=None,
        max_pixels=None,
    )


@pytest.fixture(scope="session")
def essays() -> tuple[Essay, ...]:
    """Twelve short essays of unlike lengths; every second one has a comment."""
    return tuple(
        Essay(
            id=f"e{i}",
            title="春天" if i % 3 else "",
            text="\n".join("今天天气很好，我们去公园看花。" * (1 + (i * 5) % 7) for _ in range(2)),
            scores={"content": (i * 7) % 21, "language": 8 + i % 5},
            comment="语句通顺，" + "内容具体。" * (i % 4) if i % 2 else "",
            topic="写一个季节。" if i % 4 == 1 else "",
            source=f"e{i}",
        )
        for i in range(12)
    )


@pytest.fixture(scope="session")
def make_lora() -> Callable[..., LoraSpec]:
    def make(**changes: Any) -> LoraSpec:
        plain: dict[str, Any] = {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.0,
            "targets": ("attention",),
            "modules_to_save": (),
            "init_from": None,
        }
        return LoraSpec(**plain | changes)

    return make


@pytest.fixture(scope="session")
def load_nano(nano_spec: ModelSpec, session_cache: Path) -> Callable[..., Any]:
    """A fresh nano; every weight trained, or with the adapter asked for."""

    def load(adapter: AdapterSpec | None = None, *, seed: int = 1) -> Any:
        return load_model(
            nano_spec,
            adapter or NoAdapterSpec(),
            cache=session_cache,
            precision="fp32",
            accelerator="cpu",
            gradient_checkpointing="none",
            seed=seed,
        )

    return load


@pytest.fixture(scope="session")
def load_nano_text(nano_text_spec: ModelSpec, session_cache: Path) -> Callable[..., Any]:
    """As ``load_nano``, the nano that reads text alone."""

    def load(adapter: AdapterSpec | None = None, *, spec: ModelSpec = nano_text_spec) -> Any:
        return load_model(
            spec,
            adapter or NoAdapterSpec(),
            cache=session_cache,
            precision="fp32",
            accelerator="cpu",
            gradient_checkpointing="none",
            seed=1,
        )

    return load


@pytest.fixture(scope="session")
def make_batch(builder: ExampleBuilder, processor: Processor) -> Callable[..., Any]:
    """Training batch of essays, as the loader would make it; with pages, unless told."""
    from aes.data.collate import Collator
    from aes.data.dataset import draw_patches

    def make(
        essays: Sequence[Essay],
        *,
        is_packed: bool = False,
        builder: ExampleBuilder = builder,
        processor: Processor = processor,
    ) -> Any:
        items: list[dict[str, Any]] = []
        for essay in essays:
            example = builder.build(essay)
            sizes = [builder.renderer.size(page) for page in example.pages]
            patches, _ = draw_patches(example, builder.renderer, processor)
            encoded = processor.encode(example, sizes)
            items.append({"encoded": encoded, "patches": patches, "is_filler": False})
        total = sum(len(item["encoded"].steps) for item in items)
        for item in items:
            item["num_supervised_in_step"] = total
        collate = Collator(
            image_token=processor.image_token, pad_token=processor.pad_token, is_packed=is_packed
        )
        return collate(items)

    return make
