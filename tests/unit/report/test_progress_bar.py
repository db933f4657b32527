"""The bar fits 80 columns; without a terminal there are plain lines."""

import pytest

from aes.report.progress_bar import ProgressBar, StepLine

LARGEST = StepLine(
    step=9999,
    epoch=12,
    loss=12.345,
    lr=5e-5,
    tokens_per_s=123456.0,
    data_wait_share=0.0,
    elapsed_s=100.0,
    remaining_s=14 * 3600 + 61,
    peak_memory_gib=120.26,
)


def test_a_plain_line_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(total_steps=10000, num_epochs=12, is_terminal=False)
    bar.start(0)
    bar.advance(9998, 12)
    bar.show(LARGEST)
    bar.stop()
    assert capsys.readouterr().out == (
        "epoch 12/12  step 9999/10000  "
        "loss 12.345  lr 5.0e-05  123k tok/s  120.3 GiB  14:01:01 left\n"
    )


def test_the_bar_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    bar = ProgressBar(total_steps=10000, num_epochs=12, is_terminal=True)
    bar.start(0)
    bar.advance(9999, 12)
    bar.show(LARGEST)
    bar.stop()
    bar.stop()
    drawn = capsys.readouterr().out
    for part in ("12/12", "9999/10000", LARGEST.brief()):
        assert part in drawn


@pytest.mark.parametrize(
    "tokens_per_s, remaining_s, expected",
    [(812.4, 0, "812 tok/s  1.0 GiB  0:00"), (8123.0, 59.6, "8.1k tok/s  1.0 GiB  1:00")],
)
def test_numbers_stay_short(tokens_per_s: float, remaining_s: float, expected: str) -> None:
    line = StepLine(
        step=1,
        epoch=1,
        loss=1.0,
        lr=1e-3,
        tokens_per_s=tokens_per_s,
        data_wait_share=0.0,
        elapsed_s=1.0,
        remaining_s=remaining_s,
        peak_memory_gib=1.0,
    )
    assert expected in line.brief()
