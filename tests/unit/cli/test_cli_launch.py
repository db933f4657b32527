"""Ranks of a run as real processes: who they are, what is shown, and what ends them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from aes.cli.launch import STATUS_LOST_CONTACT, must_launch, run_ranks
from aes.hardware import HardwareSpec
from aes.ranks import ALONE, Ranks, find_ranks

ROOT = Path(__file__).parents[3]


def _line(code: str) -> list[str]:
    start = "import os, sys, time, signal\nrank = int(os.environ['RANK'])\n"
    return [sys.executable, "-c", start + textwrap.dedent(code)]


def test_every_rank_is_told_who_it_is(tmp_path: Path) -> None:
    code = f"""
    from aes.ranks import find_ranks
    ranks = find_ranks()
    ranks.connect("cpu")
    told = ranks.gather((ranks.rank, ranks.local_rank, ranks.num_ranks, ranks.num_nodes))
    open(r"{tmp_path}/" + str(rank), "w").write(repr((told, ranks.broadcast(rank))))
    ranks.disconnect()
    """
    assert run_ranks(_line(code), 2) == 0
    expected = repr(([(0, 0, 2, 1), (1, 1, 2, 1)], 0))
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [expected, expected]


def test_only_the_first_rank_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_ranks(_line("print('out', rank); print('err', rank, file=sys.stderr)"), 2) == 0
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


def test_the_first_to_fail_says_why_and_the_others_are_stopped(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = "sys.exit('Error: no luck') if rank == 1 else time.sleep(600)"
    started = time.monotonic()
    assert run_ranks(_line(code), 2) == 1
    assert time.monotonic() - started < 60
    assert capfd.readouterr().err == "rank 1: Error: no luck\n"


def test_who_only_lost_contact_is_not_to_blame(capfd: pytest.CaptureFixture[str]) -> None:
    code = f"""
    if rank == 0:
        sys.exit({STATUS_LOST_CONTACT})
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_ranks(_line(code), 2) == 1
    assert "rank 1 was ended by SIGKILL" in capfd.readouterr().err


def test_a_signal_reaches_each_rank_once_and_their_answer_is_the_status(tmp_path: Path) -> None:
    rank = """
    count = 0
    def note(*_):
        global count
        count += 1
    signal.signal(signal.SIGTERM, note)
    open(sys.argv[1] + "/" + str(rank), "w").close()
    while not count:
        time.sleep(0.05)
    time.sleep(0.5)
    sys.exit(140 + count)
    """
    parent = _parent(rank, tmp_path)
    _await(lambda: len(list(tmp_path.iterdir())) == 2)
    os.killpg(parent.pid, signal.SIGTERM)
    assert parent.wait(30) == 141


def test_ranks_end_with_the_parent_however_it_ends(tmp_path: Path) -> None:
    rank = """
    from aes.cli.launch import end_with_parent
    end_with_parent()
    open(sys.argv[1] + "/" + str(os.getpid()), "w").close()
    time.sleep(600)
    """
    parent = _parent(rank, tmp_path)
    _await(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.wait()
    _await(lambda: not [p for p in tmp_path.iterdir() if _is_alive(int(p.name))])


def _parent(rank: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process in a session of its own that launches two ranks with this code."""
    code = f"""
    import sys
    from aes.cli.launch import run_ranks
    sys.exit(run_ranks({_line(textwrap.dedent(rank))!r} + [sys.argv[1]], 2))
    """
    line = [sys.executable, "-c", textwrap.dedent(code), folder]
    return subprocess.Popen(line, cwd=ROOT, start_new_session=True)


def _is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _await(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.05)


def _torchrun(**changes: str) -> dict[str, str]:
    return {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
    } | changes


def test_torchrun_and_slurm_are_understood() -> None:
    expected = Ranks(rank=3, local_rank=1, num_ranks=4, num_nodes=2, from_outside=True)
    slurm = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODELIST": "here",
    }
    assert find_ranks(_torchrun()) == expected
    assert find_ranks(slurm) == expected


def test_ranks_of_srun_meet_where_the_job_says() -> None:
    code = """
    from aes.ranks import find_ranks
    ranks = find_ranks()
    ranks.connect("cpu")
    assert ranks.gather(ranks.rank) == [0, 1]
    ranks.disconnect()
    """
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NAME": "train",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "SLURM_"))}
    line = [sys.executable, "-c", textwrap.dedent(code)]
    tasks = [
        subprocess.Popen(
            line, cwd=ROOT, env=kept | job | {"SLURM_PROCID": str(n), "SLURM_LOCALID": "0"}
        )
        for n in range(2)
    ]
    assert [task.wait(60) for task in tasks] == [0, 0]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "1", "WORLD_SIZE": "2"},  # left behind by something else
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # sbatch's own script
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_without_a_starter_a_process_is_alone(environment: dict[str, str]) -> None:
    assert find_ranks(environment) == ALONE


@pytest.mark.parametrize(
    "changes", [{"RANK": "x"}, {"RANK": "4"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": "3"}]
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="torchrun"):
        find_ranks(_torchrun(**changes))


def test_who_must_launch(read_conf: Any) -> None:
    one = HardwareSpec(**read_conf("hardware/cpu"))
    two = HardwareSpec(**read_conf("hardware/cpu", devices=2))
    nodes = HardwareSpec(**read_conf("hardware/cpu", num_nodes=2))
    assert not must_launch(one, ALONE)
    assert must_launch(two, ALONE)
    assert not must_launch(two, find_ranks(_torchrun(RANK="1", WORLD_SIZE="2")))
    assert not must_launch(
        nodes, find_ranks(_torchrun(RANK="1", LOCAL_RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="1"))
    )
    with pytest.raises(ValueError, match="on every node by torchrun or srun"):
        must_launch(nodes, ALONE)
    with pytest.raises(ValueError, match="4 ranks were started on 2 node"):
        must_launch(two, find_ranks(_torchrun()))
