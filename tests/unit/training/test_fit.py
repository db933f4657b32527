"""Real trainings of a few steps: what they leave behind, and that the cut does not matter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aes.data import BatchingSpec
from aes.data.prepare import prepare
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.prompt.build import ExampleBuilder
from aes.training.checkpoint.callback import STATE_FILE
from aes.training.fit import Fitted
from aes.training.module import TuningModule


def _lines(run_dir: Path, key: str) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if key in line]


@pytest.fixture
def no_samples(builder: ExampleBuilder, processor: Processor, session_cache: Path) -> Prepared:
    """What a corpus with ``val_fraction=0`` validates on."""
    return prepare(
        (),
        builder=builder,
        processor=processor,
        max_tokens=2048,
        on_overlong="error",
        cache=session_cache,
        label="val",
    )


@pytest.fixture(scope="module")
def finished(
    make_training: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TuningModule, Fitted, Path]:
    run_dir = tmp_path_factory.mktemp("run")
    module, run = make_training()
    return module, run(run_dir), run_dir


def test_a_run_leaves_its_metrics_behind(finished: tuple[TuningModule, Fitted, Path]) -> None:
    module, fitted, run_dir = finished
    assert fitted.num_steps == 6
    steps = _lines(run_dir, "loss")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] > 0 for line in steps)
    assert [line["step"] for line in _lines(run_dir, "val/qwk/total")] == [3, 6]
    saved = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    assert saved["baseline/qwk"] == 0.25
    assert saved["val/parse_rate"] == 1.0
    names = {"val/qwk/total", "val/qwk/content", "val/qwk/language", "val/parse_rate"}
    assert names <= fitted.metrics.keys() <= saved.keys()
    assert [example.id for example, _ in module.validation.graded] == ["e10", "e11"]
    assert all(not grade.parse_error for _, grade in module.validation.graded)
    assert "e10" in (run_dir / "samples.html").read_text(encoding="utf-8")


def test_the_rate_in_the_log_ends_at_zero(finished: tuple[TuningModule, Fitted, Path]) -> None:
    module, _, run_dir = finished
    rates = [line["lr"] for line in _lines(run_dir, "lr")]
    assert rates == sorted(rates, reverse=True)
    (schedule,) = [module.lr_schedulers()]
    assert schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["step-00000006", "best"])
def test_checkpoints_hold_what_is_trained_and_nothing_frozen(
    finished: tuple[TuningModule, Fitted, Path], name: str
) -> None:
    module, _, run_dir = finished
    names = {"step-00000003", "step-00000006", "best"}
    assert {p.name for p in (run_dir / "checkpoints").iterdir()} == names
    checkpoint = torch.load(run_dir / "checkpoints" / name / STATE_FILE, weights_only=True)
    trained = {key for key, p in module.named_parameters() if p.requires_grad}
    assert checkpoint["state_dict"].keys() == trained
    assert any("lora_" in key for key in trained)
    assert any("merger" in key for key in trained)
    assert not any("base_layer" in key or "lm_head" in key for key in trained)
    assert checkpoint["optimizer_states"]
    if name != "best":
        for key, parameter in module.named_parameters():
            if key in trained:
                assert torch.equal(checkpoint["state_dict"][key], parameter), key


def test_the_base_stays_as_it_was(
    finished: tuple[TuningModule, Fitted, Path], load_nano: Callable[..., Any]
) -> None:
    base = load_nano().state_dict()
    seen = 0
    for name, parameter in finished[0].model.named_parameters():
        key = name.removeprefix("base_model.model.").replace(".base_layer", "")
        key = key.replace(".original_module", "")
        if not parameter.requires_grad:
            assert torch.equal(parameter, base[key]), name
            seen += 1
    assert seen >= len(base) - 1


def test_training_lowers_the_loss(finished: tuple[TuningModule, Fitted, Path]) -> None:
    losses = [line["loss"] for line in _lines(finished[2], "loss")]
    assert sum(losses[3:]) < sum(losses[:3])


def test_a_run_cut_short_within_an_epoch_still_validates(
    make_training: Callable[..., Any], tmp_path: Path
) -> None:
    module, run = make_training()
    fitted = run(tmp_path, max_steps=2)
    assert fitted.num_steps == 2
    assert [line["step"] for line in _lines(tmp_path, "loss")] == [1, 2]
    assert [line["step"] for line in _lines(tmp_path, "val/qwk/total")] == [2]
    assert len(module.validation.graded) == 2
    assert (tmp_path / "metrics.json").is_file()
    assert (tmp_path / "samples.html").is_file()


def test_a_closing_validation_belongs_to_the_last_epoch(
    make_training: Callable[..., Any], tmp_path: Path
) -> None:
    _, run = make_training(global_batch_size=8)
    run(tmp_path, max_epochs=3, val_every_n_epochs=2)
    lines = _lines(tmp_path, "val/qwk/total")
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 2), (6, 3)]


def test_a_closing_validation_alone_decides_the_best(
    make_training: Callable[..., Any], tmp_path: Path
) -> None:
    _, run = make_training()
    run(tmp_path, max_epochs=1, val_every_n_epochs=2)
    assert [line["epoch"] for line in _lines(tmp_path, "val/qwk/total")] == [1]
    saved = tmp_path / "checkpoints"
    assert {path.name for path in saved.iterdir()} == {"step-00000003", "best"}
    assert (saved / "best").readlink() == Path("step-00000003")


def test_without_validation_samples_the_page_shows_some_that_were_trained_on(
    make_training: Callable[..., Any], no_samples: Prepared, tmp_path: Path
) -> None:
    module, run = make_training(val=no_samples)
    fitted = run(tmp_path, max_epochs=1)
    assert fitted.num_steps == 3
    assert fitted.metrics == fitted.groups == {}
    assert module.validation.graded == []
    assert _lines(tmp_path, "val/qwk/total") == []
    assert "e0" in (tmp_path / "samples.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    saved = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert saved == {"baseline/qwk": 0.25}


# AdamW hides a gradient that is off by a factor; a large eps makes it follow the gradient's size.
_TELLING = {"lr": 0.3, "eps": 10.0, "schedule": "constant"}


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_the_losses_do_not_depend_on_the_micro_batch(
    make_training: Callable[..., Any], tmp_path: Path, clip_norm: float | None
) -> None:
    """1 x 8, 2 x 4 and 8 x 1 of ten essays: the last step of an epoch is ragged."""
    curves, weights = [], []
    for micro in (8, 4, 1):
        module, run = make_training(micro=micro, global_batch_size=8, optim=_TELLING)
        run(tmp_path / str(micro), max_epochs=3, gradient_clip_norm=clip_norm)
        curves.append([line["loss"] for line in _lines(tmp_path / str(micro), "loss")])
        trained = [p.detach().flatten() for p in module.parameters() if p.requires_grad]
        weights.append(torch.cat(trained))
    assert len(curves[0]) == 6
    assert max(curves[0]) - min(curves[0]) > 0.01, "nothing was learnt, so nothing is shown"
    for curve, weight in zip(curves[1:], weights[1:], strict=True):
        assert curve == pytest.approx(curves[0], rel=1e-5)
        torch.testing.assert_close(weight, weights[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_nor_on_the_layout_and_the_limit_of_tokens(
    make_training: Callable[..., Any],
    make_batching: Callable[..., BatchingSpec],
    tmp_path: Path,
    layout: Any,
) -> None:
    """Short steps take fewer micro-batches than long ones, and Lightning must not notice."""
    plain = {"micro": 4, "global_batch_size": 4, "optim": _TELLING}
    found = []
    for name, batching in (
        ("plain", make_batching()),
        ("limited", make_batching(layout=layout, max_tokens=400)),
    ):
        module, run = make_training(**plain, batching=batching)
        run(tmp_path / name, max_epochs=3)
        curve = [line["loss"] for line in _lines(tmp_path / name, "loss")]
        trained = [p.detach().flatten() for p in module.parameters() if p.requires_grad]
        found.append((curve, torch.cat(trained)))
    batches = [len(picks) for picks in module.trainer.datamodule.sampler]
    assert {0, 1, 2} == set(batches), "all steps were cut alike, so nothing is shown"
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-5, rtol=0)
