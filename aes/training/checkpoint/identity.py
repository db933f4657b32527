"""What a run learns from and what it starts with -> digests that change when those do.

Content counts, not names or dates, so that data and weights may be moved and copied.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

from aes.data.prepared import Prepared
from aes.model.trained import MODEL_FOLDER, read_grading_facts
from aes.page import image_bytes
from aes.records import Example, Page, PageLayout, PdfPage, TableImage

_BLOCKS = 64
_BLOCK_BYTES = 65536


def samples_digest(prepared: Prepared) -> str:
    """SHA-256 over the samples of a part in their order: ids, tokens, layouts and image files.

    Of an image file its size counts, not its content.
    """
    digest = hashlib.sha256()
    if "digest" in prepared.rows.column_names:  # of each sample, made when it was tokenised
        digest.update(b"".join(prepared.column("digest")))
        return digest.hexdigest()
    for row in prepared.rows:
        example: Example = pickle.loads(row["example"])
        told = (row["id"], row["input_ids"], row["num_prompt"], row["steps"], row["grids"])
        digest.update(repr(told).encode())
        digest.update(repr([_page_identity(page) for page in example.pages]).encode())
        digest.update(repr(sorted(example.scores.items())).encode())
    return digest.hexdigest()


def _page_identity(page: Page) -> object:
    if isinstance(page, PageLayout):
        return page
    if isinstance(page, PdfPage):
        return page.path.name, page.number, page.path.stat().st_size
    if isinstance(page, TableImage):
        return page.column, len(image_bytes(page))
    return page.name, page.stat().st_size


def require_base(trained: Path, base: Path) -> None:
    """Check that an adapter stands beside the weights that it was trained on.

    Args:
        trained: Folder of what a run trained; where it holds all weights, it needs no base.
        base: Folder of the checkpoint.

    Raises:
        ValueError: If the run wrote down another base, or its ``grading.json`` cannot be read.
    """
    if trained.name == MODEL_FOLDER:
        return
    expected = read_grading_facts(trained.parent).get("base_digest")
    if expected is not None and expected != weights_digest(base):
        raise ValueError(
            f"{base} holds other weights than those that the adapter in {trained} was trained on; "
            "give the checkpoint of its training (model.path=DIR, in exports --model-path DIR)"
        )


def weights_digest(folder: Path) -> str:
    """SHA-256 over a checkpoint's configuration and samples of its weights.

    Of each weight file its size counts, and blocks of 64 KiB at 64 places: two checkpoints that
    differ in a few numbers only may look alike, two trainings never do.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                for place in range(_BLOCKS):
                    file.seek(size * place // _BLOCKS)
                    digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
