"""ProgressReport in a real Trainer with accumulation, validation, early ends and resume."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, TensorDataset

from aes.training.metrics_log import MetricsLog
from aes.training.progress import ProgressReport, StepReport, peak_memory_gib
from aes.training.stopping import StopSignals

KEYS = [
    "step", "epoch", "loss", "lr", "tokens_per_s", "data_wait_share",
    "elapsed_s", "remaining_s", "peak_memory_gib",
]  # fmt: skip
NUM_BATCHES, ACCUMULATE, BASE_LR = 7, 2, 0.1  # 4 optimiser steps an epoch, the last of one batch


class Toy(LightningModule):
    """A line through the origin; its n-th optimiser step reports the loss n and 10 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.num_reports = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=BASE_LR)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def step_report(self, *, stop_signal: int, waited_s: float) -> StepReport:
        self.num_reports += 1
        step = self.trainer.global_step + 1
        return StepReport(loss=float(step), num_tokens=10, waited_s=waited_s)


class ListLogger(Logger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class StopAt(Callback):
    """Ends training after a step: politely, or with an error."""

    def __init__(self, step: int, *, crash: bool = False) -> None:
        self.step, self.crash = step, crash

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            if self.crash:
                raise RuntimeError("power cut")
            trainer.should_stop = True


class SlowStart(Callback):
    """A first step that warms up."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 0:
            time.sleep(0.03)


Fit = Callable[..., Toy]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    def run(
        *,
        every: int = 3,
        epochs: int = 2,
        is_terminal: bool = False,
        waited_s: Callable[[], float] = lambda: 0.0,
        extra: list[Callback] | None = None,
        logger: Logger | bool = False,
        ckpt_path: Path | None = None,
        module: Toy | None = None,
    ) -> Toy:
        report = ProgressReport(
            MetricsLog(tmp_path / "metrics.jsonl"),
            every_n_steps=every,
            total_steps=4 * epochs,
            is_terminal=is_terminal,
            signals=StopSignals(),
            waited_s=waited_s,
        )
        trainer = Trainer(
            max_epochs=epochs,
            accumulate_grad_batches=ACCUMULATE,
            accelerator="cpu",
            callbacks=[report, *(extra or [])],
            logger=logger,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        module = module or Toy()
        data = DataLoader(TensorDataset(torch.ones(NUM_BATCHES, 1)), batch_size=1)
        trainer.fit(module, data, data, ckpt_path=ckpt_path)
        return module

    return run


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_lines_count_optimiser_steps_first_and_last_included(fit: Fit, tmp_path: Path) -> None:
    module = fit()
    lines = lines_of(tmp_path)
    assert all(list(line) == KEYS for line in lines)
    assert [line["step"] for line in lines] == [1, 3, 6, 8]
    assert [line["epoch"] for line in lines] == [1, 1, 2, 2]
    assert [line["loss"] for line in lines] == [1.0, 3.0, 6.0, 8.0]
    assert module.num_reports == 8


def test_the_rate_is_the_one_the_step_was_made_with(fit: Fit, tmp_path: Path) -> None:
    fit()
    for line in lines_of(tmp_path):
        assert line["lr"] == pytest.approx(BASE_LR / line["step"])


def test_measurements_hang_together(fit: Fit, tmp_path: Path) -> None:
    fit(extra=[SlowStart()])
    lines = lines_of(tmp_path)
    elapsed = [line["elapsed_s"] for line in lines]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] > 0
    # 20 tokens since the line before, in no more than the time between the two; less means
    # that validation was taken out.
    assert lines[1]["tokens_per_s"] == pytest.approx(20 / (elapsed[1] - elapsed[0]), rel=1e-6)
    assert lines[2]["tokens_per_s"] > 30 / (elapsed[2] - elapsed[1])
    assert lines[0]["remaining_s"] == pytest.approx(7 * elapsed[0], rel=1e-6)
    # The pace is that of steps 2 and 3: the first one warms up.
    assert 0 < lines[1]["remaining_s"] <= 5 * (elapsed[1] - elapsed[0]) / 2
    assert lines[-1]["remaining_s"] == 0
    assert 0.01 < lines[0]["peak_memory_gib"] < 100


def test_loggers_get_the_same_under_train(fit: Fit, tmp_path: Path) -> None:
    logger = ListLogger()
    fit(logger=logger)
    ours = [(step, m) for step, m in logger.logged if "train/loss" in m]
    lines = lines_of(tmp_path)
    assert [step for step, _ in ours] == [line["step"] for line in lines]
    for (_, metrics), line in zip(ours, lines, strict=True):
        assert metrics == {f"train/{key}": line[key] for key in KEYS[1:]}


def test_a_run_that_ends_early_logs_its_last_step_once(fit: Fit, tmp_path: Path) -> None:
    fit(every=3, extra=[StopAt(5)])
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 3, 5]


def test_without_a_terminal_a_line_is_printed_for_each_logged_step(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    fit()
    printed = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert [line.split("  ")[1] for line in printed] == [f"step {n}/8" for n in (1, 3, 6, 8)]
    assert printed[0].startswith("epoch 1/2  step 1/8  loss 1.000  lr 1.0e-01  ")


def test_on_a_terminal_the_bar_ends_full(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    fit(is_terminal=True)
    last_frame = capsys.readouterr().out.split("starting")[-1]
    assert "epoch 2/2" in last_frame
    assert "8/8" in last_frame
    assert "loss 8.000" in last_frame


def test_a_crash_gives_the_terminal_back(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        fit(is_terminal=True, extra=[StopAt(2, crash=True)])
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    drawn = capsys.readouterr().out
    assert drawn.rfind(shown) > drawn.rfind(hidden) >= 0


def test_a_resumed_run_writes_the_log_of_an_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    class SaveAt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "four.ckpt")

    with pytest.raises(RuntimeError, match="power cut"):
        fit(every=1, extra=[SaveAt(), StopAt(7, crash=True)])
    before = lines_of(tmp_path)
    assert [line["step"] for line in before] == [1, 2, 3, 4, 5, 6, 7]
    fit(every=1, ckpt_path=tmp_path / "four.ckpt")
    after = lines_of(tmp_path)
    assert [line["step"] for line in after] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert after[:4] == before[:4]
    assert after[4]["elapsed_s"] > after[3]["elapsed_s"]


@pytest.mark.parametrize(("share", "is_told"), [(0.5, True), (0.0, False)])
def test_waiting_for_batches_is_measured_and_told_once(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float, is_told: bool
) -> None:
    # Whatever time passes, this share of it went on waiting.
    fit(every=1, waited_s=lambda: share * time.perf_counter())
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    shares = [json.loads(line)["data_wait_share"] for line in lines]
    assert all((found > 0) == is_told and found <= 1 for found in shares)
    told = [line for line in capsys.readouterr().out.splitlines() if "waiting for batches" in line]
    assert len(told) == is_told
    assert all("hardware.num_workers" in line for line in told)


def test_peak_memory_of_a_cpu_is_resident_memory_in_gib() -> None:
    resident = psutil.Process().memory_info().rss / 2**30
    assert 0.99 * resident <= peak_memory_gib(torch.device("cpu"))
    assert peak_memory_gib(torch.device("cpu")) < psutil.virtual_memory().total / 2**30
