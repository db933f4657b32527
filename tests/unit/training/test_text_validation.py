"""Answers that are texts: their loss over a whole part, and labels that the model chooses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score

from aes.corpus.instructions import AlpacaColumns, AlpacaData
from aes.data import BatchingSpec
from aes.data.collate import Collator
from aes.data.datamodule import EssayDataModule
from aes.data.dataset import PageDataset
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.data.sampler import Pick
from aes.data.stream import prepare_stream
from aes.inference import DecodingSpec, HfEngineSpec
from aes.inference.engine import Engine
from aes.kernels.forward import hidden_states, logits
from aes.page import PageRenderer, PageSpec
from aes.training.validation import TextValidation

LABELS = ("yes", "no", "not sure")


class SeveralRanks:
    """What the first of several ranks hears, once the others have been judged."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def gather(self, value: Any) -> list[Any]:
        self.told.append(value)
        return self.told


@pytest.fixture(scope="module")
def page(read_conf: Callable[..., dict[str, Any]], nano_page: PageSpec) -> PageSpec:
    return PageSpec(**read_conf("page/picture", min_pixels=nano_page.min_pixels))


@pytest.fixture(scope="module")
def part(
    tmp_path_factory: pytest.TempPathFactory,
    read_conf: Callable[..., dict[str, Any]],
    make_processor: Callable[..., Processor],
    page: PageSpec,
) -> Prepared:
    """Seven labelled samples of unlike lengths."""
    folder = tmp_path_factory.mktemp("texts")
    records = [
        {"instruction": "why " * (1 + i % 4) + str(i), "input": "", "output": LABELS[i % 3]}
        for i in range(7)
    ]
    (folder / "data.json").write_text(json.dumps(records))
    plain = read_conf("data/alpaca", path=folder / "data.json", labels=LABELS, split_seed=1)
    columns = {k: v for k, v in plain.pop("columns").items() if k != "_target_"}
    data = AlpacaData(**plain, columns=AlpacaColumns(**columns))
    return prepare_stream(
        data,
        processor=make_processor({}),
        renderer=PageRenderer(page),
        cache=folder / "cache",
        label="preparing",
    ).whole()


@pytest.fixture(scope="module")
def engine(
    load_nano: Callable[..., Any],
    make_processor: Callable[..., Processor],
    page: PageSpec,
    read_conf: Callable[..., dict[str, Any]],
) -> Engine:
    return Engine(
        model=load_nano().eval(),
        processor=make_processor({}),
        renderer=PageRenderer(page),
        decoding=DecodingSpec(**read_conf("decoding/expected", batch_size=2)),
        precision="fp32",
        spec=HfEngineSpec(**read_conf("engine/hf")),
    )


def _batches(
    part: Prepared, engine: Engine, batching: BatchingSpec, *, rank: int = 0, num_ranks: int = 1
) -> list[Any]:
    data = EssayDataModule(
        train=part,
        val=part,
        renderer=engine.renderer,
        processor=engine.processor,
        global_batch_size=4,
        micro_batch_size=2,
        batching=batching,
        decoding_batch_size=3,
        num_workers=0,
        seed=1,
        validates_texts=True,
        rank=rank,
        num_ranks=num_ranks,
    )
    return list(data.val_dataloader())


def _judge(
    batches: list[list[Any]], engine: Engine, labels: tuple[str, ...] = ()
) -> dict[str, float]:
    """Of one rank after the other, as the last of them would say it."""
    ranks, found = SeveralRanks(), {}
    for own in batches:
        validation = TextValidation(engine, labels=labels, precision="fp32", ranks=ranks)  # type: ignore[arg-type]
        validation.begin()
        with torch.no_grad():
            for batch in own:
                validation.step(batch)
        found = validation.end()
    return found


@pytest.fixture(scope="module")
def expected_loss(part: Prepared, engine: Engine) -> float:
    """Each sample by itself, with plain logits."""
    items = PageDataset(part, renderer=engine.renderer, processor=engine.processor)
    collate = Collator(
        image_token=engine.processor.image_token, pad_token=engine.processor.pad_token
    )
    total, num = 0.0, 0
    for i in range(len(part.rows)):
        batch = collate([items[Pick(i, 1, False)]])
        with torch.no_grad():
            found = logits(engine.model, hidden_states(engine.model, batch)[0, :-1])
        targets = batch["labels"][0, 1:]
        total += float(torch.nn.functional.cross_entropy(found, targets, reduction="sum"))
        num += int((targets != -100).sum())
    return total / num


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_the_loss_is_over_all_tokens_on_any_ranks(
    part: Prepared,
    engine: Engine,
    make_batching: Callable[..., BatchingSpec],
    expected_loss: float,
    layout: str,
    num_ranks: int,
) -> None:
    batching = make_batching(layout=layout)
    batches = [
        _batches(part, engine, batching, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    passes = {tuple(len(batch.micro_batches) for batch in own) for own in batches}
    assert len(passes) == 1  # ranks make as many
    found = _judge(batches, engine)
    assert found.keys() == {"loss"}
    assert found["loss"] == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_likeliest_label_is_chosen(
    part: Prepared, engine: Engine, make_batching: Callable[..., BatchingSpec], num_ranks: int
) -> None:
    batching = make_batching()
    batches = [
        _batches(part, engine, batching, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    found = _judge(batches, engine, LABELS)
    examples = list(part.examples())
    gold = [example.answer[0][0] for example in examples]
    pred = [_likeliest(example, engine) for example in examples]
    num_right = sum(p == g for p, g in zip(pred, gold, strict=True))
    assert found["accuracy"] == pytest.approx(num_right / len(gold))
    assert found["f1"] == pytest.approx(f1_score(gold, pred, average="macro", zero_division=0))


def _likeliest(example: Any, engine: Engine) -> str:
    """By the probability of each whole label with its end token, one pass each."""
    processor = engine.processor
    shares = []
    for label in LABELS:
        prompt = processor.encode(type(example)(**{**vars(example), "answer": ((label, "*"),)}), [])
        ids = torch.tensor([prompt.input_ids])
        batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(ids.shape[1]).expand(3, 1, -1),
        }
        with torch.no_grad():
            found = logits(engine.model, hidden_states(engine.model, batch)[0]).log_softmax(dim=1)
        at = torch.arange(prompt.num_prompt, ids.shape[1])
        shares.append(float(found[at - 1, ids[0, at]].sum()))
    return LABELS[shares.index(max(shares))]


def test_nothing_to_judge_is_no_crash(engine: Engine) -> None:
    assert math.isnan(_judge([[]], engine, LABELS)["accuracy"])
    assert _judge([[]], engine)["loss"] == 0.0
