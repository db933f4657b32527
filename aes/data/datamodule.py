"""Lightning's view of the data: loaders for training and validation. Reads and prepares nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from aes.data.collate import Collator
from aes.data.dataset import PageDataset
from aes.data.dealing import Deal, Dealt, TextBatch, TextRows
from aes.data.feature_store import FeatureReader
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.data.sampler import Pick, StepSampler
from aes.data.spec import BatchingSpec
from aes.page import PageRenderer
from aes.records import Example

_END = object()
_ON_HOST = ("sequence_lengths", "num_tokens")
"""Tensors of which the host reads the numbers: on the device it would have to wait for them."""


class ResumableLoader(DataLoader[Any]):
    """A loader whose place is that of its sampler, which checkpoints keep.

    Its processes live through signals that are meant for the run, and it draws nothing from the
    generators that dropout draws from.

    Attributes:
        waited_s: Time so far between asking for a batch and having it.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        self.waited_s = 0.0
        super().__init__(
            dataset,
            generator=torch.Generator(),
            worker_init_fn=_ignore_stop_signals,
            **options,
        )

    def __iter__(self) -> Any:
        """Batches; the processes begin at once, not with the first one."""
        return self._time(super().__iter__())

    def _time(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            started_s = time.perf_counter()
            batch = next(batches, _END)
            self.waited_s += time.perf_counter() - started_s
            if batch is _END:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing; that it is there tells Lightning that the loader can go on mid-epoch."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""


def _ignore_stop_signals(_: int) -> None:
    """A scheduler's signal to the whole job must not take the pages from a run about to save."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _collate(
    collator: Collator, items: Sequence[Mapping[str, Any]]
) -> dict[str, torch.Tensor] | None:
    """A batch, or of no items what Lightning passes over."""
    return collator(items) if items else None


class EssayDataModule(LightningDataModule):
    """Training batches of tensors and validation batches of Examples.

    Args:
        train: Samples to train on.
        val: Samples to validate on; may be empty.
        renderer: Draws and opens pages.
        processor: Cuts pages into patches.
        global_batch_size: Examples per optimiser step.
        micro_batch_size: Most examples per forward pass.
        batching: How steps are made up, cut and laid out; the layout is decided.
        decoding_batch_size: Examples answered together in validation.
        validates_texts: Whether validation takes the loss of answers, which are texts.
        num_workers: Loader processes.
        pins_memory: Whether batches wait in memory from which a GPU can fetch them by itself.
        seed: Decides the order of the samples.
        rank: This one of ``num_ranks``, which each get a share of both parts.
        reader: Knows which training pages need not be drawn.
    """

    def __init__(
        self,
        *,
        train: Prepared,
        val: Prepared,
        renderer: PageRenderer,
        processor: Processor,
        global_batch_size: int,
        micro_batch_size: int,
        batching: BatchingSpec,
        decoding_batch_size: int,
        num_workers: int,
        seed: int,
        validates_texts: bool = False,
        pins_memory: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
        reader: FeatureReader | None = None,
    ) -> None:
        super().__init__()
        self.train = train
        self.processor = processor
        self.decoding_batch_size = decoding_batch_size
        self.num_workers = num_workers
        self.reader = reader
        self.dataset = PageDataset(train, renderer=renderer, processor=processor, reader=reader)
        self.val = val
        self.val_examples: Sequence[Example] = val.examples()
        self.validates_texts, self.micro_batch_size = validates_texts, micro_batch_size
        self.sampler = StepSampler(
            lengths=train.column("num_tokens"),
            num_supervised=train.column("num_supervised"),
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            batching=batching,
            seed=seed,
            rank=rank,
            num_ranks=num_ranks,
        )
        self.rank, self.num_ranks = rank, num_ranks
        self.pins_memory = pins_memory
        self._train_loader: ResumableLoader | None = None
        self.collator = Collator(
            image_token=processor.image_token,
            pad_token=processor.pad_token,
            is_packed=batching.layout == "packed",
        )

    @property
    def waited_s(self) -> float:
        """Time so far that training waited for batches, on this rank."""
        return self._train_loader.waited_s if self._train_loader is not None else 0.0

    def ids(self, picks: Sequence[Pick]) -> tuple[str, ...]:
        """Of the samples that were picked for training."""
        return tuple(str(self.train.rows[pick.index]["id"]) for pick in picks)

    def redraw(self, picks: Sequence[Pick]) -> dict[str, torch.Tensor]:
        """The training batch of these picks, as a loader's process makes it."""
        dataset = self.dataset.drawn() if self.reader is not None else self.dataset
        return self.collator([dataset[pick] for pick in picks])

    def train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches in the sampler's order; pages are drawn in the workers."""
        self._train_loader = ResumableLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=partial(_collate, self.collator),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pins_memory,
        )
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Lists of dealt Examples, of which the Engine makes tensors itself; or ``TextBatch``es."""
        if self.validates_texts:
            return self._text_loader()
        return ResumableLoader(
            Deal(self.val_examples, rank=self.rank, num_ranks=self.num_ranks),
            batch_size=self.decoding_batch_size,
            collate_fn=list,
        )

    def _text_loader(self) -> DataLoader[Any]:
        items = PageDataset(
            self.val, renderer=self.dataset.renderer, processor=self.dataset.processor
        )
        return ResumableLoader(
            TextRows(items, self.val, rank=self.rank, num_ranks=self.num_ranks),
            batch_size=self.decoding_batch_size,
            collate_fn=self._collate_texts,
            num_workers=self.num_workers,
        )

    def _collate_texts(self, drawn: Sequence[tuple[dict[str, Any], Dealt]]) -> TextBatch:
        items, size = [item for item, _ in drawn], self.micro_batch_size
        cut = [items[at : at + size] for at in range(0, len(items), size)]
        return TextBatch([dealt for _, dealt in drawn], [self.collator(part) for part in cut])

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move tensors; Examples stay as they are, for the Engine makes its own tensors."""
        if isinstance(batch, TextBatch):
            moved = [
                self.transfer_batch_to_device(part, device, dataloader_idx)
                for part in batch.micro_batches
            ]
            return TextBatch(batch.dealt, moved)
        if not isinstance(batch, dict):  # or there is none
            return batch
        kept = {name: batch[name] for name in _ON_HOST if name in batch}
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | kept
