"""Features of pages as files, for later runs and for several runs and ranks at once.

A file is named by the digest of all that decides the pages' pixels, and lies in a folder named by
all that decides what the tower makes of them. Loader processes read, the process that trains
writes. A file is used only if it holds what was written; anything else is computed again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aes.data.feature_store import SamplePages, describe_room
from aes.files import prune, size_bytes, touch, write_atomically
from aes.kernels.vision import PATCHES_PER_TOKEN, PageFeatures
from aes.page import PageRenderer, image_bytes
from aes.page.font import font_path
from aes.records import Page, PageLayout, PdfPage

MAX_WAITING = 16
"""Samples that wait to be written; further ones are left out, so that training never waits."""

_IN_USE_S = 24 * 3600.0
"""Features that were used within this time may belong to a run that goes on."""

_DRAWING_PACKAGES = ("pillow", "numpy", "pypdfium2")


class DiskReader:
    """Reads features from one tower's folder.

    Args:
        folder: Of the tower.
        drawing: ``drawing_digest`` of the pages.
    """

    def __init__(self, folder: Path, *, drawing: str) -> None:
        self.folder = folder
        self._drawing = drawing

    def look_up(
        self, row: int, pages: Sequence[Page], grids: Sequence[tuple[int, int]]
    ) -> SamplePages:
        """See ``FeatureReader``."""
        key = page_key(pages, drawing=self._drawing)
        path = self.path(key)
        try:
            features = read_features(path, num_patches=sum(h * w for h, w in grids))
        except FileNotFoundError:
            return SamplePages(row, tuple(grids), key, True, None)
        if features is None:
            return SamplePages(row, tuple(grids), key, True, None, is_damaged=True)
        touch(path)
        return SamplePages(row, tuple(grids), key, False, features)

    def path(self, key: str) -> Path:
        """File of a sample's features."""
        return self.folder / f"{key}.safetensors"


class DiskStore:
    """Features in a folder; see ``FeatureStore``.

    Args:
        folder: Of all towers' features; each tower has a folder of its own below it.
        fingerprint: Name of this tower's: what decides its output.
        renderer: Draws and opens the pages.
        max_bytes: Bound of all that lies in ``folder``; what was not used for longest goes first.
        expected_bytes: What this run may come to keep, for which room is made.
        num_ranks: Processes that write, of which each gets its share of the room.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        renderer: PageRenderer,
        max_bytes: int,
        expected_bytes: int,
        num_ranks: int = 1,
    ) -> None:
        self._folder = folder / fingerprint
        self._folder.mkdir(parents=True, exist_ok=True)
        self.reader = DiskReader(self._folder, drawing=drawing_digest(renderer))
        touch(self._folder)
        room_bytes = max(0, max_bytes - expected_bytes)
        prune(folder, max_bytes=room_bytes, spared=(self._folder,), min_idle_s=_IN_USE_S)
        self._room_bytes = max(0, max_bytes - size_bytes(folder)) // num_ranks
        self._most_of_others = room_bytes
        self._has_made_room = False
        self._num_written = self._num_mended = self._num_bytes = 0
        self._without_room: set[str] = set()
        self._failure = ""
        self._writer: ThreadPoolExecutor | None = None
        self._places = threading.Semaphore(MAX_WAITING)

    def find(self, sample: SamplePages) -> PageFeatures | None:
        """See ``FeatureStore``."""
        return sample.features

    def keep(self, sample: SamplePages, features: PageFeatures) -> None:
        """See ``FeatureStore``."""
        if self._num_bytes + features.num_bytes > self._room_bytes:
            self._make_room()
        if self._num_bytes + features.num_bytes > self._room_bytes:
            self._without_room.add(sample.key)
            return
        if not self._places.acquire(blocking=False):
            return
        self._num_bytes += features.num_bytes
        # A card copies into pinned memory while it goes on computing; the writer waits for it.
        tensors = [tensor.to("cpu", non_blocking=True) for tensor in features.tensors]
        copied = _event() if features.pooled.is_cuda else None
        if copied is not None:
            copied.record()
        if self._writer is None:  # not before the loader's processes are forked off
            self._writer = ThreadPoolExecutor(max_workers=1)
        self._writer.submit(self._write, sample, tensors, copied)

    def describe(self) -> str:
        """See ``FeatureStore``."""
        gib = size_bytes(self._folder) / 2**30
        written = f"features of {self._num_written} samples written to {self._folder}"
        room = describe_room(len(self._without_room))
        if self._failure:
            room = f", and no more could be written ({self._failure})"
        were = "file was" if self._num_mended == 1 else "files were"
        mended = f"; {self._num_mended} damaged {were} made again" if self._num_mended else ""
        return f"{written}, which holds {gib:.2f} GiB for later runs{room}{mended}"

    def close(self) -> None:
        """See ``FeatureStore``."""
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None

    def _make_room(self) -> None:
        """Once, and as late as may be: by now what this run reads has been touched."""
        if self._has_made_room:
            return
        self._has_made_room = True
        before = size_bytes(self._folder)
        prune(self._folder, max_bytes=self._most_of_others, min_idle_s=_IN_USE_S)
        # What others write meanwhile makes this too little, never too much.
        self._room_bytes += max(0, before - size_bytes(self._folder))

    def _write(
        self, sample: SamplePages, tensors: Sequence[Tensor], copied: torch.cuda.Event | None
    ) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            write_features(self.reader.path(sample.key), tensors)
            self._num_written += 1
            self._num_mended += sample.is_damaged
        except OSError as error:  # a full disk costs time, not the run
            self._room_bytes = 0
            self._failure = error.strerror or str(error)
        finally:
            self._places.release()


def _event() -> torch.cuda.Event:
    """Whose waiter sleeps instead of keeping a core busy."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


