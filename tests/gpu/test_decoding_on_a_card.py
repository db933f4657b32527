"""Decoding steps recorded as CUDA graphs: the answers of the CPU, and of steps as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from aes.data.processor import Processor
from aes.inference import DecodingSpec, HfEngineSpec
from aes.inference.engine import Engine
from aes.kernels.graphs import GraphRecorder
from aes.model import KernelSpec, LoraSpec, ModelSpec
from aes.model.kernels import apply_kernels, resolve_kernels
from aes.model.loading import load_model
from aes.prompt.build import ExampleBuilder
from aes.records import Essay

if TYPE_CHECKING:
    from conftest import Cards

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def answer(
    cards: Cards,
    nano_spec: ModelSpec,
    session_cache: Any,
    make_lora: Callable[..., LoraSpec],
    processor: Processor,
    builder: ExampleBuilder,
    read_conf: Callable[..., dict[str, Any]],
) -> Callable[..., list[str]]:
    """Function that answers seven essays of unlike lengths in batches of four."""
    essays = [
        Essay(id=str(i), text="我们去公园看花。" * (1 + 9 * i), title="", comment="好")
        for i in range(7)
    ]

    def answer(
        accelerator: Literal["cpu", "cuda"], precision: Literal["fp32", "bf16"], **keys: Any
    ) -> list[str]:
        adapter = make_lora()
        model = load_model(
            nano_spec,
            adapter,
            cache=session_cache,
            precision=precision,
            accelerator=accelerator,
            gradient_checkpointing="none",
            seed=1,
        )
        kernels = KernelSpec(**read_conf("kernels/fast"))
        apply_kernels(model, resolve_kernels(kernels, nano_spec, adapter))
        engine = Engine(
            model=model,
            processor=processor,
            renderer=builder.renderer,
            decoding=DecodingSpec(
                **read_conf("decoding/expected", batch_size=4, max_feedback_tokens=40)
            ),
            precision=precision,
            spec=HfEngineSpec(**read_conf("engine/hf", **keys)),
        )
        examples = [builder.build(essay) for essay in essays]
        return [found.text for found in engine.answer(examples)]

    return answer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_steps_write_what_steps_as_they_come_write(
    cards: Cards,
    answer: Callable[..., list[str]],
    precision: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded: list[int] = []
    record = GraphRecorder.__call__
    monkeypatch.setattr(
        GraphRecorder, "__call__", lambda self, run: (recorded.append(1), record(self, run))[1]
    )
    with caplog.at_level(logging.WARNING):
        found = answer(cards.accelerator, precision)
    assert bool(recorded) == (cards.accelerator == "cuda" and precision == "bf16")
    assert "cannot be recorded" not in caplog.text
    assert found == answer(cards.accelerator, precision, cuda_graphs="never")


def test_graphs_share_memory_and_a_failed_one_leaves_the_stream(cards: Cards) -> None:
    if cards.accelerator == "cpu":
        pytest.skip("a CPU has no graphs")
    record, current = GraphRecorder(), torch.cuda.current_stream()
    given = torch.ones(8, device="cuda")
    made: dict[int, torch.Tensor] = {}

    def work(size: int) -> None:
        made[size] = (given[:size] * size).cumsum(0) + 1

    for _ in range(2):  # the second time behind the end of all graphs, and of their pool
        replays = {size: record(partial(work, size)) for size in (2, 8, 4)}
        assert len({graph.pool() for graph in record._graphs}) == 1
        for size in (8, 2, 4, 8):
            replays[size]()
            wanted = torch.arange(1, size + 1, device="cuda") * size + 1.0
            torch.testing.assert_close(made[size], wanted)
        del replays
        made.clear()
    with pytest.raises(RuntimeError):
        record(lambda: made.update({0: torch.tensor(float(given.sum()))}))
    assert torch.cuda.current_stream() == current


def test_a_card_answers_as_the_cpu_does(cards: Cards, answer: Callable[..., list[str]]) -> None:
    was_allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        found = answer(cards.accelerator, "fp32")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = was_allowed
    wanted = answer("cpu", "fp32")
    # A near tie may fall the other way; whole answers do not.
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) >= len(wanted) - 1
