"""Features on disk: used only where they are what was written, and never more than allowed."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from aes.data.feature_files import (
    DiskStore,
    drawing_digest,
    page_key,
    read_features,
    write_features,
)
from aes.kernels.vision import PageFeatures
from aes.page import PageRenderer, PageSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, PageLayout, PdfPage

PAGE = PageLayout(width_px=64, height_px=64, lines=())
FEATURES = PageFeatures(torch.arange(32.0).view(4, 8), (torch.ones(16, 3, dtype=torch.bfloat16),))


@pytest.fixture
def make_store(tmp_path: Path, nano_page: PageSpec) -> Callable[..., DiskStore]:
    def make(fingerprint: str = "tower", **changes: int) -> DiskStore:
        room = {"max_bytes": 2**20, "expected_bytes": 2**10} | changes
        return DiskStore(
            tmp_path, fingerprint=fingerprint, renderer=PageRenderer(nano_page), **room
        )

    return make


def keep(store: DiskStore, *pages: PageLayout) -> None:
    for page in pages:
        store.keep(store.reader.look_up(0, [page], [(4, 4)]), FEATURES)
    store.close()


def numbered(number: int) -> PageLayout:
    return dataclasses.replace(PAGE, seed=number)


def test_what_one_run_wrote_another_one_reads(make_store: Callable[..., DiskStore]) -> None:
    store = make_store()
    assert store.reader.look_up(0, [PAGE], [(4, 4)]).is_drawn
    keep(store, PAGE)
    other = make_store()
    found = other.reader.look_up(5, [PAGE], [(4, 4)])
    assert not found.is_drawn
    features = other.find(found)
    assert features is not None
    for ours, written in zip(features.tensors, FEATURES.tensors, strict=True):
        assert ours.dtype == written.dtype
        assert torch.equal(ours, written)
    assert other.reader.look_up(5, [numbered(1)], [(4, 4)]).is_drawn
    assert make_store("another tower").reader.look_up(5, [PAGE], [(4, 4)]).is_drawn


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: _flip(path, -1),
        lambda path: _flip(path, -20),
        lambda path: _flip(path, 3),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: write_features(path, [torch.ones(5, 8)]),
    ],
    ids=["last bit", "a bit", "header", "cut", "empty", "zeros", "of another page"],
)
def test_a_damaged_file_is_computed_again(
    make_store: Callable[..., DiskStore], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    keep(make_store(), PAGE)
    (path,) = tmp_path.glob("tower/*.safetensors")
    damage(path)
    store = make_store()
    assert store.reader.look_up(0, [PAGE], [(4, 4)]).is_drawn
    keep(store, PAGE, numbered(1))  # of which only the first was there
    assert not store.reader.look_up(0, [PAGE], [(4, 4)]).is_drawn
    assert "1 damaged file was made again" in store.describe()


def test_every_damaged_file_is_told_of_once_it_is_made_again(
    make_store: Callable[..., DiskStore], tmp_path: Path
) -> None:
    pages = [numbered(i) for i in range(3)]
    keep(make_store(), *pages)
    for path in tmp_path.glob("tower/*.safetensors"):
        _flip(path, -1)
    store = make_store()
    keep(store, *pages[:2])
    assert "2 damaged files were made again" in store.describe()
    again = make_store()
    keep(again, numbered(3))
    assert "made again" not in again.describe()


def test_writes_no_more_than_its_share(
    make_store: Callable[..., DiskStore], tmp_path: Path
) -> None:
    store = make_store(max_bytes=5 * FEATURES.num_bytes, expected_bytes=0, num_ranks=2)
    keep(store, *(numbered(i) for i in range(9)))
    assert len(list(tmp_path.glob("tower/*"))) == 2
    assert "2 samples" in store.describe()
    assert "no room for those of 7 (vision_cache.max_gib)" in store.describe()


def test_towers_that_were_not_used_for_longest_go_first(
    make_store: Callable[..., DiskStore], tmp_path: Path
) -> None:
    for age_days, name in ((9, "oldest"), (3, "older"), (0.5, "in use")):
        keep(make_store(name), *(numbered(i) for i in range(4)))
        used_s = time.time() - age_days * 24 * 3600
        os.utime(tmp_path / name, (used_s, used_s))
    size = sum(path.stat().st_size for path in tmp_path.glob("oldest/*"))
    make_store("new", max_bytes=3 * size, expected_bytes=size)
    assert {path.name for path in tmp_path.iterdir()} == {"older", "in use", "new"}
    make_store("newer", max_bytes=size, expected_bytes=size)
    assert {path.name for path in tmp_path.iterdir()} == {"in use", "new", "newer"}


def test_within_a_tower_s_folder_what_was_not_read_for_longest_gives_way(
    make_store: Callable[..., DiskStore], tmp_path: Path
) -> None:
    keep(make_store(), *(numbered(i) for i in range(6)))
    files = list(tmp_path.glob("tower/*.safetensors"))
    for path in files:
        used_s = time.time() - 9 * 24 * 3600
        os.utime(path, (used_s, used_s))
    size = files[0].stat().st_size
    store = make_store(max_bytes=6 * size, expected_bytes=3 * size)
    read = [store.reader.look_up(0, [numbered(i)], [(4, 4)]) for i in (0, 1)]
    assert not any(sample.is_drawn for sample in read)
    assert len(list(tmp_path.glob("tower/*.safetensors"))) == 6  # nothing goes before it must
    keep(store, *(numbered(i) for i in range(10, 15)))
    left = {path.name for path in tmp_path.glob("tower/*.safetensors")}
    assert {store.reader.path(sample.key).name for sample in read} < left
    old = {path.name for path in files}
    assert len(left & old) == 3, "no more goes than must"
    assert len(left - old) >= 3, "new ones are kept"


def test_a_full_disk_costs_nothing_but_the_features(
    make_store: Callable[..., DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aes.data.feature_files.write_atomically", fail)
    store = make_store()
    keep(store, PAGE, numbered(1))
    assert store.reader.look_up(0, [PAGE], [(4, 4)]).is_drawn
    keep(store, numbered(2))
    assert "0 samples" in store.describe()
    assert "no more could be written (No space left on device)" in store.describe()
    assert "max_gib" not in store.describe()


def test_no_features_are_read_from_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "missing.safetensors", num_patches=4)


def test_the_key_names_all_that_decides_the_pixels(
    nano_page: PageSpec, builder: ExampleBuilder, essays: tuple[Essay, ...], tmp_path: Path
) -> None:
    def key(*pages: PageLayout | Path | PdfPage, spec: PageSpec = nano_page) -> str:
        return page_key(pages, drawing=drawing_digest(PageRenderer(spec)))

    pages = builder.build(essays[0]).pages
    first, copy, second = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    for path, value in ((first, 255), (copy, 255), (second, 0)):
        Image.new("RGB", (64, 64), (value,) * 3).save(path)
    keys = [
        key(*pages),
        key(*builder.build(essays[1]).pages),
        key(*pages, *pages),
        key(*pages, spec=dataclasses.replace(nano_page, font="serif")),
        key(numbered(1)),
        key(numbered(2)),
        key(first),
        key(second),
        key(PdfPage(first, 1)),
        key(PdfPage(first, 2)),
        key(first, spec=dataclasses.replace(nano_page, max_height_px=416)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(*pages) == keys[0]
    assert key(copy) == key(first)
