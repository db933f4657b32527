"""The closing card as it stands on an 80-column terminal."""

import io
from math import nan
from pathlib import Path

from rich.console import Console

from aes.metrics.results import Agreement
from aes.report.card import SAMPLE_NOTE, ClosingCard, print_card

COMMAND = (
    "python predict.py run=outputs/2026-01-01/12-00-00 input=some/very/long/folder/of/pages "
    "output=out.jsonl adapter.targets=[attention]"
)


def group(num: int, **metrics: float) -> Agreement:
    metrics = {f"{name}/total": value for name, value in metrics.items()}
    return Agreement(num=num, num_sources=num, metrics=metrics)


FULL = ClosingCard(
    run_dir=Path("outputs/2026-01-01/12-00-00"),
    metrics={"val/qwk/total": 0.71249, "val/qwk/content": nan, "val/mae/total": 6.5},
    baselines={
        "baseline/mean/qwk": 0.0,
        "baseline/mean/mae": 9.25,
        "baseline/length_ridge/qwk": 0.55,
        "baseline/length_ridge/mae": 7.75,
    },
    groups={
        "original": group(5, qwk=0.6, mae=3.0, mean_shift=-1.5),
        "cut": group(1, qwk=nan, mae=4.0, mean_shift=4.0),
    },
    commands=[COMMAND],
    is_sample=True,
)


def printed(card: ClosingCard) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    print_card(console, card)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def row(lines: list[str], first: str) -> list[str]:
    return next(line.split()[1:] for line in lines if line.startswith(first))


def test_metrics_stand_beside_their_baselines() -> None:
    lines = printed(FULL)
    assert row(lines, "val/qwk/total") == ["0.712", "0.000", "0.550"]
    assert row(lines, "val/mae/total") == ["6.500", "9.250", "7.750"]
    assert row(lines, "val/qwk/content") == ["-"]


def test_groups_have_sizes_and_signed_shifts() -> None:
    lines = printed(FULL)
    assert row(lines, "original") == ["5", "0.600", "3.000", "-1.500"]
    assert row(lines, "cut") == ["1", "-", "4.000", "+4.000"]


def test_commands_can_be_copied_whole() -> None:
    lines = printed(FULL)
    assert f"  {COMMAND}" in lines
    assert all(len(line) <= 80 for line in lines if COMMAND not in line)


def test_only_a_sample_run_carries_the_note() -> None:
    assert SAMPLE_NOTE in " ".join(printed(FULL))
    real = printed(ClosingCard(run_dir=Path("r"), metrics={"val/qwk/total": 0.5}))
    assert not any("SAMPLE" in line for line in real)
    assert not any("ridge" in line for line in real)
