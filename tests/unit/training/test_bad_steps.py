"""Steps that went wrong by real causes: a page that is not a number, weights too large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.training.bad_steps import MOST_IN_A_ROW, load_bad_batch
from aes.training.checkpoint.callback import STATE_FILE
from aes.training.checkpoint.resumable import step_name
from aes.training.fit import Fitted
from aes.training.module import TuningModule

Training = Callable[..., tuple[TuningModule, Callable[..., Fitted]]]


def state(run_dir: Path, step: int) -> dict[str, Any]:
    file = run_dir / "checkpoints" / step_name(step) / STATE_FILE
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def bad_step(run_dir: Path) -> int:
    """The first one of which a batch was written."""
    return int(min((run_dir / "bad_batches").iterdir()).name.split("-")[1])


def test_a_bad_loss_stops_the_run_with_its_batch(make_training: Training, tmp_path: Path) -> None:
    _, run = make_training(poisoned="e3")
    with pytest.raises(ValueError, match=r"loss of step \d is infinite or not a number") as stopped:
        run(tmp_path)
    step = bad_step(tmp_path)
    path = tmp_path / "bad_batches" / f"step-{step:06d}-rank0.pt"
    told = str(stopped.value)
    assert f"step {step}" in told and "e3" in told and str(path) in told
    assert "trainer.on_bad_loss=skip" in told and "\n" not in told
    facts, (micro_batch,) = load_bad_batch(path)
    assert facts["step"] == step and facts["reason"] == "the loss"
    assert "e3" in micro_batch.ids and micro_batch.loss != micro_batch.loss
    assert micro_batch.tensors["pixel_values"].isnan().any()
    assert not micro_batch.tensors["pixel_values"].isnan().all(), "its neighbour's are in there too"


def test_a_skipped_step_changes_nothing_but_the_schedule(
    make_training: Training, tmp_path: Path
) -> None:
    _, run = make_training(poisoned="e8")
    fitted = run(tmp_path, on_bad_loss="skip", every_n_train_steps=1, keep_last=99)
    assert fitted.num_steps == 6
    step = bad_step(tmp_path)
    assert step > 1, "choose another sample"
    before, after = state(tmp_path, step - 1), state(tmp_path, step)
    assert before["state_dict"].keys() == after["state_dict"].keys()
    for name, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name]), name
    moments = [one["optimizer_states"][0]["state"] for one in (before, after)]
    for index, held in moments[0].items():
        for name, value in held.items():
            assert torch.equal(value, moments[1][index][name]), (index, name)
    rates = [one["lr_schedulers"][0]["last_epoch"] for one in (before, after)]
    assert rates == [step - 1, step]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counts = [line.get("skipped_steps", 0) for line in lines if "loss" in line]
    assert counts[step - 2] == 0 and counts[step - 1] == 1 and counts[-1] == 2
    assert lines[step - 1]["loss"] is None
    assert json.loads((tmp_path / "metrics.json").read_text())["train/skipped_steps"] == 2


def test_a_bad_gradient_behind_a_good_loss(make_training: Training, tmp_path: Path) -> None:
    module, run = make_training()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_A" in name:
                parameter.mul_(1e30)  # times the zeros of lora_B
    with pytest.raises(ValueError, match="gradient of step 1 is infinite"):
        run(tmp_path)
    facts, micro_batches = load_bad_batch(tmp_path / "bad_batches" / "step-000001-rank0.pt")
    assert facts["reason"] == "the gradient"
    assert [len(one.ids) for one in micro_batches] == [2, 2]
    assert all(one.tensors["input_ids"].shape[0] == 2 for one in micro_batches)


def test_spoilt_weights_are_not_skipped_forever(make_training: Training, tmp_path: Path) -> None:
    module, run = make_training()
    with torch.no_grad():
        next(p for p in module.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(ValueError, match=f"{MOST_IN_A_ROW} steps in a row"):
        run(tmp_path, on_bad_loss="skip", max_epochs=9, val_every_n_epochs=9)
