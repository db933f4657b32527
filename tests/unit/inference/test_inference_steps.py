"""Steps over memory that stays where it is, with a recorder that replays by running again."""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aes.inference.engine import Engine
from aes.inference.memory import Memory
from aes.kernels.cache import COLUMNS, RowCache
from aes.kernels.forward import hidden_states
from aes.kernels.steps import LEAST_STEPS, NUM_WARMUPS, RecordedSteps, Run
from aes.records import Example

Maker = Callable[..., Any]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Function that makes an engine record its steps; gives a list of how many each recording ran.

    As a real recorder does, this one runs the work a few times before.
    """

    def record_in(engine: Engine, *, fails_at: tuple[int, ...] = ()) -> list[int]:
        replays: list[int] = []

        def record(run: Run) -> Run:
            number = len(replays)
            replays.append(0)
            run()
            if number in fails_at:
                raise RuntimeError("operation not permitted when stream is capturing")
            run()

            def replay() -> None:
                replays[number] += 1
                run()

            return replay

        take = engine._take_memory

        def take_recorded() -> Memory:
            memory = take()
            memory.steps = RecordedSteps(engine.model, record)
            return memory

        monkeypatch.setattr(engine, "_take_memory", take_recorded)
        return replays

    return record_in


def _texts(engine: Engine, examples: list[Example]) -> list[str]:
    return [answer.text for answer in engine.answer(examples)]


def test_recorded_steps_write_the_same(
    make_engine: Maker,
    examples: list[Example],
    questions: list[Example],
    recorded: Callable[..., list[int]],
) -> None:
    keys = {"batch_size": 4, "max_feedback_tokens": 20, "max_answer_tokens": 12}
    engine, plain = make_engine(**keys), make_engine(**keys)
    replays = recorded(engine)
    for asked in (examples, questions):
        assert _texts(engine, asked) == _texts(plain, asked)
    assert sum(replays) > 20


def test_one_recording_serves_all_batches_of_like_size(
    make_engine: Maker, examples: list[Example], recorded: Callable[..., list[int]]
) -> None:
    engine = make_engine(batch_size=2, max_feedback_tokens=10)
    asking = [example for example in examples if example.asks_feedback] * 3
    plain = _texts(make_engine(batch_size=2, max_feedback_tokens=10), asking)
    replays = recorded(engine)
    assert _texts(engine, asking) == plain
    assert len(replays) < sum(replays) / 5


def test_as_rows_leave_smaller_steps_take_over(
    make_engine: Maker,
    questions: list[Example],
    steer: Maker,
    processor: Any,
    recorded: Callable[..., list[int]],
) -> None:
    """Rows end one after the other, and those that go on are not mixed up."""

    def end_early(logits: Any) -> Any:
        # Of a few rows the likeliest word decides whether the text is over.
        changed = logits.clone()
        over = logits.argmax(dim=-1) % 3 == 0
        changed[over, processor.end_token] = logits.max() + 1
        return changed

    steer(end_early)
    keys = {"batch_size": 4, "max_answer_tokens": 30}
    engine = make_engine(**keys)
    replays = recorded(engine)
    plain = _texts(make_engine(**keys), questions)
    assert len({len(text) for text in plain}) > 2
    assert _texts(engine, questions) == plain
    assert len(replays) > 1


@pytest.mark.parametrize("fails_at", [(0,), (1,)])
def test_what_cannot_be_recorded_is_computed_and_said_once(
    make_engine: Maker,
    questions: list[Example],
    recorded: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
    fails_at: tuple[int, ...],
) -> None:
    keys = {"batch_size": 2, "max_answer_tokens": 20}
    engine = make_engine(**keys)
    plain = _texts(make_engine(**keys), questions * 2)
    recorded(engine, fails_at=fails_at)
    with caplog.at_level(logging.WARNING):
        assert _texts(engine, questions * 2) == plain
    said = [r for r in caplog.records if "cannot be recorded" in r.message]
    assert len(said) <= 1
    assert said or fails_at != (0,)


def _record(run: Run) -> Run:
    for _ in range(NUM_WARMUPS):
        run()
    return run


def _begun(model: Any, cache: RowCache, num_rows: int, length: int) -> RecordedSteps:
    """Steps behind prompts of so many rows."""
    cache.restart(num_rows, length)
    positions = torch.arange(length).expand(3, num_rows, -1)
    ids = torch.full((num_rows, length), 7)
    batch = {"input_ids": ids, "position_ids": positions, "attention_mask": None}
    hidden_states(model, batch, cache=cache)
    steps = RecordedSteps(model, _record)
    mask = torch.ones(num_rows, length, dtype=torch.bool)
    assert steps.begin(cache, mask, torch.full((num_rows,), length), LEAST_STEPS)
    return steps


@torch.no_grad()
def test_a_size_that_the_last_step_records_stays_within_memory(sure_nano: Any) -> None:
    """Memory would end with that step: what is run before recording goes beyond."""
    steps = _begun(sure_nano, RowCache(), 2, COLUMNS - LEAST_STEPS)
    for _ in range(LEAST_STEPS - 1):
        steps.advance([5, 5])
    steps.select(torch.tensor([1]))
    assert len(steps.advance([5]).words) == 1


@torch.no_grad()
def test_memory_that_is_too_small_for_a_batch_is_given_back(sure_nano: Any) -> None:
    cache = RowCache()
    steps = _begun(sure_nano, cache, 2, 20)
    keys = weakref.ref(cache.memory[0][0])
    memory = Memory(search=None, rows=cache, steps=steps)  # type: ignore[arg-type]
    memory.begin(2, 20)
    assert keys() is not None
    memory.begin(2, 10 * COLUMNS)
    assert keys() is None


def test_few_steps_are_not_recorded(
    make_engine: Maker, examples: list[Example], recorded: Callable[..., list[int]]
) -> None:
    engine = make_engine(max_feedback_tokens=4)
    replays = recorded(engine)
    _texts(engine, examples)
    assert replays == []
