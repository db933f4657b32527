"""Keys and values in place: what is read is what transformers' own cache would give."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from aes.kernels import cache as cache_module
from aes.kernels.cache import COLUMNS, RowCache
from aes.records import Example

Maker = Callable[..., Any]
ROWS, HEADS, SIZE, LAYERS = 5, 2, 4, 3


def _write(cache: Any, num_rows: int, num_tokens: int, seed: int) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for layer in range(LAYERS):
        keys, values = torch.randn(2, num_rows, HEADS, num_tokens, SIZE, generator=generator)
        found.append(cache.update(keys, values, layer))
    return found


def _assert_alike(ours: list[tuple[Any, Any]], theirs: list[tuple[Any, Any]]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert torch.equal(our[0], their[0])
        assert torch.equal(our[1], their[1])


@pytest.mark.parametrize("room", [0, 40, 1000])
def test_it_reads_as_transformers_cache_does(room: int) -> None:
    ours, theirs = RowCache(), DynamicCache()
    ours.restart(ROWS, 30 + room)
    for seed, num_tokens in enumerate([30, 7, 1, 200, 1]):
        _assert_alike(_write(ours, ROWS, num_tokens, seed), _write(theirs, ROWS, num_tokens, seed))
        assert ours.get_seq_length() == theirs.get_seq_length()
    ours.crop(-3)
    theirs.crop(-3)
    for rows in ([0, 4, 2], [2, 1], [0]):
        ours.batch_select_indices(torch.tensor(rows))
        theirs.batch_select_indices(torch.tensor(rows))
        number = len(rows)
        _assert_alike(_write(ours, number, 2, 9), _write(theirs, number, 2, 9))


def test_the_next_batch_takes_over_the_memory_where_it_suffices() -> None:
    cache = RowCache()
    cache.restart(4, 100)
    _write(cache, 4, 90, 0)
    memory = cache.memory
    cache.restart(3, 120)
    ours, theirs = _write(cache, 3, 110, 1), _write(DynamicCache(), 3, 110, 1)
    _assert_alike(ours, theirs)
    assert cache.memory is memory
    assert cache.num_columns == COLUMNS
    cache.restart(5, 120)  # more rows
    _write(cache, 5, 3, 1)
    assert cache.memory is not memory


def test_memory_grows_a_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = RowCache()
    cache.restart(2, 20)
    _write(cache, 2, 10, 0)
    before = [weakref.ref(keys) for keys, _ in cache.memory]
    left: list[int] = []
    grow = cache_module._grown

    def grown(old: Any, *sizes: int) -> Any:
        left.append(sum(keys() is not None for keys in before))
        return grow(old, *sizes)

    monkeypatch.setattr(cache_module, "_grown", grown)
    cache.reserve(COLUMNS)
    assert cache.num_columns == 2 * COLUMNS
    assert left == [3, 3, 2, 2, 1, 1]


def test_written_at_a_column_all_columns_are_read() -> None:
    cache = RowCache()
    cache.restart(2, 20)
    _write(cache, 2, 10, 0)
    cache.column = torch.tensor([10])
    for keys, _ in _write(cache, 2, 1, 1):
        assert keys.shape[2] == COLUMNS
        assert keys[:, :, 10].abs().sum() > 0
        assert keys[:, :, 11:].eq(0).all()


@pytest.mark.parametrize("scores_only", [True, False])
def test_answers_are_the_same_with_transformers_cache(
    make_engine: Maker, examples: list[Example], scores_only: bool
) -> None:
    found = []
    for static_cache in (True, False):
        engine = make_engine(engine={"static_cache": static_cache}, max_feedback_tokens=12)
        found.append(list(engine.answer(examples, scores_only=scores_only)))
    for ours, theirs in zip(*found, strict=True):
        assert ours.text == theirs.text
        for name, shares in ours.distributions.items():
            assert shares == pytest.approx(theirs.distributions[name], abs=1e-5)


def test_free_answers_longer_than_the_room_are_the_same(
    make_engine: Maker, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory grows in the middle of an answer."""
    monkeypatch.setattr("aes.kernels.cache.COLUMNS", 4)
    monkeypatch.setattr("aes.inference.engine.Engine._room", lambda *_: 0)
    texts = [
        [a.text for a in make_engine(engine={"static_cache": way}).answer(questions)]
        for way in (True, False)
    ]
    assert texts[0] == texts[1]
