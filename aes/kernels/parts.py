"""Where the parts of a model are: behind an adapter, or spread over ranks."""

from __future__ import annotations

from typing import Any


def unwrap(model: Any) -> Any:
    """The transformers model inside ``model``, with adapters in place if it has any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def language_model_of(model: Any) -> Any:
    """The decoder layers with their embeddings; of a model that reads text alone, all but its head.

    Args:
        model: Transformers or PEFT model.
    """
    inner = unwrap(model).model
    return getattr(inner, "language_model", inner)


def tower_of(model: Any) -> Any | None:
    """What reads pages; ``None`` in a model that reads text alone."""
    return getattr(unwrap(model).model, "visual", None)


def is_sharded(parameter: Any) -> bool:
    """Whether this rank holds only a part of a parameter."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "full_tensor")
