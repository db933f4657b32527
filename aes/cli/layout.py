"""Settings -> how attention is computed and how samples of a micro-batch stand: what auto means.

Decided here alone, for the run, its plan and the checks of settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aes.model.kernels import resolve_kernels
from aes.training.spec import ExpectedLossSpec, OrdinalLossSpec

if TYPE_CHECKING:
    from aes.cli.settings import Settings
    from aes.data import BatchingSpec
    from aes.kernels.attention import AttentionName
    from aes.model import KernelSpec


def choose_attention(settings: Settings) -> AttentionName:
    """Of the language model in training; our own function, which is the fastest everywhere."""
    name = settings.kernels.attention
    return "varlen" if name == "auto" else name


def choose_kernels(settings: Settings) -> KernelSpec:
    """How a pass of training is computed, without an ``auto``.

    Raises:
        ValueError: If a choice does not go with the model or the adapter.
    """
    kernels = resolve_kernels(settings.kernels, settings.model, settings.adapter)
    return replace(kernels, attention=choose_attention(settings))


def choose_batching(settings: Settings) -> BatchingSpec:
    """With its layout: packed where attention needs no mask of the whole row for it."""
    packs = choose_attention(settings) == "varlen" and not reads_branches(settings)
    return settings.batching.resolved(packs=packs)


def reads_branches(settings: Settings) -> bool:
    """Whether the loss reads digits beside the answer, which are put behind padded samples."""
    return isinstance(settings.loss, ExpectedLossSpec | OrdinalLossSpec)


def check_batching(settings: Settings) -> None:
    """Refuses batches that cannot be, and settings of them that would do nothing.

    Raises:
        ValueError: If that is so.
    """
    batching = settings.batching
    if batching.layout == "packed" and reads_branches(settings):
        raise ValueError(
            f"batching.layout=packed does not go with loss={settings.choices['loss']}, which reads "
            "other digits behind each sample; use batching.layout=padded"
        )
    if batching.order == "shuffled" and batching.pool_steps is not None:
        raise ValueError(
            f"batching.pool_steps={batching.pool_steps} does nothing with batching.order=shuffled; "
            "set batching.pool_steps=null"
        )
