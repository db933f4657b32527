"""Names of a model's modules -> names of what is trained of it, as ``adapter.targets`` has them."""

from __future__ import annotations

import re
from collections.abc import Mapping

SETS: Mapping[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""Named sets of the language model's matrices."""

_KINDS = (
    (r"model\.layers\.\d+\.self_attn\.([qkvo]_proj)", r"\1"),
    (r"model\.layers\.\d+\.mlp\.((?:gate|up|down)_proj)", r"\1"),
    (r"visual\..*(?:attn\.(?:qkv|proj)|linear_fc[12])", "vision"),
    (r"mlp\.experts", "experts"),
)
ROUTER = re.compile(r"mlp\.gate$")
"""Of the module that chooses a token's experts."""


def named_sets(names: set[str]) -> tuple[str, ...]:
    """Names of matrices, put together to sets where they make up one.

    Args:
        names: Of matrices or sets.
    """
    single = {one for name in names for one in SETS.get(name, (name,))}
    found = []
    for name, members in SETS.items():
        if single.issuperset(members):
            found.append(name)
            single -= set(members)
    return (*found, *sorted(single))


def kind_of(module: str) -> str | None:
    """The matrix or set that a module belongs to; ``None``: to none that is trained here."""
    # The language model's own names, whether it stands alone or beside a tower.
    module = module.replace("language_model.", "")
    for pattern, name in _KINDS:
        match = re.search(f"{pattern}$", module)
        if match:
            return match.expand(name)
    return None
