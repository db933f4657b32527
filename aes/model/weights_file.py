"""A checkpoint folder's weights, one tensor or a few rows of it at a time.

For models that are put together without ever being whole; ``load_base`` reads the others. Knows
the one difference between the hub's layout and the model's: expert matrices stand transposed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXPERT_TENSORS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
Shape = tuple[int, ...]


class WeightsFile:
    """Opens the safetensors files of a folder; a context, which closes them.

    Args:
        folder: With ``model.safetensors``, or several of them and their index.

    Raises:
        ValueError: If there are none, or one cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            files = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        else:
            files = ["model.safetensors"]
        self._of: dict[str, Any] = {}
        self._open: list[Any] = []
        try:
            for file in files:
                opened = safe_open(folder / file, framework="pt")
                self._open.append(opened)
                names: list[str] = opened.keys()  # type: ignore[no-untyped-call]
                self._of.update(dict.fromkeys(names, opened))
        except (SafetensorError, OSError) as exc:
            raise ValueError(
                f"the weights in {folder} cannot be read ({exc}); sharded loading needs them as "
                "safetensors: download them again, or, in the cache, delete the folder"
            ) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._of.clear()
        self._open.clear()

    def misfits(self, expected: Mapping[str, Shape]) -> dict[str, list[str]]:
        """Names of tensors that are missing, unexpected or mismatched in shape."""
        common = expected.keys() & self._of.keys()
        return {
            "missing": sorted(expected.keys() - self._of.keys()),
            "unexpected": sorted(self._of.keys() - expected.keys()),
            "mismatched": sorted(n for n in common if not self._fits(n, expected[n])),
        }

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor as it is stored."""
        empty: Tensor = self._of[name].get_slice(name)[:0]
        return empty.dtype

    def read(self, name: str, shape: Shape, *, rows: slice = slice(None)) -> Tensor:
        """A tensor as the model holds it, or some of its rows, on the CPU in the file's dtype.

        Args:
            shape: Of the whole tensor in the model.
            rows: Along the first dimension.
        """
        found = self._of[name].get_slice(name)
        value: Tensor = found[rows]
        # The same rule as transformers': square matrices are taken as they are.
        return value if tuple(found.get_shape()) == shape else value.transpose(1, 2)

    def _fits(self, name: str, shape: Shape) -> bool:
        found = tuple(self._of[name].get_slice(name).get_shape())
        if name.endswith(EXPERT_TENSORS) and len(found) == 3:
            return shape in (found, (found[0], found[2], found[1]))
        return shape == found


def refuse_misfits(folder: Path, wrong: Mapping[str, list[str]]) -> None:
    """Say what of a checkpoint does not fit the model.

    Args:
        wrong: Names of weights by what is wrong with them.

    Raises:
        ValueError: If there is anything.
    """
    if any(wrong.values()):
        told = "; ".join(
            f"{len(keys)} {kind} (such as {keys[0]})" for kind, keys in wrong.items() if keys
        )
        raise ValueError(
            f"the checkpoint in {folder} does not fit its own config.json: {told} weights; "
            "it is incomplete or of another model"
        )
