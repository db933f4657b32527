"""Signals ask for a stop; a second Ctrl-C ends at once."""

from __future__ import annotations

import os
import signal

import pytest

from aes.training.stopping import StopSignals, stop_by


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_warning_of_slurm_does_not_make_sigterm_the_second() -> None:
    with StopSignals() as signals:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert signals.received == signal.SIGTERM


def test_a_sigterm_that_comes_twice_is_one_wish() -> None:
    with StopSignals() as signals:
        for _ in range(2):  # from the scheduler, and passed on by the launcher
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_statuses_are_those_of_a_shell() -> None:
    with pytest.raises(SystemExit) as stopped:
        stop_by(signal.SIGTERM)
    assert stopped.value.code == 143
    with pytest.raises(KeyboardInterrupt):
        stop_by(signal.SIGINT)
