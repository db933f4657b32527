"""What the batches of one call share: memory of keys and values, recorded steps, the word search.

Decides which of them there are, from the settings and from where the model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aes.inference.spec import HfEngineSpec
from aes.kernels.cache import RowCache
from aes.kernels.graphs import GraphRecorder
from aes.kernels.parts import is_sharded
from aes.kernels.steps import RecordedSteps
from aes.kernels.words import WordSearch


@dataclass(eq=False)
class Memory:
    """For one batch after the other.

    Attributes:
        search: Finds the likeliest words.
        rows: Keys and values, whose memory is used again; ``None``: transformers' own cache, anew
            for each batch.
        steps: Recorded decoding steps; ``None``: each step is computed as it comes.
    """

    search: WordSearch
    rows: RowCache | None
    steps: RecordedSteps | None

    def begin(self, num_rows: int, num_columns: int) -> Any:
        """An empty cache for so many rows and about so many columns."""
        if self.rows is None:
            from transformers import DynamicCache

            return DynamicCache()
        self.rows.restart(num_rows, num_columns)
        if self.steps is not None and not self.rows.memory:
            self.steps.forget()
        return self.rows


def take_memory(
    model: Any, spec: HfEngineSpec, search: WordSearch, precision: Literal["fp32", "bf16"]
) -> Memory:
    """As the settings say, as far as the device and the way the model is spread allow it."""
    first = next(model.parameters())
    is_recorded = (
        spec.cuda_graphs == "auto"
        and spec.static_cache
        and first.device.type == "cuda"
        # Of float32 experts torch asks the card how many tokens each has, which is not recorded.
        and precision == "bf16"
        and not any(is_sharded(parameter) for parameter in model.parameters())
    )
    return Memory(
        search=search,
        rows=RowCache() if spec.static_cache else None,
        steps=RecordedSteps(model, GraphRecorder()) if is_recorded else None,
    )
