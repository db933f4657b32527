"""A finished run -> a folder that other tools load: its adapter alone, or merged weights.

Puts the parts in order; each is made by a module beside this one. The folder is there whole, with
the digest of every file, or not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aes.export.beside import (
    copy_adapter,
    copy_grading_facts,
    copy_settings,
    settings_folder,
    write_config,
    write_generation_config,
)
from aes.export.card import write_card
from aes.export.card_facts import CardFacts
from aes.export.digests import CARD_FILE, write_digests
from aes.export.folder import require_free, require_room, written_aside
from aes.export.serving import Served, obstacle, serve_line
from aes.files import size_bytes
from aes.model.adapter_file import read_adapter
from aes.model.loading import local_folder, model_folder
from aes.model.spec import AdapterSpec, LoraSpec, ModelSpec
from aes.model.trained import MODEL_FOLDER, trained_folder
from aes.training.checkpoint.identity import require_base

_MARGIN_BYTES = 64 * 2**20
"""Room for tokenizer and card."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunToExport:
    """A run, and what its export is to be.

    Attributes:
        path: The run's directory.
        model: Its base, with ``path`` where it lies now.
        base_name: What others call the base: a hub id, or a folder.
        choices: Which option of each group the run took.
        values: Its settings, as ``config.yaml`` has them.
        cache: Folder for what can be computed again.
        max_tokens: Longest prompt with its answer.
        served_name: Under which vLLM is to serve it.
        is_merged: Whole weights; else the adapter alone.
        dtype: Of merged weights; ``None``: each as the base has it.
        shard_bytes: Largest file of merged weights.
    """

    path: Path
    model: ModelSpec
    adapter: AdapterSpec
    base_name: str
    choices: Mapping[str, str]
    values: Mapping[str, Any]
    cache: Path
    max_tokens: int
    served_name: str
    is_merged: bool
    dtype: Literal["bf16", "fp32"] | None
    shard_bytes: int

    @property
    def base_id(self) -> str:
        """The base's name if it is one of the hub, else empty."""
        is_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.base_name) is not None
        return self.base_name if is_id and not Path(self.base_name).is_dir() else ""

    @property
    def unserved(self) -> str:
        """What vLLM would not serve of the export; empty if nothing."""
        if self.is_merged:
            return ""
        if self.model.path is None:
            return "The base has random weights and no name that vLLM knows: serve merged weights"
        return obstacle(self.adapter)

    def serve_line(self, folder: str, *, base: str) -> str:
        """The command that has vLLM serve the export in ``folder``."""
        served = Served(
            name=self.served_name,
            base=base,
            max_tokens=self.max_tokens,
            sees_pages=not self.model.reads_text_alone,
        )
        adapter = None if self.is_merged else self.adapter
        assert adapter is None or isinstance(adapter, LoraSpec)
        return serve_line(served, folder, adapter=adapter)


def export_model(run: RunToExport, out: Path, tell: Tell) -> None:
    """Write the export and tell how to serve it.

    Args:
        out: Must not exist, or be empty.
        tell: Takes a line for the terminal.

    Raises:
        ValueError: If the run has nothing of the kind, the base is another, ``out`` is taken, or
            the disk has no room.
    """
    trained = trained_folder(run.path)
    if trained.name == MODEL_FOLDER and not run.is_merged:
        raise ValueError(f"{run.path} trained every weight and has no adapter; add --merged")
    require_free(out)
    if run.is_merged:
        _export_merged(run, trained, out, tell)
    else:
        _export_adapter(run, trained, out)
    tell(f"exported to {out}; every file but the card is in SHA256SUMS")
    tell(run.unserved or f"to serve it: {run.serve_line(str(out), base=run.base_name)}")


def _export_adapter(run: RunToExport, trained: Path, out: Path) -> None:
    require_room(out, size_bytes(trained) + _MARGIN_BYTES)
    base = settings_folder(run.model, run.cache)
    with written_aside(out) as folder:
        copy_adapter(trained, folder, base_name=run.base_name)
        _finish(run, trained, base, folder, dtype="float32", name=out.name)


def _export_merged(run: RunToExport, trained: Path, out: Path, tell: Tell) -> None:
    import torch

    from aes.export.merging import Merger

    is_whole = trained.name == MODEL_FOLDER
    # Where every weight was trained, nothing of the base's is needed but its small files.
    base = (settings_folder if is_whole else model_folder)(run.model, run.cache)
    if run.model.path is not None:
        require_base(trained, base)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, None: None}[run.dtype]
    adapter = None if is_whole else read_adapter(trained)
    with Merger(trained if is_whole else base, adapter, dtype=dtype) as merger:
        require_room(out, merger.num_bytes + _MARGIN_BYTES)
        with written_aside(out) as folder:
            merger.write(folder, shard_bytes=run.shard_bytes, tell=tell)
            write_config(
                trained if is_whole else base, folder, dtype=merger.dtype, unties=merger.unties
            )
            _finish(run, trained, base, folder, dtype=merger.dtype, name=out.name)


def _finish(
    run: RunToExport, trained: Path, base: Path, folder: Path, *, dtype: str, name: str
) -> None:
    """What lies beside the weights, the card, and the digests."""
    copy_settings(base, folder, run.model)
    if run.is_merged:
        write_generation_config(base, folder)
    copy_grading_facts(trained, folder)
    base_name = run.base_id or _public(run)
    facts = CardFacts(
        name=name,
        base=base_name,
        base_id=run.base_id,
        is_merged=run.is_merged,
        dtype=dtype,
        run=run.path,
        choices=run.choices,
        values=run.values,
        serve=run.serve_line(name, base=run.base_id or "BASE_FOLDER"),
        obstacle=run.unserved,
    )
    write_card(facts, folder / CARD_FILE)
    for file in folder.iterdir():  # safetensors makes files that only their owner reads
        file.chmod(0o644)
    write_digests(folder)


def _public(run: RunToExport) -> str:
    """The base's name without the way to its folder."""
    if run.model.path is None:
        return f"model={run.choices['model']} (random weights)"
    return Path(run.base_name).name if local_folder(run.model) else run.base_name
