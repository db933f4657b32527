"""A base checkpoint and what was trained beside it -> weights of one model, as the hub has them.

Tensor by tensor from file to file: no model is built, and no more is held than one file of the
result. Products are computed in float32, whatever the weights are. Knows no run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from aes.files import sync
from aes.model.adapter_file import AdapterFile, LoraUpdate
from aes.model.sharding import build_empty, require_fit
from aes.model.weights_file import EXPERT_TENSORS, WeightsFile

Shape = tuple[int, ...]
INDEX_FILE = "model.safetensors.index.json"
_WORD_TENSORS = ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight")
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class _Weight:
    """A tensor of the result: its name in the base, its shape in the model, and its type."""

    source: str
    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Merger:
    """Opens a base checkpoint and merges an adapter into it; a context, which closes the files.

    Args:
        base: Folder of the checkpoint.
        adapter: ``None``: the checkpoint holds all that was trained.
        dtype: Of the result; ``None``: each weight's own.

    Raises:
        ValueError: If the base is not whole, or the adapter is of another.
    """

    def __init__(
        self, base: Path, adapter: AdapterFile | None, *, dtype: torch.dtype | None
    ) -> None:
        self._file = WeightsFile(base)
        self._adapter = adapter
        model = build_empty(base, dtype=torch.float32)
        require_fit(self._file, model)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._updates = _updates_by_weight(adapter, shapes) if adapter is not None else {}
        self._whole = dict(adapter.whole) if adapter is not None else {}
        sources = {name: name for name in shapes}
        self.unties = self._untie(sources)
        unknown = self._whole.keys() - sources.keys()
        if unknown and adapter is not None:
            raise _misfit(adapter, min(unknown))
        self._weights = {
            name: _Weight(source, shapes[source], dtype or self._file.dtype(source))
            for name, source in sources.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(None, None, None)

    @property
    def num_bytes(self) -> int:
        """Size of the result."""
        return sum(weight.num_bytes for weight in self._weights.values())

    @property
    def dtype(self) -> str:
        """Of most weights of the result, as ``config.json`` calls it."""
        sizes: Counter[torch.dtype] = Counter()
        for weight in self._weights.values():
            sizes[weight.dtype] += weight.num_bytes
        return str(sizes.most_common(1)[0][0]).removeprefix("torch.")

    def _untie(self, sources: dict[str, str]) -> bool:
        """Give words and head a place each where they are one in the base, trained apart."""
        words = next(name for name in _WORD_TENSORS if name in sources)
        if _HEAD in sources or self._whole.keys().isdisjoint({words, _HEAD}):
            return False
        sources[_HEAD] = words
        return True

    def write(self, folder: Path, *, shard_bytes: int, tell: Callable[[str], None]) -> None:
        """Write files of at most ``shard_bytes`` each, and their index where there are several.

        Raises:
            ValueError: If a file, read back, is not what was written.
        """
        shards = list(self._cut(shard_bytes))
        of: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = (
                "model.safetensors"
                if len(shards) == 1
                else f"model-{number:05}-of-{len(shards):05}.safetensors"
            )
            _save({name: self._merged(name) for name in names}, folder / file)
            of |= dict.fromkeys(names, file)
            tell(f"wrote {file}, {number} of {len(shards)}")
        if len(shards) > 1:
            index = {"metadata": {"total_size": self.num_bytes}, "weight_map": of}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (folder / INDEX_FILE).write_text(text, encoding="utf-8")

    def _cut(self, shard_bytes: int) -> Iterable[list[str]]:
        names: list[str] = []
        size = 0
        for name, weight in self._weights.items():
            if names and size + weight.num_bytes > shard_bytes:
                yield names
                names, size = [], 0
            names.append(name)
            size += weight.num_bytes
        yield names

    def _merged(self, name: str) -> Tensor:
        """A weight of the result, as the hub has it."""
        weight = self._weights[name]
        if name in self._whole:
            value = self._whole[name]
            if tuple(value.shape) != weight.shape and self._adapter is not None:
                raise _misfit(self._adapter, name)
        else:
            value = self._file.read(weight.source, weight.shape)
        if name in self._updates:
            assert self._adapter is not None
            value = value.to(torch.float32, copy=True)
            _add(value, self._updates[name], self._adapter.scale)
        value = value.to(weight.dtype)
        if name.endswith(EXPERT_TENSORS):
            value = value.transpose(1, 2)
        return value.contiguous()


def _updates_by_weight(adapter: AdapterFile, shapes: Mapping[str, Shape]) -> dict[str, LoraUpdate]:
    """Updates by name of the weight that they are added to.

    Raises:
        ValueError: If one fits none.
    """
    found: dict[str, LoraUpdate] = {}
    for module, updates in adapter.updates.items():
        names = [f"{module}.weight"] if f"{module}.weight" in shapes else _fused(module, shapes)
        for update in updates:
            fitting = {name: _fitted(update, shapes[name]) for name in names if name not in found}
            name, fitted = next(((n, f) for n, f in fitting.items() if f is not None), (None, None))
            if name is None or fitted is None:
                raise _misfit(adapter, module)
            found[name] = fitted
    return found


def _fused(module: str, shapes: Mapping[str, Shape]) -> list[str]:
    return [name for name in shapes if name.startswith(f"{module}.") and len(shapes[name]) == 3]


def _fitted(update: LoraUpdate, shape: Shape) -> LoraUpdate | None:
    """The update of a weight of this shape, whichever way round it was saved."""
    if len(shape) == 2:
        return update if (len(update.b), update.a.shape[1]) == shape else None
    num_experts, num_out, num_in = shape
    if len(update.a) % num_experts:
        return None
    sizes = len(update.b), update.a.shape[1]
    if sizes == (num_out, num_in):
        return update
    return update.turned(num_experts) if sizes == (num_in, num_out) else None


def _add(value: Tensor, update: LoraUpdate, scale: float) -> None:
    """``value += scale * b @ a`` in place, of fused experts one after the other."""
    a, b = update.a.float(), update.b.float()
    if value.dim() == 2:
        value.addmm_(b, a, alpha=scale)
        return
    num_experts = len(value)
    a = a.reshape(num_experts, -1, a.shape[1])
    b = b.reshape(len(b), -1, num_experts)
    for expert in range(num_experts):
        value[expert].addmm_(b[:, :, expert], a[expert], alpha=scale)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file and read it back.

    Raises:
        ValueError: If it holds something else.
    """
    save_file(dict(tensors), path, metadata={"format": "pt"})
    sync(path)
    with safe_open(path, framework="pt") as file:
        for name, tensor in tensors.items():
            if not torch.equal(_bits(file.get_tensor(name)), _bits(tensor)):
                raise ValueError(
                    f"{path.name} does not hold what was written to it; look at the disk"
                )


def _bits(tensor: Tensor) -> Tensor:
    """As bytes, in which not-a-number equals itself."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def _misfit(adapter: AdapterFile, name: str) -> ValueError:
    return ValueError(
        f"the adapter in {adapter.folder} does not fit this base: {name} has no place of its size "
        "there; give the base that it was trained on by --model-path DIR"
    )
