"""A command line and the folder of groups that it chooses from.

Asks Hydra for the composed configuration and for the names that exist; checks no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

CONFIG_DIR = Path(__file__).resolve().parents[2] / "conf"
VERSION_BASE = "1.3"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a configuration comes from.

    Attributes:
        config_dir: Folder of the groups.
        config_name: File in it, without ``.yaml``.
        overrides: The settings on the command line, ``key=value`` each.
    """

    config_dir: Path
    config_name: str
    overrides: tuple[str, ...]

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """Composes, with Hydra's own part under ``hydra``; its exceptions come through."""
        with initialize_config_dir(
            version_base=VERSION_BASE, config_dir=str(self.config_dir), job_name=self.config_name
        ):
            config = compose(self.config_name, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config

    @property
    def groups(self) -> list[str]:
        """Names of the groups."""
        return sorted(path.name for path in self.config_dir.iterdir() if path.is_dir())

    def options(self, group: str) -> list[str]:
        """Names of a group's options; empty if there is no such group."""
        return sorted(path.stem for path in (self.config_dir / group).glob("*.yaml"))

    def names(self, *extra: str) -> tuple[list[str], dict[str, str]]:
        """What exists with the groups that were chosen, whatever the other settings say.

        Args:
            extra: Further choices, e.g. ``"adapter=none"``.

        Returns:
            Dotted keys, and the option taken of each group; both empty where a choice is wrong.
        """
        wanted = {*self.groups, "hydra.searchpath"}
        chosen = [o for o in self.overrides if o.partition("=")[0] in wanted]
        try:
            config = self.load([*chosen, *extra])
        except (HydraException, ValueError):
            return [], {}
        return dotted_keys(OmegaConf.to_container(config)), dict(config.hydra.runtime.choices)


def dotted_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key, lists and empty groups as they are."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= dotted_values(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def dotted_keys(values: object, prefix: str = "") -> list[str]:
    """Names of all nodes of nested dictionaries, e.g. ``optim`` and ``optim.lr``."""
    if not isinstance(values, dict):
        return []
    keys: list[str] = []
    for key, value in values.items():
        if key != "_target_":
            keys += [f"{prefix}{key}", *dotted_keys(value, f"{prefix}{key}.")]
    return keys
