"""Where the parts of a model are: behind an adapter, or spread over ranks."""

from __future__ import annotations

from typing import Any


def unwrap(model: Any) -> Any:
    """The transformers model inside ``model``, with adapters in place if it has any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_sharded(parameter: Any) -> bool:
    """Whether this rank holds only a part of a parameter."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "full_tensor")
