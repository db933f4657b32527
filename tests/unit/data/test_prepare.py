"""Tokenised samples: cached by what shapes them, never cut, and counted where they do not fit."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.data import BatchingSpec
from aes.data.datamodule import EssayDataModule
from aes.data.prepare import prepare
from aes.data.prepared import Prepared, encoded_row
from aes.data.processor import Processor
from aes.page import PageSpec
from aes.page.font import font_path
from aes.prompt import PromptSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, PageLayout
from aes.rubric import Rubric

IMAGE, IM_END = 151655, 151645
LONG = Essay(id="long", text="今天天气很好。" * 200, scores={"content": 9, "language": 9})


@pytest.fixture
def run(builder: ExampleBuilder, processor: Processor, tmp_path: Path) -> Callable[..., Prepared]:
    def prepare_with(essays: Any, **changes: Any) -> Prepared:
        plain: dict[str, Any] = {
            "builder": builder,
            "processor": processor,
            "max_tokens": 4096,
            "on_overlong": "error",
            "cache": tmp_path,
            "label": "train",
        }
        return prepare(essays, **plain | changes)

    return prepare_with


def _files(cache: Path) -> dict[str, int]:
    """Names and inodes, which another file of the name would not have."""
    return {p.name: p.stat().st_ino for p in (cache / "samples").iterdir()}


def test_rows_hold_what_the_processor_gives(
    run: Callable[..., Prepared],
    essays: tuple[Essay, ...],
    builder: ExampleBuilder,
    processor: Processor,
) -> None:
    prepared = run(essays[:3])
    assert list(prepared.examples()) == [builder.build(essay) for essay in essays[:3]]
    assert prepared.rows["id"][:] == ["e0", "e1", "e2"]
    for i, example in enumerate(prepared.examples()):
        sizes = [builder.renderer.size(page) for page in example.pages]
        encoded = processor.encode(example, sizes)
        assert encoded_row(prepared.rows[i]) == encoded
        assert prepared.column("num_tokens")[i] == len(encoded.input_ids)
        assert prepared.column("num_supervised")[i] == len(encoded.steps)
        assert prepared.column("num_image_tokens")[i] == encoded.input_ids.count(IMAGE)
    assert (prepared.overlong, prepared.shrunk, prepared.dropped) == ({}, {}, ())


def test_a_second_call_reads_the_cache(
    run: Callable[..., Prepared],
    essays: tuple[Essay, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = run(essays[:2])
    before = _files(tmp_path)
    assert len(before) == 1

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr("aes.data.prepare.prepare_essay", fail)
    second = run(essays[:2])
    assert _files(tmp_path) == before
    assert second.rows[:] == first.rows[:]


def test_the_cache_forgets_what_was_not_used_for_a_month(
    run: Callable[..., Prepared], essays: tuple[Essay, ...], tmp_path: Path
) -> None:
    run(essays[:2])
    run(essays[1:2])
    paths = list((tmp_path / "samples").iterdir())
    for path in paths:
        long_ago_s = time.time() - 31 * 24 * 3600
        os.utime(path, (long_ago_s, long_ago_s))
    before = _files(tmp_path)
    run(essays[:2])  # is used again, and stays
    after = _files(tmp_path)
    assert len(before) == 2
    assert len(after) == 1
    assert after.items() <= before.items()


def test_whatever_shapes_the_rows_makes_the_cache_stale(
    run: Callable[..., Prepared],
    essays: tuple[Essay, ...],
    builder: ExampleBuilder,
    small_rubric: Rubric,
    prompt_spec: PromptSpec,
    nano_page: PageSpec,
    processor: Processor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rebuilt(**changes: Any) -> ExampleBuilder:
        plain: dict[str, Any] = {
            "rubric": small_rubric, "prompt": prompt_spec, "page": nano_page, "seed": 1
        }  # fmt: skip
        return ExampleBuilder(**plain | changes)

    one = essays[:1]
    wider = dataclasses.replace(
        small_rubric,
        traits=small_rubric.traits
        | {"content": dataclasses.replace(small_rubric.traits["content"], maximum=30)},
    )
    run(one)
    calls: list[Callable[[], Prepared]] = [
        lambda: run(one, builder=rebuilt(prompt=dataclasses.replace(prompt_spec, task="评分。"))),
        lambda: run(one, builder=rebuilt(page=dataclasses.replace(nano_page, glyph_px=12))),
        lambda: run(one, builder=rebuilt(rubric=wider)),
        lambda: run(one, builder=rebuilt(seed=2)),
        lambda: run(one, max_tokens=4000),
        lambda: run(one, on_overlong="shrink"),
        lambda: run([dataclasses.replace(one[0], text="春天来了。")]),
        lambda: run([dataclasses.replace(one[0], scores={"content": 3, "language": 9})]),
    ]
    for number, call in enumerate(calls, start=2):
        call()
        assert len(_files(tmp_path)) == number
    run(one, builder=rebuilt())
    run(one, label="another bar")
    run(one, builder=rebuilt(page=dataclasses.replace(nano_page, save_dir=tmp_path / "pages")))
    assert len(_files(tmp_path)) == len(calls) + 1
    template = processor.tokenizer.chat_template
    monkeypatch.setattr(processor.tokenizer, "chat_template", template.replace("\n", "\n\n", 1))
    run(one)
    assert len(_files(tmp_path)) == len(calls) + 2


def test_another_font_in_the_same_file_makes_the_cache_stale(
    run: Callable[..., Prepared],
    essays: tuple[Essay, ...],
    small_rubric: Rubric,
    prompt_spec: PromptSpec,
    nano_page: PageSpec,
    tmp_path: Path,
) -> None:
    font = tmp_path / "own.ttf"
    for number, name in ((1, "sans"), (1, "sans"), (2, "serif"), (2, "sans")):
        shutil.copyfile(font_path(name), font)
        page = dataclasses.replace(nano_page, font=str(font))
        builder = ExampleBuilder(rubric=small_rubric, prompt=prompt_spec, page=page, seed=1)
        run(essays[:1], builder=builder)
        assert len(_files(tmp_path)) == number


def test_over_the_limit_with_error_all_stay_and_are_told(
    run: Callable[..., Prepared], essays: tuple[Essay, ...]
) -> None:
    lengths = dict(
        zip(["e0", "e1", "long"], run([*essays[:2], LONG]).column("num_tokens"), strict=False)
    )
    limit = max(lengths["e0"], lengths["e1"])
    prepared = run([*essays[:2], LONG], max_tokens=limit)
    assert prepared.overlong == {"long": lengths["long"]}
    assert (prepared.shrunk, prepared.dropped) == ({}, ())
    assert prepared.column("num_tokens") == list(lengths.values())


def test_over_the_limit_with_drop_they_are_left_out_and_counted(
    run: Callable[..., Prepared], essays: tuple[Essay, ...]
) -> None:
    limit = max(run(essays[:2]).column("num_tokens"))
    prepared = run([essays[0], LONG, essays[1]], max_tokens=limit, on_overlong="drop")
    assert prepared.dropped == ("long",)
    assert list(prepared.overlong) == ["long"]
    assert [example.id for example in prepared.examples()] == ["e0", "e1"]
    assert max(prepared.column("num_tokens")) <= limit


def test_over_the_limit_with_shrink_type_gets_smaller(
    run: Callable[..., Prepared], builder: ExampleBuilder, essays: tuple[Essay, ...]
) -> None:
    (full,) = run([LONG]).column("num_tokens")
    (least,) = run([LONG], builder=builder.shrunk(0.5)).column("num_tokens")
    assert least < full
    prepared = run([essays[0], LONG], max_tokens=(least + full) // 2, on_overlong="shrink")
    assert prepared.overlong == {"long": full}
    assert prepared.dropped == ()
    assert list(prepared.shrunk) == ["long"]
    assert 8 <= prepared.shrunk["long"] < 10
    assert prepared.column("num_tokens")[1] <= (least + full) // 2
    # The whole essay still stands on its pages.
    pages = [page for page in prepared.examples()[1].pages if isinstance(page, PageLayout)]
    written = "".join(line.text for page in pages for line in page.lines)
    assert written.replace("\u3000", "") == LONG.text


@pytest.mark.parametrize("policy", ["error", "drop", "shrink"])
def test_nothing_is_ever_cut(run: Callable[..., Prepared], policy: str) -> None:
    (full,) = run([LONG]).column("num_tokens")
    for limit in (full - 1, full - 40, full):
        for row in run([LONG], max_tokens=limit, on_overlong=policy).rows:
            assert row["input_ids"][-1] == IM_END
            assert row["input_ids"].count(IMAGE) == sum(h * w // 4 for h, w in row["grids"])
            assert len(row["input_ids"]) == row["num_tokens"]
            answer = row["input_ids"][row["num_prompt"] :]
            assert len(answer) == len(row["steps"]) == row["num_supervised"]


@pytest.mark.parametrize("policy", ["drop", "shrink"])
def test_a_limit_below_the_prompt_drops_everything(
    run: Callable[..., Prepared], essays: tuple[Essay, ...], policy: str
) -> None:
    prepared = run([*essays[:2], LONG], max_tokens=10, on_overlong=policy)
    assert prepared.dropped == ("e0", "e1", "long")
    assert prepared.shrunk == {}
    assert list(prepared.examples()) == []
    assert prepared.column("num_tokens") == []


def test_the_loader_gives_the_sampled_rows_with_their_pages(
    run: Callable[..., Prepared],
    builder: ExampleBuilder,
    processor: Processor,
    essays: tuple[Essay, ...],
    make_batch: Callable[..., Any],
    make_batching: Callable[..., BatchingSpec],
) -> None:
    prepared = run(essays[:5])
    data = EssayDataModule(
        train=prepared,
        val=prepared,
        renderer=builder.renderer,
        processor=processor,
        global_batch_size=4,
        micro_batch_size=2,
        batching=make_batching(),
        decoding_batch_size=3,
        num_workers=0,
        seed=1,
    )
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.sampler) == 3
    for picks, batch in zip(data.sampler, batches, strict=True):
        expected = make_batch([essays[pick.index] for pick in picks])
        for name in expected.keys() - {"num_supervised_in_step"}:
            assert expected[name].equal(batch[name]), name
        assert int(batch["num_supervised_in_step"]) == picks[0].num_supervised_in_step
    assert [len(dealt) for dealt in data.val_dataloader()] == [3, 2]
    dealt = [one.example for batch in data.val_dataloader() for one in batch]
    assert dealt == list(prepared.examples())


def test_a_cache_file_that_was_cut_short_is_made_again(
    tmp_path: Path, builder: ExampleBuilder, processor: Processor, essays: Any
) -> None:
    def run() -> Any:
        return prepare(
            essays,
            builder=builder,
            processor=processor,
            max_tokens=2048,
            on_overlong="error",
            cache=tmp_path,
            label="",
        )

    first = run().column("num_tokens")
    (cached,) = (tmp_path / "samples").glob("*.arrow")
    with cached.open("r+b") as file:
        file.truncate(1000)
    assert run().column("num_tokens") == first
