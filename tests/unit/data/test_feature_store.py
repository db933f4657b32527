"""Features kept in memory: up to a bound, and known to the loader's processes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from aes.data.collate import Collator
from aes.data.dataset import PageDataset
from aes.data.feature_store import MemoryStore, SamplePages
from aes.data.prepare import prepare
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.data.sampler import Pick
from aes.kernels.vision import PageFeatures
from aes.page import PageRenderer, PageSpec, ScanNoise
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Page


def features_of(value: float, *, num_tokens: int = 4) -> PageFeatures:
    pooled = torch.full((num_tokens, 8), value)
    return PageFeatures(pooled, (pooled + 1, pooled + 2))


def sample_of(row: int) -> SamplePages:
    return SamplePages(row, ((4, 4),), "", True, None)


def test_keeps_the_first_until_it_is_full() -> None:
    store = MemoryStore(4, max_bytes=2 * features_of(0).num_bytes)
    for row in (2, 0, 3):
        store.keep(sample_of(row), features_of(row))
    for row, is_kept in enumerate((True, False, True, False)):
        found = store.find(sample_of(row))
        assert (found is not None) == is_kept
        assert store.reader.look_up(row, (), [(4, 4)]).is_drawn != is_kept
        if found is not None:
            assert torch.equal(found.deepstack[1], features_of(row).deepstack[1])
    store.keep(sample_of(3), features_of(3))  # as in the next epoch
    assert "2 samples" in store.describe()
    assert "no room for those of 1 (vision_cache.max_gib)" in store.describe()


def test_keeps_a_sample_once() -> None:
    store = MemoryStore(1, max_bytes=2**20)
    store.keep(sample_of(0), features_of(1))
    described = store.describe()
    store.keep(sample_of(0), features_of(2))
    found = store.find(sample_of(0))
    assert found is not None
    assert float(found.pooled[0, 0]) == 1
    assert store.describe() == described
    assert "room" not in described


class CountingRenderer(PageRenderer):
    """Counts what it draws, in whichever process."""

    def __init__(self, spec: PageSpec) -> None:
        super().__init__(spec)
        self.count = torch.zeros(1, dtype=torch.int64)
        self.count.share_memory_()  # type: ignore[no-untyped-call]

    def image(self, page: Page) -> Image.Image:
        self.count += 1
        return super().image(page)


@pytest.fixture(scope="module")
def prepared(
    essays: tuple[Essay, ...], builder: ExampleBuilder, processor: Processor, session_cache: Path
) -> Prepared:
    return prepare(
        essays[:3],
        builder=builder,
        processor=processor,
        max_tokens=2048,
        on_overlong="error",
        cache=session_cache,
        label="train",
    )


def picks(rows: Sequence[int]) -> list[Pick]:
    return [Pick(row, 1, False) for row in rows]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_page_whose_features_are_kept_is_not_drawn(
    prepared: Prepared, nano_page: PageSpec, processor: Processor, num_workers: int
) -> None:
    renderer = CountingRenderer(nano_page)
    store = MemoryStore(3, max_bytes=2**20)
    dataset = PageDataset(prepared, renderer=renderer, processor=processor, reader=store.reader)
    loader = DataLoader(
        dataset,
        batch_sampler=[picks([0, 1, 2])],
        collate_fn=Collator(image_token=processor.image_token, pad_token=processor.pad_token),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    (first,) = loader
    assert [sample.is_drawn for sample in first["pages"]] == [True, True, True]
    assert [sample.row for sample in first["pages"]] == [0, 1, 2]
    drawn = int(renderer.count)
    assert drawn >= 3
    store.keep(first["pages"][1], features_of(1))
    (second,) = loader
    assert [sample.is_drawn for sample in second["pages"]] == [True, False, True]
    assert int(renderer.count) < 2 * drawn
    num_left_out = sum(h * w for h, w in second["pages"][1].grids)
    assert len(second["pixel_values"]) == len(first["pixel_values"]) - num_left_out
    assert torch.equal(second["image_grid_thw"], first["image_grid_thw"])
    redrawn = dataset.drawn()[picks([1])[0]]
    assert len(redrawn["patches"]) == num_left_out
    assert "pages" not in redrawn


def test_a_scanned_page_is_the_same_in_every_epoch(
    essays: tuple[Essay, ...], builder: ExampleBuilder, read_conf: Callable[..., dict[str, object]]
) -> None:
    """Noise is of the essay and not of the epoch, so its features may be kept."""
    noise = read_conf("page/scan")["scan"]
    assert isinstance(noise, dict)
    noise = ScanNoise(**{key: value for key, value in noise.items() if key != "_target_"})
    spec = PageSpec(**{**vars(builder.page), "style": "scan", "scan": noise})
    scanning = ExampleBuilder(rubric=builder.rubric, prompt=builder.prompt, page=spec, seed=1)
    first, again = (
        [PageRenderer(spec).image(page) for page in scanning.build(essays[0]).pages]
        for _ in range(2)
    )
    clean = [builder.renderer.image(page) for page in builder.build(essays[0]).pages]
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    assert first[0].tobytes() != clean[0].tobytes()
