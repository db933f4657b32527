"""What is saved can be loaded by plain PEFT and plain transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.data.processor import Processor
from aes.model.trained import GRADING_FILE
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss
from aes.training.saving import replace_folder, save_trained


def _train(model: Any, batch: Any, processor: Processor) -> None:
    """A few real steps, so that no weight is zero by chance."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    spec = LossSpec(name="valid_digits", feedback_weight=0.1)
    model.train()
    for _ in range(3):
        summed_loss(model, batch, spec=spec, score_steps=processor.guide.table).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _logits(model: Any, batch: Any, processor: Processor) -> torch.Tensor:
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    kinds = (batch["input_ids"] == processor.image_token).int()
    with torch.no_grad():
        out = model(**{n: batch[n] for n in names}, mm_token_type_ids=kinds, logits_to_keep=20)
    found: torch.Tensor = out.logits
    return found


@pytest.mark.parametrize("targets", [("attention",), ("attention", "experts", "vision")])
def test_plain_peft_loads_the_adapter(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
    make_batch: Callable[..., Any],
    processor: Processor,
    essays: tuple[Essay, ...],
    nano_checkpoint: Path,
    tmp_path: Path,
    targets: tuple[str, ...],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    batch = make_batch(essays[:2])
    model = load_nano(make_lora(targets=targets, modules_to_save=("visual.merger",)))
    _train(model, batch, processor)
    folder = save_trained(model, tmp_path, base=str(nano_checkpoint), grading={"width_px": 320})
    assert folder == tmp_path / "adapter"
    plain = AutoModelForImageTextToText.from_pretrained(nano_checkpoint, dtype=torch.float32)
    before = _logits(plain, batch, processor)
    loaded = PeftModel.from_pretrained(plain, folder).eval()
    ours, theirs = _logits(model, batch, processor), _logits(loaded, batch, processor)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert (ours - before).abs().max() > 1e-2


def test_the_adapter_names_its_base_and_its_pages(
    load_nano: Callable[..., Any], make_lora: Callable[..., Any], tmp_path: Path
) -> None:
    folder = save_trained(
        load_nano(make_lora()), tmp_path, base="Qwen/Some", grading={"width_px": 320}
    )
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["r"]) == ("Qwen/Some", 8)
    assert json.loads((folder / GRADING_FILE).read_text(encoding="utf-8")) == {"width_px": 320}
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", GRADING_FILE
    }  # fmt: skip
    assert (folder / "adapter_model.safetensors").stat().st_size < 200_000, "the base is in it"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_model_trained_whole_is_saved_whole(
    load_nano: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    model = load_nano()
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    folder = save_trained(model, tmp_path, base="x", grading={})
    assert folder == tmp_path / "model"
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_older_folder_is_replaced(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["new"]


def test_a_save_that_fails_leaves_the_older_one(
    load_nano: Callable[..., Any], make_lora: Callable[..., Any], tmp_path: Path
) -> None:
    model = load_nano(make_lora())
    save_trained(model, tmp_path, base="first", grading={})
    before = (tmp_path / "adapter" / "adapter_config.json").read_bytes()

    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_trained(model, tmp_path, base="second", grading=Broken(a=1))
    assert (tmp_path / "adapter" / "adapter_config.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
