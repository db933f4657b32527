"""Processes that tokenise shards while the next samples are read; memory holds a few shards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self

from aes.corpus.instructions import Sample
from aes.data.processor import Processor
from aes.data.shards import Shard
from aes.page import PageRenderer

_tools: tuple[Processor, PageRenderer] | None = None
"""Of a process that tokenises: sent once, since a tokenizer is large."""


class Tokenisers:
    """Writes shards, in other processes from the second one on.

    Few samples are done before a process would have started.
    """

    def __init__(self, processor: Processor, renderer: PageRenderer) -> None:
        self._tools = processor, renderer
        self._num_processes = len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None
        self._first: tuple[Shard, Sequence[Sample]] | None = None
        self._under_way: set[Future[None]] = set()

    def __enter__(self) -> Self:
        return self

    def write(self, shard: Shard, samples: Sequence[Sample]) -> None:
        """Write a shard, now or a little later.

        Raises:
            ValueError: If an earlier one could not be written.
        """
        if self._pool is None and self._first is None:
            self._first = shard, samples
            return
        if self._num_processes == 1:
            self._write_here()
            self._first = shard, samples
            return
        if self._pool is None:
            assert self._first is not None
            self._pool = self._start()
            self._submit(*self._first)
            self._first = None
        self._submit(shard, samples)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._write_here()
                self._collect(most=0)
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _write_here(self) -> None:
        if self._first is not None:
            shard, samples = self._first
            shard.write(samples, processor=self._tools[0], renderer=self._tools[1])
            self._first = None

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._num_processes,
            mp_context=multiprocessing.get_context("fork"),  # nothing has to be imported again
            initializer=_begin,
            initargs=(self._tools, os.getpid()),
        )

    def _submit(self, shard: Shard, samples: Sequence[Sample]) -> None:
        assert self._pool is not None
        self._collect(most=self._num_processes)
        self._under_way.add(self._pool.submit(_write, shard, samples))

    def _collect(self, *, most: int) -> None:
        """Wait until at most so many are under way."""
        try:
            while len(self._under_way) > most:
                done, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that prepares samples was ended from outside, as for want of memory; "
                "the same command goes on with what is done"
            ) from error


def _begin(tools: tuple[Processor, PageRenderer], parent: int) -> None:
    global _tools
    _tools = tools
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever reads ends the others in order
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A process whose parent was killed would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write(shard: Shard, samples: Sequence[Sample]) -> None:
    assert _tools is not None
    shard.write(samples, processor=_tools[0], renderer=_tools[1])
