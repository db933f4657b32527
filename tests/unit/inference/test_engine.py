"""The Engine as its users meet it: order, laziness, errors, the model left as it was."""

import io
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import aes.inference.engine
from aes.inference.engine import NUM_BATCHES_AHEAD, Engine
from aes.model.spec import LoraSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example, Message

Maker = Callable[..., Any]


def test_answers_come_in_order_whatever_the_lengths(
    make_engine: Maker, builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    examples = [builder.build(essay) for essay in essays]
    forwards = list(make_engine(batch_size=3).answer(examples, scores_only=True))
    assert [a.id for a in forwards] == [e.id for e in examples]
    backwards = list(make_engine(batch_size=3).answer(examples[::-1], scores_only=True))
    assert [a.text for a in backwards[::-1]] == [a.text for a in forwards]


def test_a_batch_of_like_lengths_is_hardly_padded(
    make_engine: Maker, builder: ExampleBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [1, 60, 2, 61, 1, 62, 2, 63]
    examples = [builder.build(Essay(id=str(i), text="花" * n)) for i, n in enumerate(lengths)]
    engine: Engine = make_engine(batch_size=4)
    seen: list[list[str]] = []
    decode = engine._decode
    monkeypatch.setattr(
        engine,
        "_decode",
        lambda batch, *rest: seen.append([p.example.id for _, p in batch]) or decode(batch, *rest),
    )
    assert [a.id for a in engine.answer(examples, scores_only=True)] == list("01234567")
    assert seen == [list("0246"), list("1357")]


def test_answers_are_made_as_they_are_asked_for(
    make_engine: Maker, examples: list[Example]
) -> None:
    """Read ahead by a bounded number, and each read once."""
    taken: list[int] = []

    def source() -> Iterator[Example]:
        for i in range(100):
            taken.append(i)
            yield examples[i % 2]

    answers = make_engine(batch_size=2).answer(source(), scores_only=True)
    assert taken == []
    assert next(answers).id == "x0"
    # The batch that is drawn meanwhile has left the window as well.
    assert taken == list(range(2 * NUM_BATCHES_AHEAD + 2))
    before = threading.active_count()
    answers.close()
    assert threading.active_count() < before, "the thread that draws must end with the answers"


@pytest.mark.parametrize("at", [0, 3])
def test_an_error_of_the_source_comes_through(
    make_engine: Maker, examples: list[Example], at: int
) -> None:
    def source() -> Iterator[Example]:
        yield from examples[:at]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(make_engine().answer(source(), scores_only=True))


def test_an_error_in_drawing_comes_through(
    make_engine: Maker, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happens in another thread."""
    engine: Engine = make_engine(batch_size=1)

    def fail(*_: Any) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr(engine.renderer, "draw", fail, raising=False)
    with pytest.raises(ValueError, match="no such font"):
        list(engine.answer(examples, scores_only=True))


def test_a_page_from_a_file_is_opened_once(
    make_engine: Maker, builder: ExampleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.png"
    image = Image.new("RGB", (320, 320), "white")
    image.paste((0, 0, 0), (20, 20, 300, 300))
    image.save(page)
    engine: Engine = make_engine()
    opened = []
    real = engine.renderer.open
    monkeypatch.setattr(
        engine.renderer, "open", lambda path: opened.append(path) or real(path), raising=False
    )
    essays = [Essay(id="photo", pages=(page,)), Essay(id="typed", text="春天。")]
    examples = [builder.build(essay) for essay in essays]
    opened.clear()
    found = list(engine.answer(examples, scores_only=True))
    assert [a.id for a in found] == ["photo", "typed"]
    assert opened == [page]


def test_waiting_pages_take_bounded_memory(
    make_engine: Maker, builder: ExampleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open images are few, though far more essays may be read ahead."""
    page = tmp_path / "page.png"
    image = Image.new("RGB", (320, 320), "white")
    image.paste((0, 0, 0), (20, 20, 300, 300))
    image.save(page)
    engine: Engine = make_engine(batch_size=2)
    opened = builder.renderer.open(page)
    alive: set[int] = set()
    most = 0

    def watch(source: Any) -> Image.Image:
        nonlocal most
        made = opened.copy()
        alive.add(id(made))
        weakref.finalize(made, alive.discard, id(made))
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(engine.renderer, "open", watch, raising=False)
    example = Example(id="x", messages=(Message("user", (page, "问")),))
    area = opened.width * opened.height
    held = []
    for limit in (2 * area, 999 * area):
        monkeypatch.setattr(aes.inference.engine, "MAX_PIXELS_AHEAD", limit)
        most = 0
        assert len(list(engine.answer([example] * 18, scores_only=True))) == 18
        held.append(most)
    # Those that wait, those being drawn, those being decoded, and those just done.
    assert held[0] <= 2 + 2 + 2 + 2
    assert held[1] >= 2 * NUM_BATCHES_AHEAD + 2 + 2


@pytest.mark.parametrize("was_training", [False, True])
def test_the_models_mode_is_restored_even_after_an_error(
    make_engine: Maker,
    examples: list[Example],
    questions: list[Example],
    sure_nano: Any,
    monkeypatch: pytest.MonkeyPatch,
    was_training: bool,
) -> None:
    engine: Engine = make_engine()
    try:
        sure_nano.train(was_training)
        list(engine.answer(examples[:1], scores_only=True))
        assert sure_nano.training == was_training
        pieces = engine.stream(questions[2])
        next(pieces)
        pieces.close()
        assert sure_nano.training == was_training

        def fail(*_: Any, **__: Any) -> None:
            assert not sure_nano.training
            raise RuntimeError("no memory")

        monkeypatch.setattr(engine, "_prefill", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            list(engine.answer(examples[:1]))
        assert sure_nano.training == was_training
    finally:
        sure_nano.eval()


def test_no_gradients_are_kept_and_settings_stay_ones_own(
    make_engine: Maker, examples: list[Example], questions: list[Example]
) -> None:
    engine: Engine = make_engine()
    engine.precision = "bf16"
    for _ in engine.answer(examples[:2]):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
    for _ in engine.stream(questions[2]):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
    assert all(p.grad is None for p in engine.model.parameters())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_on_a_terminal_only(
    make_engine: Maker, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for stream, label in (
        (_Terminal(), "grading"),
        (_Terminal(), None),
        (io.StringIO(), "grading"),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        list(make_engine().answer(examples, scores_only=True, progress=label))
        list(make_engine().answer(iter(examples), scores_only=True, progress=label))
        list(make_engine().answer(iter(examples), scores_only=True, progress=label, total=9))
        shown.append(stream.getvalue())
    assert "grading" in shown[0]
    assert "4/4" in shown[0]
    assert "4/9" in shown[0]
    assert shown[1:] == ["", ""]


@pytest.fixture
def adapted(load_nano: Maker, make_lora: Maker) -> Any:
    """LoRA on attention and experts with weights that say something, and modules trained whole."""
    spec: LoraSpec = make_lora(
        targets=("attention", "experts"), modules_to_save=("visual.merger", "lm_head")
    )
    model = load_nano(spec)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_without_its_adapter_the_base_answers(
    make_engine: Maker, load_nano: Maker, adapted: Any, examples: list[Example]
) -> None:
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    engine: Engine = make_engine(model=adapted)
    base = list(make_engine(model=load_nano()).answer(examples))
    on = list(engine.answer(examples))
    with engine.without_adapter():
        off = list(engine.answer(examples))
    assert off == base
    assert [a.distributions for a in on] != [a.distributions for a in off]
    with pytest.raises(RuntimeError, match="no memory"), engine.without_adapter():
        raise RuntimeError("no memory")
    assert list(engine.answer(examples)) == on
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == trained


def test_memory_is_kept_between_calls_unless_the_model_is_trained(
    make_engine: Maker,
    examples: list[Example],
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
) -> None:
    model = load_nano(make_lora())
    engine = make_engine(model=model)
    taken = []
    take = engine._take_memory
    engine._take_memory = lambda: taken.append(take()) or taken[-1]

    def num_taken() -> int:
        list(engine.answer(examples, scores_only=True))
        return len(taken)

    assert [num_taken(), num_taken()] == [1, 2]
    model.requires_grad_(False)
    assert [num_taken(), num_taken()] == [3, 3]
    with engine.without_adapter():
        assert [num_taken(), num_taken()] == [4, 4]
    assert num_taken() == 5


def test_a_model_without_an_adapter_has_none_to_switch_off(make_engine: Maker) -> None:
    with pytest.raises(ValueError, match="no adapter"), make_engine().without_adapter():
        pass
