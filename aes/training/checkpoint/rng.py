"""The random generators of a process <-> plain values that a checkpoint can keep.

All that dropout and the like draw from; data are drawn from seeds of their own.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """The state of every generator of this process, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    assert name == "MT19937"
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Go on drawing where ``rng_state`` was taken.

    Args:
        state: What it returned, also on a machine with another kind of device.
    """
    version, inner, gauss_next = state["python"]
    random.setstate((version, tuple(inner), gauss_next))
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
