"""A torch data set over prepared rows that draws the pages when they are asked for.

Pages whose features are kept are not drawn.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from aes.data.feature_store import FeatureReader
from aes.data.prepared import Prepared, encoded_row
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
        reader: Knows whose pages' features are kept; ``None``: nobody's are.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        renderer: PageRenderer,
        processor: Processor,
        reader: FeatureReader | None = None,
    ) -> None:
        self.prepared = prepared
        self.rows = prepared.rows
        self.renderer = renderer
        self.processor = processor
        self.reader = reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        row = self.rows[pick.index]
        example: Example = pickle.loads(row["example"])
        encoded = encoded_row(row)
        item: dict[str, Any] = {
            "encoded": encoded,
            "patches": np.zeros((0, 1536), np.float32),
            "num_supervised_in_step": pick.num_supervised_in_step,
            "is_filler": pick.is_filler,
        }
        if self.reader is not None and encoded.grids:
            item["pages"] = self.reader.look_up(pick.index, example.pages, encoded.grids)
            if not item["pages"].is_drawn:
                return item
        item["patches"] = draw_patches(example, self.renderer, self.processor)[0]
        return item

    def drawn(self) -> PageDataset:
        """The same samples, their pages drawn whatever is kept."""
        return PageDataset(self.prepared, renderer=self.renderer, processor=self.processor)


def draw_patches(
    example: Example, renderer: PageRenderer, processor: Processor
) -> tuple[np.ndarray, np.ndarray]:
    """Patches and grids of all pages of ``example``; see ``Processor.patches``."""
    if not example.pages:
        return np.zeros((0, 1536), np.float32), np.zeros((0, 3), np.int64)
    return processor.patches([renderer.image(page) for page in example.pages])
