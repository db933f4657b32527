"""Page images -> the patches of pixels that Qwen3-VL takes, equal to the bit with transformers'.

No torchvision, and the image processor of transformers only says what sizes a model takes: pages
come at their final size and are cut here, in a third of its time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def load_image_processor(folder: Path, min_pixels: int, max_pixels: int) -> Any:
    """The image processor with the checkpoint's limits, or these where it has none."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        size |= json.loads(path.read_text(encoding="utf-8")).get("size") or {}
    return Qwen2VLImageProcessorPil(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        size=size,
    )


def refuse_resize(image: Image.Image, size: Mapping[str, int]) -> None:
    """Refuse a page that the image processor would resize.

    Args:
        size: Its limits, as it has them.

    Raises:
        ValueError: If it would.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = smart_resize(
        image.height,
        image.width,
        factor=32,
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
    )
    if (width, height) != image.size:
        raise ValueError(
            f"a page of {image.width} x {image.height} px would be resized to "
            f"{width} x {height} by the model's image processor; set "
            "model.min_pixels and model.max_pixels to the checkpoint's limits"
        )


def cut_patches(image: Image.Image) -> np.ndarray:
    """Patches of a page with sides divisible by 32, in 2 x 2 blocks, each frame doubled.

    Source: Qwen2VLImageProcessorPil of transformers, to which it is tested equal to the bit.
    """
    pixels = np.asarray(image.convert("RGB") if image.mode != "RGB" else image)
    rows, columns = image.height // 32, image.width // 32
    blocks = pixels.reshape(rows, 2, 16, columns, 2, 16, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    # Divided in single precision, each of the 256 levels is the one that transformers computes.
    values = blocks.reshape(-1, 3, 1, 256).astype(np.float32)
    values /= np.float32(255)
    values -= np.float32(0.5)
    values *= np.float32(2)
    return np.repeat(values, 2, axis=2).reshape(len(values), -1)
