"""``python train.py`` on the reference job: each essay gets the comment that its layout lacks.

    python -m comparing.our_train data.root=DIR [key=value ...]
    python -m comparing.our_train --record FOLDER data.root=DIR [key=value ...]

The first trains, exactly as ``python train.py`` does, but that each essay has the comment that
``DIR/comments.json`` holds, and that a line says when the loader begins an epoch. The second makes
``DIR``, goes the same way up to the first step and then writes into ``FOLDER`` what another trainer
needs to do the same work: the adapter as it was drawn, and in ``record.json`` the samples, their
order in each epoch, the checkpoint's folder, and the first step's loss as transformers computes it
with one more line feed behind each answer, which LLaMA-Factory's template supervises too.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aes.cli.entry import main
from aes.corpus import AesDataset

if TYPE_CHECKING:
    from aes.cli.settings import Settings
    from aes.corpus.check import Draft
    from aes.data.datamodule import EssayDataModule
    from aes.data.prepared import Prepared
    from aes.training.module import TuningModule

RECORD_FILE = "record.json"
ADAPTER_FOLDER = "adapter"
LOADER_BEGINS = "The loader begins."


def add_comments() -> None:
    """Let each essay that is read from now on have its comment."""
    plain_load: Callable[..., list[Draft]] = AesDataset._load

    def load(corpus: AesDataset, ledger: Any) -> list[Draft]:
        from comparing.reference_job import COMMENTS_FILE

        comments = json.loads((corpus.root / COMMENTS_FILE).read_text(encoding="utf-8"))
        drafts = plain_load(corpus, ledger)
        essays = [dataclasses.replace(d.essay, comment=comments[d.essay.id]) for d in drafts]
        return [dataclasses.replace(d, essay=e) for d, e in zip(drafts, essays, strict=True)]

    setattr(AesDataset, "_load", load)  # noqa: B010 (mypy refuses an assignment)


def say_when_the_loader_begins() -> None:
    """Print a line before a loader's processes begin, which is before Lightning's first hook."""
    from aes.data.datamodule import ResumableLoader

    plain_iter: Callable[..., Any] = ResumableLoader.__iter__

    def begin(loader: ResumableLoader) -> Any:
        print(LOADER_BEGINS, flush=True)
        return plain_iter(loader)

    setattr(ResumableLoader, "__iter__", begin)  # noqa: B010 (mypy refuses an assignment)


def train_and_tell(settings: Settings) -> int:
    """``train.py``, with the line that tells when its loader begins."""
    from aes.cli.train import run

    say_when_the_loader_begins()
    return run(settings)


def make_and_record(settings: Settings, *, folder: Path) -> int:
    """Write the essays, then let ``train.py`` come as far as its first step, and record."""
    import aes.training.fit
    from aes.cli.samples import make_processor
    from aes.cli.train import run
    from aes.model.loading import model_folder
    from comparing.reference_job import write_essays

    assert isinstance(settings.data, AesDataset)
    tokenizer = make_processor(settings, weights=True).tokenizer
    encode = partial(tokenizer.encode, add_special_tokens=False)
    write_essays(settings.data.root, settings, encode)
    checkpoint = model_folder(settings.model, settings.cache)
    aes.training.fit.fit = partial(record, folder=folder, base=checkpoint)
    return run(settings)


def record(
    module: TuningModule, data: EssayDataModule, *, folder: Path, base: Path, **fit: Any
) -> NoReturn:
    """Write what another trainer needs, in place of training."""
    batches = order(data, fit["trainer"].max_epochs)
    samples = describe(data.train)
    first_step = [name for batch in batches for name in batch][: 2 * module.accumulation]
    folder.mkdir(parents=True)
    module.model.save_pretrained(folder / ADAPTER_FOLDER)
    content = {
        "checkpoint": str(base),
        "order": batches,
        "samples": samples,
        "first_loss_with_line_feed": plain_loss(module, [samples[name] for name in first_step]),
    }
    (folder / RECORD_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    sys.exit(0)


def order(data: EssayDataModule, num_epochs: int) -> list[list[str]]:
    """Ids of each micro-batch of each epoch."""
    found = []
    for epoch in range(num_epochs):
        data.sampler.set_epoch(epoch)
        found += [list(data.ids(picks)) for picks in data.sampler]
    return found


def describe(train: Prepared) -> dict[str, dict[str, Any]]:
    """``Sample`` of each id, as plain values."""
    found = {}
    for row, example in zip(train.rows, train.examples(), strict=True):
        (page,) = example.pages
        assert isinstance(page, Path)
        found[example.id] = {
            "question": "".join(p for p in example.messages[-1].parts if isinstance(p, str)),
            "answer": "".join(text for text, _ in example.answer),
            "page": str(page),
            "input_ids": row["input_ids"],
            "num_prompt": row["num_prompt"],
            "num_image_tokens": row["num_image_tokens"],
        }
    return found


def plain_loss(module: TuningModule, samples: Sequence[dict[str, Any]]) -> float:
    """Mean of the samples' losses by transformers' own forward pass, which takes logits of all."""
    import torch

    engine = module.validation.engine
    processor = engine.processor
    (line_feed,) = processor.tokenizer.encode("\n", add_special_tokens=False)
    total = 0.0
    for sample in samples:
        ids = torch.tensor([[*sample["input_ids"], line_feed]])
        labels = ids.clone()
        labels[:, : sample["num_prompt"]] = -100
        patches, grids = processor.patches([engine.renderer.open(Path(sample["page"]))])
        with torch.no_grad():
            out = module.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == processor.image_token).int(),
                pixel_values=torch.from_numpy(patches),
                image_grid_thw=torch.from_numpy(grids),
                labels=labels,
            )
        total += float(out.loss)
    return total / len(samples)


if __name__ == "__main__":
    add_comments()
    if sys.argv[1:2] == ["--record"]:
        target = Path(sys.argv[2])
        del sys.argv[1:3]
        main("train", partial(make_and_record, folder=target))
    main("train", train_and_tell)
