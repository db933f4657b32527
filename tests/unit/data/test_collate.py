"""Batches against transformers' own positions and against what a batch must hold."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aes.data.branches import add_branches
from aes.data.collate import IGNORED, Collator, pad_prompts
from aes.data.guide import ScoreGuide
from aes.data.processor import FREE_STEP, Encoded, Processor
from aes.prompt import AnswerSchema
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


@pytest.fixture(scope="module")
def branched(processor: Processor) -> tuple[Processor, Any, int]:
    """A score of 105 among 0 to 109, and one of 2, with branches; and the length without."""
    processor = copy.copy(processor)
    processor.guide = ScoreGuide(processor.tokenizer, {"a": (0, 109)})
    items = []
    for score in (105, 2):
        answer = AnswerSchema(ranges=processor.guide.ranges, feedback=False).segments({"a": score})
        example = Example(id="x", messages=(Message("user", ("题",)),), answer=answer)
        encoded = processor.encode(example, [])
        items.append(
            {"encoded": encoded, "patches": [], "num_supervised_in_step": 1, "is_filler": False}
        )
    batch = Collator(image_token=processor.image_token, pad_token=processor.pad_token)(items)
    return processor, add_branches(batch, processor.guide), batch["input_ids"].shape[1]


def test_branches_are_the_digits_that_gold_does_not_take(
    branched: tuple[Processor, Any, int],
) -> None:
    processor, batch, length = branched
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    decode = processor.tokenizer.decode
    # Gold 105 writes 1 and 10 itself; gold 2 neither, so 10 hangs on the branch of 1.
    assert decode(ids[0, length:][real[0, length:]]) == "23456789"
    assert decode(ids[1, length:][real[1, length:]]) == "134567890"
    assert batch["gold_scores"].tolist() == [[105], [2]]
    for row in range(2):
        sees = batch["branch_mask"][row, 0]
        read = {
            prefix: decode(ids[row, sees[place]])
            for prefix, place in zip(
                processor.guide.nodes["a"], batch["node_places"][row, 0].tolist(), strict=True
            )
        }
        assert all(text == read[""] + prefix for prefix, text in read.items())
        assert read[""].endswith('{"scores":{"a":')


def test_a_branch_stands_where_its_digit_would(branched: tuple[Processor, Any, int]) -> None:
    processor, batch, _ = branched
    for row in range(2):
        places = batch["node_places"][row, 0]
        root = batch["position_ids"][:, row, places[0]]
        for prefix, place in zip(processor.guide.nodes["a"], places, strict=True):
            assert torch.equal(batch["position_ids"][:, row, place], root + len(prefix))


def test_nobody_sees_a_branch_but_what_hangs_on_it(branched: tuple[Processor, Any, int]) -> None:
    _, batch, length = branched
    sees = batch["branch_mask"][:, 0]
    assert not sees[:, :length, length:].any()
    assert sees.any(dim=2).all()
    inner = sees[:, length:, length:].sum(dim=2)
    assert inner[0].tolist() == [1] * 9  # the ninth fills up
    assert sorted(inner[1].tolist()) == [1] * 8 + [2]
    real = batch["attention_mask"].bool()
    seen_padding = sees[1, real[1]][:, ~real[1]]
    assert not seen_padding.any()


def test_node_steps_are_the_choices_at_the_nodes(branched: tuple[Processor, Any, int]) -> None:
    processor, batch, _ = branched
    guide = processor.guide
    for prefix, step in zip(guide.nodes["a"], batch["node_steps"][0, 0].tolist(), strict=True):
        assert guide.place(step) == ("a", False, prefix)


def test_a_packed_row_is_the_samples_end_to_end(
    essays: tuple[Essay, ...], make_batch: Callable[..., Any]
) -> None:
    padded, packed = make_batch(essays[:4]), make_batch(essays[:4], is_packed=True)
    lengths = padded["attention_mask"].sum(dim=1)
    assert torch.equal(packed["sequence_lengths"], lengths)
    assert "attention_mask" not in packed
    real = padded["attention_mask"].bool()
    for name in ("input_ids", "labels", "steps"):
        assert torch.equal(packed[name][0], padded[name][real]), name
    assert torch.equal(packed["position_ids"][1:, 0], padded["position_ids"][:, real])
    places = torch.cat([torch.arange(int(length)) for length in lengths])
    assert torch.equal(packed["position_ids"][0, 0], places)
    for name in ("pixel_values", "image_grid_thw", "num_tokens", "num_supervised_in_step"):
        assert torch.equal(packed[name], padded[name]), name
    assert int(packed["num_tokens"]) == packed["input_ids"].numel()


@pytest.mark.parametrize("is_packed", [False, True])
def test_nothing_of_a_filler_counts(
    encoded: list[Encoded], processor: Processor, is_packed: bool
) -> None:
    one = encoded[1]
    answer = one.input_ids[-3:]
    one = replace(one, num_prompt=len(one.input_ids) - 3, steps=[FREE_STEP, 0, FREE_STEP])
    items = [
        {"encoded": one, "patches": [], "num_supervised_in_step": 3, "is_filler": is_filler}
        for is_filler in (False, True)
    ]
    collate = Collator(
        image_token=processor.image_token, pad_token=processor.pad_token, is_packed=is_packed
    )
    batch = collate(items)
    assert int(batch["num_tokens"]) == len(one.input_ids)
    assert batch["labels"][batch["labels"] != IGNORED].tolist() == list(answer)
    assert (batch["steps"] == 0).sum() == 1
