"""Weights held in few bits, as the plan reckons with them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aes.model import ModelSpec
from aes.plan import Plan

PARAMETERS = {
    "attention": (2 * 10**9, 0),
    "MLP": (5 * 10**9, 0),
    "vision tower": (5 * 10**8, 0),
    "lm_head": (6 * 10**8, 0),
    "LoRA: attention": (10**7, 10**7),
}
WHOLE_BYTES = 2 * 11 * 10**8 + 4 * 10**7


@pytest.mark.parametrize(
    ("quantization", "bytes_each"), [("none", 2), ("8bit", 1), ("4bit", 0.5 + 1.015625 / 64)]
)
def test_projections_of_the_language_model_are_narrow(
    reference: Callable[..., Plan],
    model_spec: Callable[[str], ModelSpec],
    quantization: Any,
    bytes_each: float,
) -> None:
    model = replace(model_spec("qwen3_vl_8b"), quantization=quantization)
    memory = reference(model=model, parameters=PARAMETERS).memory
    assert memory is not None
    assert memory.weights * 2**30 == pytest.approx(7 * 10**9 * bytes_each + WHOLE_BYTES)
