"""Batches against transformers' own positions and against what a batch must hold."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from aes.data.collate import IGNORED, pad_prompts
from aes.data.processor import FREE_STEP, Encoded, Processor
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example, Message, PageLayout

BLANK = PageLayout(width_px=64, height_px=96, lines=())
SIZES: list[list[tuple[int, int]]] = [
    [(64, 96)],
    [],
    [(320, 224), (64, 640)],
    [(64, 64), (96, 32), (320, 32)],
]


@pytest.fixture(scope="module")
def encoded(processor: Processor) -> list[Encoded]:
    """Samples of unlike length; pages before, between and behind text."""
    found = []
    for i, sizes in enumerate(SIZES):
        parts: list[str | PageLayout] = ["开头" * i] if i % 2 else []
        for _ in sizes:
            parts += [BLANK, "中间" * (1 + i)]
        example = Example(id=str(i), messages=(Message("user", (*parts, "结尾")),))
        found.append(processor.encode(example, sizes))
    return found


@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 1, 2, 3], [3, 0]])
def test_positions_equal_transformers(
    processor: Processor, encoded: list[Encoded], load_nano: Callable[..., Any], chosen: list[int]
) -> None:
    batch = pad_prompts(
        [encoded[i] for i in chosen],
        image_token=processor.image_token,
        pad_token=processor.pad_token,
    )
    theirs, _ = load_nano().model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=(batch["input_ids"] == processor.image_token).int(),
        image_grid_thw=batch["image_grid_thw"] if len(batch["image_grid_thw"]) else None,
        attention_mask=batch["attention_mask"],
    )
    real = batch["attention_mask"].bool().expand(3, -1, -1)
    assert torch.equal(batch["position_ids"][real], theirs[real])


def test_padding_is_on_the_right_and_masked(processor: Processor, encoded: list[Encoded]) -> None:
    batch = pad_prompts(encoded, image_token=processor.image_token, pad_token=processor.pad_token)
    for i, e in enumerate(encoded):
        n = len(e.input_ids)
        assert batch["input_ids"][i, :n].tolist() == e.input_ids
        assert set(batch["input_ids"][i, n:].tolist()) <= {processor.pad_token}
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (
            batch["input_ids"].shape[1] - n
        )
    grids = [[1, h // 16, w // 16] for sizes in SIZES for w, h in sizes]
    assert batch["image_grid_thw"].tolist() == grids


def test_labels_stand_on_answer_and_end_alone(
    processor: Processor,
    builder: ExampleBuilder,
    essays: tuple[Essay, ...],
    make_batch: Callable[..., Any],
) -> None:
    chosen = essays[:4]
    batch = make_batch(chosen)
    for i, essay in enumerate(chosen):
        kept = batch["labels"][i][batch["labels"][i] != IGNORED]
        answer = "".join(text for text, _ in builder.build(essay).answer)
        assert processor.tokenizer.decode(kept.tolist()) == answer + "<|im_end|>"
        assert torch.equal(kept, batch["input_ids"][i][batch["labels"][i] != IGNORED])
        # One run of tokens, up to the last that is not padding.
        places = (batch["labels"][i] != IGNORED).nonzero()[:, 0].tolist()
        last = int(batch["attention_mask"][i].sum()) - 1
        assert places == list(range(last + 1 - len(kept), last + 1))
    assert int(batch["num_supervised_in_step"]) == int((batch["labels"] != IGNORED).sum())


def test_steps_stand_beside_their_tokens(
    processor: Processor, essays: tuple[Essay, ...], make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(essays[:4])
    at_score = batch["steps"] >= 0
    assert int(at_score.sum()) > 0
    for token, step in zip(
        batch["labels"][at_score].tolist(), batch["steps"][at_score].tolist(), strict=True
    ):
        assert token in processor.guide.table[step].tolist()
    assert set(batch["steps"][batch["labels"] == IGNORED].tolist()) == {FREE_STEP}


def test_patches_follow_the_order_of_the_samples(
    essays: tuple[Essay, ...], make_batch: Callable[..., Any]
) -> None:
    whole = make_batch(essays[:3])
    alone = [make_batch([essay]) for essay in essays[:3]]
    assert torch.equal(whole["pixel_values"], torch.cat([b["pixel_values"] for b in alone]))
    assert torch.equal(whole["image_grid_thw"], torch.cat([b["image_grid_thw"] for b in alone]))
    assert len(whole["pixel_values"]) == int(whole["image_grid_thw"].prod(dim=1).sum())
    assert whole["pixel_values"].dtype == torch.float32
    assert np.isclose(whole["pixel_values"].max(), 1.0)
