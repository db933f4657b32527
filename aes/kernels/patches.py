"""Patches of a page -> the vision tower's first states, as one matrix product.

A patch is as large as the kernel of the convolution that transformers embeds it by, so the
convolution is a product, for which libraries have the better code.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor
from torch.nn.functional import linear

from aes.kernels.parts import tower_of


def linear_patches(model: Any) -> None:
    """Embed patches by a product from now on; weights and their names stay as they are.

    A model that reads text alone has no patches and stays as it is.
    """
    tower = tower_of(model)
    if tower is None:
        return
    convolution = tower.patch_embed.proj
    assert convolution.stride == convolution.kernel_size, "patches do not overlap"
    convolution.forward = MethodType(_forward, convolution)


def _forward(self: Any, patches: Tensor) -> Tensor:
    """``[patches, channels, frames, height, width]`` to ``[patches, hidden, 1, 1, 1]``."""
    out = linear(patches.flatten(1), self.weight.flatten(1), self.bias)
    return out[:, :, None, None, None]
