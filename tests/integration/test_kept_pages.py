"""``page.save_dir``: every page as the model sees it, to be looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.command


def test_each_page_is_kept_once_and_older_ones_are_replaced(
    train: Callable[..., int], cheap: tuple[str, ...], tmp_path: Path
) -> None:
    pages = tmp_path / "pages"
    sizes = []
    for number, width_px in enumerate((320, 384)):
        run_dir = tmp_path / f"run{number}"
        args = ("data.copies=2", "data.max_tokens=4096", f"page.save_dir={pages}")
        assert train(*cheap, *args, f"page.width_px={width_px}", f"run_dir={run_dir}") == 0
        num_kept = json.loads((run_dir / "check.json").read_text())["counts"]["kept"]
        first_pages = [path.name for path in pages.iterdir() if path.name.endswith("-1.png")]
        assert len(first_pages) == 2 * num_kept  # two copies an essay, which the originals make
        images = {path.name: Image.open(path) for path in pages.iterdir()}
        assert all(name.endswith(".png") for name in images), "something was left half-written"
        assert {image.width for image in images.values()} == {width_px}
        sizes.append({name: image.size for name, image in images.items()})
    assert sizes[0].keys() >= sizes[1].keys()
