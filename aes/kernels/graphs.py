"""Work on a card -> a CUDA graph of it, which one launch replays."""

from __future__ import annotations

import weakref

import torch

from aes.kernels.steps import NUM_WARMUPS, Run


class GraphRecorder:
    """Records work; its graphs share one pool of memory.

    What one of them made is therefore to be read before another is replayed.
    """

    def __init__(self) -> None:
        # A pool is gone with the last of its graphs, and must then not be named again.
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, run: Run) -> Run:
        """Record what ``run`` does; tensors it reads and writes must stay where they are.

        Raises:
            RuntimeError: If something in it waits for the card, or cannot be recorded otherwise.
        """
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(NUM_WARMUPS):
                run()
        current.wait_stream(side)
        known = next(iter(self._graphs), None)
        pool = None if known is None else known.pool()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on: the loader's pins memory meanwhile.
            with torch.cuda.graph(graph, pool, side, capture_error_mode="thread_local"):
                run()
        finally:  # where recording fails, torch leaves the thread on the stream aside
            torch.cuda.set_stream(current)
        self._graphs.add(graph)
        return graph.replay
