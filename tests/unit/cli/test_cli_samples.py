"""From settings to samples and plan: nothing is wrong or left out unsaid."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from test_cli_conf import settings_of

from aes.cli.planning import make_run_plan
from aes.cli.samples import _show_check, prepare_samples
from aes.corpus import Reading
from aes.records import Action, Problem


def make_reading(num_problems: int, action: Action) -> Reading:
    problems = tuple(
        Problem(
            code="too_short",
            id=f"A-{k}",
            file=f"{k}.txt",
            line=0,
            message="",
            cure="",
            action=action,
        )
        for k in range(num_problems)
    )
    return Reading((), problems, {"read": num_problems, "kept": 0, "dropped": num_problems})


@pytest.mark.parametrize(("has_run", "num_shown"), [(True, 30), (False, 40)])
def test_without_a_run_the_terminal_lists_every_problem(has_run: bool, num_shown: int) -> None:
    out = io.StringIO()
    _show_check(Console(file=out, width=100), make_reading(40, "dropped"), has_run=has_run)
    assert out.getvalue().count(".txt") == num_shown
    assert ("check.json" in out.getvalue()) == has_run


def test_problems_that_stop_the_run_are_all_listed() -> None:
    out = io.StringIO()
    with pytest.raises(ValueError, match="40 problems, listed above"):
        _show_check(Console(file=out, width=100), make_reading(40, "error"), has_run=True)
    assert out.getvalue().count(".txt") == 40 and "check.json" not in out.getvalue()


def test_samples_beyond_the_most_stand_in_the_plan(session_cache: Path) -> None:
    settings = settings_of(
        "check_only=true",
        "data.copies=2",
        "data.max_samples=16",
        f"paths.cache={session_cache}",
    )
    samples = prepare_samples(settings, Console(file=io.StringIO()))
    plan = make_run_plan(settings, samples)
    assert len(samples.train.rows) == 16
    assert plan.dropped == {"max_samples": 18 * 2 - 16}
