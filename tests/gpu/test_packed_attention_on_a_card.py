"""Torch's kernel for samples of unlike length against each sample by itself, on a CUDA device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aes.kernels.attention import _attend_each, _attend_flash, _has_flash, packing_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LENGTHS = (1065, 7, 640, 1)


@pytest.mark.parametrize(("heads", "key_heads", "size"), [(32, 4, 128), (8, 2, 32)])
def test_one_kernel_is_as_exact_as_many(heads: int, key_heads: int, size: int) -> None:
    device = torch.device("cuda")
    if not _has_flash(device, torch.bfloat16):
        pytest.skip("the card is older than Ampere")
    packing = packing_of(torch.tensor(LENGTHS), device)
    generator = torch.Generator(device).manual_seed(0)
    exact = [
        torch.randn(1, num, sum(LENGTHS), size, device=device, generator=generator)
        for num in (heads, key_heads, key_heads)
    ]

    def run(attend: Any, dtype: torch.dtype) -> list[Tensor]:
        inputs = [part.to(dtype).requires_grad_() for part in exact]
        out = attend(*inputs, packing)
        weights = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
        gradients = torch.autograd.grad((out.float() * weights).sum(), inputs)
        return [out.detach().float(), *(gradient.float() for gradient in gradients)]

    def each(query: Tensor, key: Tensor, value: Tensor, packing: Any) -> Tensor:
        return _attend_each(query, key, value, packing, size**-0.5, 0.0)

    def flash(query: Tensor, key: Tensor, value: Tensor, packing: Any) -> Tensor:
        return _attend_flash(query, key, value, packing, size**-0.5)

    truth = run(each, torch.float32)
    for found, rounded, meant in zip(
        run(flash, torch.bfloat16), run(each, torch.bfloat16), truth, strict=True
    ):
        assert found.shape == meant.shape
        error, usual = ((part - meant).norm() / meant.norm() for part in (found, rounded))
        assert float(error) < max(2 * float(usual), 0.01)
