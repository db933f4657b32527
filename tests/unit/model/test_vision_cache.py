"""Where features may be kept, and that batches get the right ones in the right order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.data.collate import Collator
from aes.data.dataset import PageDataset
from aes.data.feature_files import DiskStore
from aes.data.feature_store import FeatureStore, MemoryStore
from aes.data.prepare import prepare
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.data.sampler import Pick
from aes.hardware import StrategySpec
from aes.kernels.vision import page_features
from aes.model import LoraSpec, ModelSpec, VisionCacheSpec
from aes.model.loading import build_on_meta
from aes.model.spec import AdapterSpec, NoAdapterSpec
from aes.model.vision_cache import VisionCache, choose_place, tower_fingerprint
from aes.prompt.build import ExampleBuilder
from aes.records import Essay

SINGLE = StrategySpec(name="single")
GIB = 2**30


@pytest.fixture(scope="module")
def choose(nano_spec: ModelSpec, make_lora: Callable[..., LoraSpec]) -> Callable[..., Any]:
    def choose(
        place: Any,
        *,
        adapter: AdapterSpec | None = None,
        strategy: Any = "single",
        num_page_tokens: int = 100,
        max_epochs: int = 3,
    ) -> Any:
        return choose_place(
            VisionCacheSpec(place=place, max_gib=2.0),
            build_on_meta(nano_spec, adapter or make_lora()),
            strategy=StrategySpec(name=strategy),
            precision="bf16",
            num_page_tokens=num_page_tokens,
            max_epochs=max_epochs,
        )

    return choose


def test_auto_keeps_features_in_memory(choose: Callable[..., Any]) -> None:
    kept = choose("auto")
    assert kept.place == "memory"
    assert kept.max_bytes == 2 * GIB
    assert kept.num_bytes == 100 * 2 * 64 * 2  # pooled and one deepstack layer, bfloat16
    assert choose("disk").place == "disk"
    assert choose("none").place == "none"
    assert choose("disk", max_epochs=1).place == "disk"  # for another run


def test_before_a_trained_merger_four_patches_a_token_are_kept(
    choose: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    kept = choose("auto", adapter=make_lora(modules_to_save=("visual.merger",)))
    assert kept.place == "memory"
    assert kept.num_bytes == 100 * (4 * 64 + 64) * 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapter": NoAdapterSpec()}, "vision tower is trained"),
        ({"strategy": "zero3"}, "strategy=zero3"),
        ({"strategy": "fsdp2"}, "strategy=fsdp2"),
        ({"max_epochs": 1}, "max_epochs=1"),
        ({"num_page_tokens": 0}, "no sample has a page"),
    ],
)
def test_where_it_is_of_no_use_auto_is_quiet_and_a_wish_is_refused(
    choose: Callable[..., Any], changes: dict[str, Any], reason: str
) -> None:
    assert choose("auto", **changes).place == "none"
    with pytest.raises(ValueError, match=reason):
        choose("memory", **changes)


def test_lora_on_the_tower_counts_as_trained(
    choose: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    assert choose("auto", adapter=make_lora(targets=("attention", "vision"))).place == "none"


def test_the_fingerprint_is_of_all_that_decides_features(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec], processor: Processor
) -> None:
    def fingerprint(model: Any, precision: str = "fp32", fused_ops: str = "all") -> str:
        return tower_fingerprint(
            model,
            precision=precision,
            fused_ops=fused_ops,
            image_processor=processor.image_processor,
        )

    model, other = load_nano(make_lora()), load_nano(make_lora(rank=4), seed=2)
    same = fingerprint(model)
    assert fingerprint(other) == same  # a sweep over adapters shares them
    assert fingerprint(model, "bf16") != same
    assert fingerprint(model, fused_ops="none") != same
    assert fingerprint(load_nano(make_lora(modules_to_save=("visual.merger",)))) != same
    with torch.no_grad():
        other.get_base_model().model.visual.blocks[1].mlp.linear_fc1.bias[3] += 1e-3
    assert fingerprint(other) != same


@pytest.fixture(scope="module")
def prepared(
    essays: tuple[Essay, ...], builder: ExampleBuilder, processor: Processor, session_cache: Path
) -> Prepared:
    """Samples of one page, of two, of one, and of none."""
    lengthened = replace(essays[4], text=essays[4].text * 14)
    parts = [
        prepare(
            [essay],
            builder=asking,
            processor=processor,
            max_tokens=4096,
            on_overlong="error",
            cache=session_cache,
            label="train",
        )
        for essay, asking in (
            (essays[0], builder),
            (lengthened, builder),
            (essays[2], builder),
            (essays[3], _as_text(builder)),
        )
    ]
    from datasets import concatenate_datasets

    rows = concatenate_datasets([part.rows for part in parts])
    assert list(rows["num_pages"]) == [1, 2, 1, 0]
    return Prepared(rows=rows, overlong={}, shrunk={}, dropped=())


def _as_text(builder: ExampleBuilder) -> ExampleBuilder:
    keys = ("font", "glyph_px", "line_spacing", "margin_px", "indent_chars")
    nothing: dict[str, Any] = dict.fromkeys(keys)
    page = replace(builder.page, style="none", **nothing)
    return ExampleBuilder(rubric=builder.rubric, prompt=builder.prompt, page=page, seed=1)


@pytest.fixture(params=["memory", "disk"])
def make_store(
    request: pytest.FixtureRequest, tmp_path: Path, builder: ExampleBuilder
) -> Callable[..., FeatureStore]:
    def make(max_bytes: int = GIB) -> FeatureStore:
        if request.param == "memory":
            return MemoryStore(4, max_bytes=max_bytes)
        return DiskStore(
            tmp_path,
            fingerprint="tower",
            renderer=builder.renderer,
            max_bytes=max_bytes,
            expected_bytes=0,
        )

    return make


@pytest.fixture
def batch_of(
    prepared: Prepared, builder: ExampleBuilder, processor: Processor
) -> Callable[..., dict[str, Any]]:
    def make(rows: Sequence[int], store: FeatureStore) -> dict[str, Any]:
        dataset = PageDataset(
            prepared, renderer=builder.renderer, processor=processor, reader=store.reader
        )
        collate = Collator(image_token=processor.image_token, pad_token=processor.pad_token)
        return collate([dataset[Pick(row, 1, False)] for row in rows])

    return make


class Nothing(MemoryStore):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__(4, max_bytes=0)


def test_kept_and_computed_features_stand_in_the_batch_s_order(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_store: Callable[..., FeatureStore],
    batch_of: Callable[..., dict[str, Any]],
) -> None:
    model, store = load_nano(make_lora(modules_to_save=("visual.merger",))), make_store()
    cache = VisionCache(store)
    for rows, (pages, hits) in (
        ([1], (2, 0)),
        ([0, 1, 3], (3, 2)),  # computed, kept, without a page
        ([2, 3, 1, 0], (4, 3)),
        ([1, 2], (3, 3)),
    ):
        batch = batch_of(rows, store)
        filled = cache.fill(model, batch)
        store.close()  # what is written behind the step is there for the next
        plain = batch_of(rows, Nothing())
        expected = page_features(model, plain["pixel_values"], plain["image_grid_thw"])
        for ours, theirs in zip(filled["page_features"].tensors, expected.tensors, strict=True):
            assert torch.equal(ours, theirs)
        assert "pixel_values" not in filled
        assert "pages" not in filled
        assert torch.equal(filled["labels"], plain["labels"])
        assert cache.count() == (pages, hits)
    assert "8 of 12 pages shown came from there" in cache.close()


def test_the_closing_line_is_true_whatever_the_run_was_like(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_store: Callable[..., FeatureStore],
    batch_of: Callable[..., dict[str, Any]],
) -> None:
    model, store = load_nano(make_lora()), make_store()
    unused = VisionCache(store)
    assert "no page was shown" in unused.close()
    one_epoch = VisionCache(store)
    for rows in ([0, 1], [2]):
        one_epoch.fill(model, batch_of(rows, store))
    told = one_epoch.close()
    assert "features of 3 samples" in told
    assert "the tower ran over all 4 pages shown" in told
    assert "room" not in told
    again = VisionCache(store)  # whose pages are all there, as a later run finds them on disk
    again.fill(model, batch_of([1, 2], store))
    assert "all 3 pages shown came from there" in again.close()


def test_a_batch_without_a_page_is_left_alone(
    load_nano: Callable[..., Any],
    make_store: Callable[..., FeatureStore],
    batch_of: Callable[..., dict[str, Any]],
) -> None:
    store = make_store()
    filled = VisionCache(store).fill(load_nano(), batch_of([3], store))
    assert len(filled["pixel_values"]) == 0
    assert "page_features" not in filled


def test_a_batch_that_was_drawn_before_its_features_were_kept(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    batch_of: Callable[..., dict[str, Any]],
) -> None:
    """Loader processes are ahead: patches of a page that is kept by now are passed over."""
    model, store = load_nano(make_lora()), MemoryStore(4, max_bytes=GIB)
    cache = VisionCache(store)
    early = batch_of([0, 1, 2], store)
    first = cache.fill(model, batch_of([1], store))["page_features"]
    filled = cache.fill(model, early)["page_features"]
    num = len(first.pooled)
    at = len(filled.pooled) - num - int(early["image_grid_thw"][-1].prod()) // 4
    assert torch.equal(filled.pooled[at : at + num], first.pooled)
    assert cache.count() == (6, 2)


def test_a_full_store_leaves_the_rest_to_be_computed(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_store: Callable[..., FeatureStore],
    batch_of: Callable[..., dict[str, Any]],
) -> None:
    model = load_nano(make_lora())
    whole = VisionCache(Nothing()).fill(model, batch_of([0, 1, 2], Nothing()))["page_features"]
    store = make_store(max_bytes=whole.num_bytes - 1)
    cache = VisionCache(store)
    for expected_hits in (0, 3):
        filled = cache.fill(model, batch_of([0, 1, 2], store))["page_features"]
        store.close()
        assert torch.equal(filled.pooled, whole.pooled)
        assert cache.count() == (4, expected_hits)
    assert "no room for those of 1" in cache.close()
    assert "3 of 8 pages shown came from there" in cache.close()
