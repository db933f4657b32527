"""Adapters from elsewhere become runs, and several runs are graded on the same essays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aes.model import trained
from aes.model.loading import load_base

pytestmark = pytest.mark.command
QUICK = ("num_resamples=20", "decoding.max_feedback_tokens=4")
FROM_ELSEWHERE = (
    *("adapter.rank=4", "adapter.alpha=8", "adapter.targets=[q_proj,v_proj]"),
    *("adapter.modules_to_save=[]", "optim=adamw"),
)


@pytest.fixture(scope="session")
def from_elsewhere(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that plain PEFT wrote, of two kinds of matrices, none of them zero."""
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(
        load_base(nano_checkpoint, dtype=torch.float32),  # type: ignore[arg-type]
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="session")
def made_run(train_once: Callable[..., Path], from_elsewhere: Path) -> Path:
    """A run of that adapter, without a step."""
    steps = "trainer.max_steps=0"
    return train_once("made", *FROM_ELSEWHERE, f"adapter.init_from={from_elsewhere}", steps)


def expected_scores(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line["expected"] for line in map(json.loads, lines) if "expected" in line]


def test_a_run_is_made_of_an_adapter_from_elsewhere(made_run: Path, from_elsewhere: Path) -> None:
    theirs, ours = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (from_elsewhere, made_run / "adapter")
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert (made_run / "adapter" / "grading.json").is_file()
    assert not (made_run / "checkpoints").exists()


def test_training_goes_on_from_an_adapter(
    train: Callable[..., int], cheap: tuple[str, ...], from_elsewhere: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    start = f"adapter.init_from={from_elsewhere}"
    options = (*cheap, *FROM_ELSEWHERE, "data.copies=2", f"run_dir={run}")
    assert train(*options, start, "trainer.max_steps=1", "optim.lr=1e-4") == 0
    before = load_file(from_elsewhere / "adapter_model.safetensors")
    after = load_file(run / "adapter" / "adapter_model.safetensors")
    moved = max((after[name] - before[name]).abs().max() for name in before)
    assert 0 < moved < 1e-3, "one small step from where it was"


def test_runs_stand_side_by_side_and_share_their_base(
    evaluate: Callable[..., int],
    trained_run: Path,
    made_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loads = []

    def counted(*args: Any, **options: Any) -> Any:
        loads.append(args)
        return load_base(*args, **options)

    monkeypatch.setattr(trained, "load_base", counted)
    out = tmp_path / "compared"
    assert evaluate(f"run={trained_run}", f"compare=[{made_run}]", f"out={out}", *QUICK) == 0
    assert len(loads) == 1, "the base was loaded for each adapter"
    assert "less this run's" in capsys.readouterr().out
    alone = tmp_path / "alone"
    assert evaluate(f"run={made_run}", f"out={alone}", *QUICK) == 0
    compared = next(out.glob("predictions_second_*.jsonl"))
    assert expected_scores(compared) == expected_scores(alone / "predictions.jsonl")
    assert expected_scores(compared) != expected_scores(out / "predictions.jsonl")
    metrics, other = (json.loads((folder / "metrics.json").read_text()) for folder in (out, alone))
    place = next(key for key in metrics if key.startswith("test/compare/")).split("/")[2]
    for name in ("qwk/total", "mae/total", "mae/content"):
        ours = metrics[f"test/compare/{place}/{name}"]
        assert ours == other[f"test/{name}"]
        difference = metrics[f"test/compare/{place}/difference/{name}"]
        assert difference == pytest.approx(ours - metrics[f"test/{name}"], abs=1e-5)
    low, high = (
        metrics[f"test/compare/{place}/difference/mae/total/{end}"] for end in ("low", "high")
    )
    assert low <= high
    assert "与其他模型比较" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("compare=[RUN]",), "more than once"),
        (("compare=[nowhere]",), "there is no run directory nowhere"),
        (("compare=[MADE]", "data.split_seed=99"), "was trained on"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    evaluate: Callable[..., int],
    trained_run: Path,
    made_run: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    told: str,
) -> None:
    places = {"RUN": str(trained_run), "MADE": str(made_run)}
    for name, place in places.items():
        options = tuple(option.replace(name, place) for option in options)
    assert evaluate(f"run={trained_run}", *options, *QUICK) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("adapter.init_from=DIR",), "set adapter.rank=4 adapter.alpha=8"),
        (("adapter.init_from=nowhere",), "holds no adapter_config.json"),
        (
            (*FROM_ELSEWHERE, "adapter.init_from=DIR", "strategy=zero3_offload"),
            "strategy=zero3_offload cannot begin with adapter.init_from",
        ),
    ],
)
def test_what_training_cannot_begin_with_is_refused_first(
    train: Callable[..., int],
    from_elsewhere: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    told: str,
) -> None:
    options = tuple(option.replace("DIR", str(from_elsewhere)) for option in options)
    assert train(*options, "run_dir=run") == 1
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
