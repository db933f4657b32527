"""A torch data set over prepared rows that draws the pages when they are asked for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from aes.data.prepare import Prepared, encoded_row
from aes.data.processor import Processor
from aes.data.sampler import Pick
from aes.page import PageRenderer
from aes.records import Example


class PageDataset(Dataset[dict[str, Any]]):
    """Items for training; indexed by what the sampler picks.

    Args:
        prepared: Tokenised samples.
        renderer: Draws and opens pages.
        processor: Cuts them into patches.
    """

    def __init__(self, prepared: Prepared, *, renderer: PageRenderer, processor: Processor) -> None:
        self.rows = prepared.rows
        self.renderer = renderer
        self.processor = processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        row = self.rows[pick.index]
        example: Example = pickle.loads(row["example"])
        return {
            "encoded": encoded_row(row),
            "patches": draw_patches(example, self.renderer, self.processor)[0],
            "num_supervised_in_step": pick.num_supervised_in_step,
            "is_filler": pick.is_filler,
        }


def draw_patches(
    example: Example, renderer: PageRenderer, processor: Processor
) -> tuple[np.ndarray, np.ndarray]:
    """Patches and grids of all pages of ``example``; see ``Processor.patches``."""
    if not example.pages:
        return np.zeros((0, 1536), np.float32), np.zeros((0, 3), np.int64)
    return processor.patches([renderer.image(page) for page in example.pages])
