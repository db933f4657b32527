"""A value that may be of several types is refused by one sentence that names them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aes.cli.settings import bind
from aes.model import KernelSpec


def test_types_of_one_value_are_one_thing_to_correct(
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    values = read_conf("kernels/fast", logit_rows=-3)
    with pytest.raises(ValueError, match="logit_rows") as caught:
        bind(KernelSpec, values, path="kernels")
    sentence = str(caught.value)
    assert "must be at least 0 or must be 'auto', got -3" in sentence
    assert "more to correct" not in sentence
