"""Atomic writing, and caches that stay small."""

import os
import time
from pathlib import Path

import pytest

from aes.files import prune, size_bytes, touch, write_atomically


def test_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "test" / "metrics.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, b"old")

    def disk_full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _used(path: Path, *, days_ago: float, size: int = 100) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    when_s = time.time() - days_ago * 24 * 3600
    os.utime(path, (when_s, when_s))
    if path.parent.name != "cache":
        os.utime(path.parent, (when_s, when_s))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two files and a folder of 100 bytes each, unused for one to three days."""
    (tmp_path / "cache").mkdir()
    _used(tmp_path / "cache" / "one", days_ago=1)
    _used(tmp_path / "cache" / "two" / "inside", days_ago=2)
    _used(tmp_path / "cache" / "three", days_ago=3)
    return tmp_path / "cache"


def _left(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_what_was_not_used_for_longest_is_removed_first(cache: Path) -> None:
    assert size_bytes(cache) == 300
    prune(cache, max_bytes=300)
    assert _left(cache) == {"one", "two", "three"}
    prune(cache, max_bytes=299)
    assert _left(cache) == {"one", "two"}
    touch(cache / "two")
    prune(cache, max_bytes=100)
    assert _left(cache) == {"two"}


def test_what_may_be_in_use_is_not_removed(cache: Path) -> None:
    prune(cache, max_bytes=0, min_idle_s=2.5 * 24 * 3600)
    assert _left(cache) == {"one", "two"}
    prune(cache, max_bytes=0, spared=[cache / "one"])
    assert _left(cache) == {"one"}


def test_what_was_not_used_for_long_goes_although_there_is_room(cache: Path) -> None:
    prune(cache, max_bytes=10**9, max_idle_s=1.5 * 24 * 3600)
    assert _left(cache) == {"one"}


def test_pruning_passes_over_what_another_process_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list(cache.iterdir())
    (cache / "three").unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    prune(cache, max_bytes=0)
    touch(cache / "three")
    assert size_bytes(cache / "three") == 0
    assert not any(path.exists() for path in listed)
