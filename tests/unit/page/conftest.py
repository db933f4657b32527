"""Specs made from the shipped YAML files, so that the tests see the real defaults."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from aes.page import PageRenderer, PageSpec, ScanNoise

CONF = Path(__file__).parents[3] / "conf" / "page"
MODEL = {
    "${model.glyph_px}": 20,
    "${model.page_width_px}": 768,
    "${model.page_max_height_px}": 768,
    "${model.min_pixels}": 65_536,
}
NANO = {"glyph_px": 10, "width_px": 320, "max_height_px": 640}


@pytest.fixture
def make_spec() -> Callable[..., PageSpec]:
    def make(style: str = "plain", **changes: object) -> PageSpec:
        config = yaml.safe_load((CONF / f"{style}.yaml").read_text(encoding="utf-8"))
        assert config.pop("_target_") == "aes.page.PageSpec"
        config = {key: MODEL.get(str(value), value) for key, value in config.items()}
        if config["scan"] is not None:
            assert config["scan"].pop("_target_") == "aes.page.ScanNoise"
            config["scan"] = ScanNoise(**config["scan"])
        return PageSpec(**{**config, **changes})

    return make


@pytest.fixture
def make_renderer(make_spec) -> Callable[..., PageRenderer]:
    def make(style: str = "plain", **changes: object) -> PageRenderer:
        return PageRenderer(make_spec(style, **changes))

    return make


@pytest.fixture
def nano() -> dict[str, int]:
    return dict(NANO)
