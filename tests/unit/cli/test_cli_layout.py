"""What auto means for attention and the layout, and what is refused of batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.layout import check_batching, choose_attention, choose_batching
from aes.cli.settings import Settings, bind_settings
from aes.cli.source import Source

ROOT = Path(__file__).parents[3]


def _settings(*overrides: str) -> Settings:
    source = Source(config_dir=ROOT / "conf", config_name="train", overrides=overrides)
    config = compose(source)
    return bind_settings(resolve(without_hydra(config), config.hydra, source))


@pytest.mark.parametrize(
    ("overrides", "attention", "layout"),
    [
        ((), "varlen", "packed"),
        (("loss=ce",), "varlen", "packed"),
        (("loss=expected",), "varlen", "padded"),
        (("loss=ordinal",), "varlen", "padded"),
        (("kernels.attention=sdpa",), "sdpa", "padded"),
        (("kernels=plain",), "sdpa", "padded"),
        (("batching.layout=packed", "kernels.attention=eager"), "eager", "packed"),
        (("batching=plain",), "varlen", "padded"),
    ],
)
def test_auto_packs_where_nothing_speaks_against_it(
    overrides: tuple[str, ...], attention: str, layout: str
) -> None:
    settings = _settings(*overrides)
    check_batching(settings)
    assert choose_attention(settings) == attention
    assert choose_batching(settings).layout == layout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("batching.layout=packed", "loss=expected"), "use batching.layout=padded"),
        (("batching.layout=packed", "loss=ordinal"), "does not go with loss=ordinal"),
        (("batching.order=shuffled",), "set batching.pool_steps=null"),
    ],
)
def test_batches_that_cannot_be_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batching(_settings(*overrides))
