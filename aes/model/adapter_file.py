"""A folder with an adapter in PEFT layout -> which matrices it changes, and by how much.

Reads what this project, plain PEFT and LLaMA-Factory write, in the names of their various
versions. Refuses what is no plain LoRA. Knows no model: whether a matrix is there is for
``aes.model.adapters`` to say.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.model.adapter_names import ROUTER, kind_of, named_sets
from aes.model.spec import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE, WEIGHTS_FILE, OLD_WEIGHTS_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)

# Before transformers had one name for the parts of models that see, each class had its own.
_OLDER_NAMES = (
    (r"^visual\.", "model.visual."),
    (r"^language_model\.lm_head", "lm_head"),
    (r"^language_model\.(?:model\.)?", "model.language_model."),
)


@dataclass(frozen=True, eq=False)
class LoraUpdate:
    """What is added to a matrix ``[out, in]``: ``scale * b @ a``.

    Attributes:
        a: ``[rank, in]``; of fused experts ``[experts * rank, in]``, experts outside.
        b: ``[out, rank]``; of fused experts ``[out, rank * experts]``, experts inside.
    """

    a: Tensor
    b: Tensor

    def turned(self, num_experts: int) -> LoraUpdate:
        """Of fused experts the same update as a version of PEFT saves it that swaps in and out."""
        rank = len(self.a) // num_experts
        a = self.b.reshape(-1, rank, num_experts).permute(2, 1, 0).flatten(0, 1)
        b = self.a.reshape(num_experts, rank, -1).permute(2, 1, 0).flatten(1)
        return LoraUpdate(a.contiguous(), b.contiguous())


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterFile:
    """An adapter as it lies in its folder.

    Attributes:
        alpha: Such that an update counts ``alpha / rank`` times.
        modules_to_save: As its settings name them.
        updates: By name of the module; fused experts have one for each of their two parameters.
        whole: Weights that replace the base's, by name.
    """

    folder: Path
    rank: int
    alpha: float
    dropout: float
    modules_to_save: tuple[str, ...]
    updates: Mapping[str, Sequence[LoraUpdate]]
    whole: Mapping[str, Tensor]

    @property
    def scale(self) -> float:
        """Factor on each update."""
        return self.alpha / self.rank

    @property
    def targets(self) -> tuple[str, ...]:
        """What ``adapter.targets`` must be, to reach its matrices and as few others as can be.

        Raises:
            ValueError: If it changes what nothing here trains.
        """
        found = {module: kind_of(module) for module in self.updates}
        unknown = sorted(module for module, kind in found.items() if kind is None)
        whole = (name.removesuffix(".weight") for name in self.whole)
        unknown += sorted(module for module in whole if ROUTER.search(module))
        if unknown:
            self._refuse(unknown)
        return named_sets({kind for kind in found.values() if kind is not None})

    def _refuse(self, modules: Sequence[str]) -> None:
        routers = [module for module in modules if ROUTER.search(module)]
        if routers:
            raise ValueError(
                f"the adapter in {self.folder} also tunes the router ({routers[0]} and "
                f"{len(routers) - 1} more), as older recipes with lora_target=all did, and here "
                "routers stay as they are; merge it into its base with the tool that trained it "
                "and use the result by model.path=DIR, or train it again without gate"
            )
        raise ValueError(
            f"the adapter in {self.folder} tunes {modules[0]} and {len(modules) - 1} more modules "
            "that nothing here trains; merge it into its base with the tool that trained it and "
            "use the result by model.path=DIR"
        )

    def require_agreement(self, adapter: LoraSpec) -> None:
        """Check that settings ask for the adapter that this one is.

        Raises:
            ValueError: If not, with what to set.
        """
        asked = {
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "targets": list(named_sets(set(adapter.targets))),
            "modules_to_save": sorted(adapter.modules_to_save),
        }
        found = {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "modules_to_save": sorted(self.modules_to_save),
        }
        wrong = [name for name in asked if asked[name] != found[name]]
        if wrong:
            told = " ".join(f"adapter.{name}={_as_setting(found[name])}" for name in wrong)
            raise ValueError(
                f"the adapter in {self.folder} was made with other settings than these; "
                f"set {told}, or leave adapter.init_from out"
            )


def _as_setting(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).removesuffix(".0")  # every digit: what is set must agree exactly


def read_adapter(folder: Path) -> AdapterFile:
    """Reads an adapter, its weights as they are stored.

    Raises:
        ValueError: If there is none, it is torn, or it is no plain LoRA.
    """
    config = _read_config(folder)
    updates, whole = sort_weights(_read_weights(folder), folder)
    rank = int(config["r"])
    root = bool(config.get("use_rslora"))
    return AdapterFile(
        folder=folder,
        rank=rank,
        alpha=float(config["lora_alpha"]) * (math.sqrt(rank) if root else 1.0),
        dropout=float(config.get("lora_dropout") or 0.0),
        modules_to_save=tuple(config.get("modules_to_save") or ()),
        updates=updates,
        whole=whole,
    )


def sort_weights(
    weights: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, list[LoraUpdate]], dict[str, Tensor]]:
    """Updates by name of their module, and weights that replace the base's.

    Args:
        weights: By name, as PEFT saves them.
        folder: Where they come from, for messages.

    Raises:
        ValueError: If there is anything else among them, or half of an update.
    """
    halves: dict[str, dict[str, dict[str, Tensor]]] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = _module_name(key)
        if ".original_module." in name:
            continue  # the base's own, which some versions save beside the trained copy
        match = re.fullmatch(r"(.+?)\.lora_([AB])(?:\.\w+)?\.weight", name)
        if match:
            module, half = match.groups()
            place = module.removesuffix(".base_layer")  # of two on one module, the inner one
            halves.setdefault(place, {}).setdefault(module, {})[half] = tensor
        elif "lora_" in name:
            raise ValueError(
                f"the adapter in {folder} holds {name}, which is more than LoRA's two matrices; "
                "merge it into its base with the tool that trained it"
            )
        else:
            whole[re.sub(r"\.modules_to_save(?:\.default)?", "", name)] = tensor
    _require_pairs(folder, halves)
    return {
        place: [LoraUpdate(half["A"], half["B"]) for half in by_module.values()]
        for place, by_module in halves.items()
    }, whole


def _module_name(key: str) -> str:
    """The name that the model gives to what a file calls ``key``."""
    name = key.removeprefix("base_model.model.")
    for pattern, replacement in _OLDER_NAMES:
        changed = re.sub(pattern, replacement, name)
        if changed != name:
            return changed
    return name


def _read_config(folder: Path) -> dict[str, Any]:
    """Its settings.

    Raises:
        ValueError: If they cannot be read or say that it is no plain LoRA.
    """
    file = folder / CONFIG_FILE
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
        int(config["r"]), float(config["lora_alpha"])
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no {CONFIG_FILE}, so it is no adapter in PEFT layout; name the folder "
            "that holds adapter_config.json, in a run of ours RUN_DIR/adapter"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} cannot be read as the settings of a LoRA adapter; restore it"
        ) from error
    init = config.get("init_lora_weights", True)
    odd = {
        f"peft_type={config.get('peft_type')}": config.get("peft_type", "LORA") != "LORA",
        "use_dora": config.get("use_dora"),
        "bias": config.get("bias", "none") != "none",
        "lora_bias": config.get("lora_bias"),
        "fan_in_fan_out": config.get("fan_in_fan_out"),
        "rank_pattern": config.get("rank_pattern"),
        "alpha_pattern": config.get("alpha_pattern"),
        # These change the base when they begin, so the update counts from other weights.
        f"init_lora_weights={init}": str(init).startswith(("pissa", "olora", "corda", "loftq")),
        "trainable_token_indices": config.get("trainable_token_indices"),
    }
    for name, is_set in odd.items():
        if is_set:
            raise ValueError(
                f"the adapter in {folder} has {name}, but only plain LoRA is taken; merge it into "
                "its base with the tool that trained it and use the result by model.path=DIR"
            )
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if (folder / WEIGHTS_FILE).is_file():
            return dict(load_file(folder / WEIGHTS_FILE))
        if (folder / OLD_WEIGHTS_FILE).is_file():
            return dict(
                torch.load(folder / OLD_WEIGHTS_FILE, map_location="cpu", weights_only=True)
            )
    except (
        *(SafetensorError, OSError, RuntimeError, ValueError, EOFError),
        pickle.UnpicklingError,
    ) as error:
        raise ValueError(
            f"the weights in {folder} cannot be read ({str(error).splitlines()[0][:120]}); copy "
            "the adapter again"
        ) from error
    raise ValueError(f"{folder} holds no {WEIGHTS_FILE}, so it is incomplete; copy it again")


def _require_pairs(folder: Path, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    for by_module in found.values():
        for module, halves in by_module.items():
            if set(halves) != {"A", "B"}:
                raise ValueError(
                    f"the adapter in {folder} holds one of the two matrices of {module} alone, so "
                    "it is incomplete; copy it again"
                )