def write_features(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write one sample's features, the pooled ones first."""
    named = {str(number): tensor.contiguous() for number, tensor in enumerate(tensors)}
    write_atomically(path, save(named, metadata={"sha256": _digest(tensors)}))


def read_features(path: Path, *, num_patches: int) -> PageFeatures | None:
    """One sample's features; ``None`` where the file holds others than were written.

    Args:
        num_patches: Of its pages, which features have to fit.

    Raises:
        FileNotFoundError: If there are none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys(), key=int)
            tensors = [file.get_tensor(name) for name in names]
            digest = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, ValueError, RuntimeError):
        return None
    lengths = {len(tensor) for tensor in tensors if tensor.ndim == 2}
    if not tensors or not lengths <= {num_patches, num_patches // PATCHES_PER_TOKEN}:
        return None
    if digest != _digest(tensors):
        return None
    return PageFeatures(tensors[0], tuple(tensors[1:]))


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def page_key(pages: Sequence[Page], *, drawing: str) -> str:
    """Digest of all that decides the pixels of a sample's pages.

    Args:
        drawing: ``drawing_digest``.
    """
    digest = hashlib.sha256(drawing.encode())
    for page in pages:
        if isinstance(page, PageLayout):
            digest.update(repr(page).encode())
        elif isinstance(page, PdfPage):
            digest.update(page.path.read_bytes() + f" page {page.number}".encode())
        else:
            digest.update(image_bytes(page))
    return digest.hexdigest()


def drawing_digest(renderer: PageRenderer) -> str:
    """Digest of how pages are drawn and opened: type, noise, sizes, our sources, libraries."""
    spec = renderer.spec
    facts: dict[str, Any] = {
        "scan": repr(spec.scan),
        "areas_px": spec.areas_px,
        "image_kind": spec.image_kind,
        **{name: version(name) for name in _DRAWING_PACKAGES},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    if spec.font is not None:
        digest.update(font_path(spec.font).read_bytes())
    for source in sorted((Path(__file__).parent.parent / "page").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()
