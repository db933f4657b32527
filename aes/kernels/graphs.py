"""Work on a card -> a CUDA graph of it, which one launch replays."""

from __future__ import annotations

import torch

from aes.kernels.steps import Run

NUM_WARMUPS = 3
"""Runs before recording, in which libraries choose kernels and take their workspaces."""


def record_graph(run: Run) -> Run:
    """Record what ``run`` does; tensors it reads and writes must stay where they are.

    Raises:
        RuntimeError: If something in it waits for the card, or cannot be recorded otherwise.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(NUM_WARMUPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on: the loader's pins memory meanwhile.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        run()
    return graph.replay
