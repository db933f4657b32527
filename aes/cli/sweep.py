"""``python train.py sweep=NAME`` or ``-m``: from the command line to a folder of trials.

Wiring only: Hydra says which trials there are, or asks a sampler; each is run by ``sweep_trial``.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from types import FrameType

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from rich.text import Text

from aes.cli.hydra_errors import errors_in_plain_words
from aes.cli.source import VERSION_BASE, Source
from aes.cli.sweep_child import run_child
from aes.cli.sweep_claim import Claimed, claim_sweep
from aes.cli.sweep_folder import Record, SweepFolder
from aes.cli.sweep_jobs import SweepPlan, plan_sweep
from aes.cli.sweep_summary import show_sweep, summarise
from aes.cli.sweep_trial import RunTrial, own_settings, quote, trial_command
from aes.ranks import find_ranks

STATUS_FAILED = 1


def run_sweep(source: Source) -> int:
    """Runs the trials that are missing, and sums up all of them.

    Returns:
        Exit status: 0, or 1 if a trial failed.

    Raises:
        ValueError: If the sweep cannot start; nothing is written then.
    """
    if find_ranks().num_ranks > 1:
        raise ValueError(
            "a sweep starts the ranks of each trial itself; start it once, without torchrun or srun"
        )
    plan = plan_sweep(source)
    with _stopped_by_signals(plan):
        if plan.check_only:
            return _check_trials(plan)
        claimed = claim_sweep(plan)
        with closing(claimed.lock):
            _say_where(claimed)
            with errors_in_plain_words(source):
                _run_trials(plan, claimed.folder)
            return _finish(plan, claimed)


def _check_trials(plan: SweepPlan) -> int:
    """Plans each trial, which leaves nothing behind."""
    commands = [trial_command(plan.source, job, []) for job in plan.jobs]
    return max(abs(run_child(command).status) for command in commands)


def _run_trials(plan: SweepPlan, folder: SweepFolder) -> None:
    """Lets Hydra's sweeper and launcher call the trials."""
    task = RunTrial(folder=folder, source=plan.source, tags=("sweep", plan.name))
    elsewhere = ("hydra.sweep.dir=", "hydra.mode=")
    asked = [o for o in plan.source.overrides if not o.startswith(elsewhere)]
    # What became of a trial is for our table to say.
    logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)
    with suppress(ImportError):  # an extra
        import_module("optuna").logging.set_verbosity(logging.WARNING)
    with initialize_config_dir(
        version_base=VERSION_BASE,
        config_dir=str(plan.source.config_dir),
        job_name=plan.source.config_name,
    ):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            hydra.multirun(
                plan.source.config_name,
                task,
                [*asked, f"hydra.sweep.dir={quote(str(folder.path))}"],
                with_log_configuration=False,
            )
        except ValueError:
            # Optuna's own, where no trial came to anything; our table says what became of each.
            if plan.is_grid or any(one.objective is not None for one in folder.records()):
                raise


def _say_where(claimed: Claimed) -> None:
    folder = claimed.folder
    num = sum(one.state == "finished" for one in folder.records())
    if claimed.is_new:
        said = f"sweep of {folder.num_trials} trials in {folder.path}"
    elif num == folder.num_trials:
        said = (
            f"all {num} trials in {folder.path} are finished; another hydra.sweep.dir=DIR starts "
            "the sweep anew"
        )
    else:
        said = f"going on with {folder.path}: {num} of {folder.num_trials} trials are finished"
    Console().print(Text(said), soft_wrap=True)


def _finish(plan: SweepPlan, claimed: Claimed) -> int:
    """Shows the table; a sweep of which nothing is missing is closed."""
    show_sweep(summarise(claimed.folder))
    missing = [one for one in _wanted(plan, claimed.folder) if one.state != "finished"]
    if not missing:
        claimed.close()
        return 0
    names = ", ".join(one.name for one in missing)
    sys.stderr.write(
        f"Error: {len(missing)} of {claimed.folder.num_trials} trials failed (number {names}); "
        "correct the cause, and the same command runs only what is missing\n"
    )
    return STATUS_FAILED


def _wanted(plan: SweepPlan, folder: SweepFolder) -> list[Record]:
    """The trials of this command; a grid that was changed since leaves others behind."""
    records = folder.records()
    if not plan.is_grid:
        return records
    jobs = {tuple(sorted(own_settings(job))) for job in plan.jobs}
    return [one for one in records if tuple(sorted(one.overrides)) in jobs]


@contextmanager
def _stopped_by_signals(plan: SweepPlan) -> Iterator[None]:
    """SIGTERM ends the trial and the sweep as Ctrl-C does, under its own status."""

    def stop(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not plan.check_only:
            sys.stderr.write("The sweep was stopped; the same command goes on with it.\n")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
