"""Sweeps of real trainings, through the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.corpus.sample_corpus import load_sample

ROOT = Path(__file__).parents[2]
SHORT = ("data.copies=2", "logger=none", "hardware.num_workers=0")

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, session_cache: Path) -> Command:
    """``train.py`` in a process of its own, in an empty folder."""

    def command(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, ROOT / "train.py", *args],
            cwd=tmp_path,
            env=os.environ | {"AES_CACHE": str(session_cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return command


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=1800)
    return process.returncode, stdout, stderr


def only_sweep(folder: Path) -> Path:
    (sweep,) = (path.parent for path in folder.glob("multirun/*/*/sweep.json"))
    return sweep


def record(sweep: Path, name: str) -> dict[str, Any]:
    loaded = json.loads((sweep / "trials" / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def steps_logged(run_dir: Path) -> list[int]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["step"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.command
def test_a_sweep_of_two_trials_that_evaluation_can_pool(
    start: Command, evaluate: Callable[..., int], tmp_path: Path
) -> None:
    folds = ("data.fold=0,1", "data.num_folds=2")
    few = ("trainer.max_steps=1", "callbacks.sample_table.num_examples=0", "sweep=lora_rank")
    status, stdout, stderr = ended(start(*SHORT, *few, "adapter.rank=4", *folds))
    assert status == 0, stderr
    sweep = only_sweep(tmp_path)
    for name in "01":
        values = yaml.safe_load((sweep / name / "config.yaml").read_text())["config"]
        assert (values["adapter"]["rank"], values["adapter"]["alpha"]) == (4, 8)
        assert values["data"]["fold"] == int(name)
        metrics = json.loads((sweep / name / "metrics.json").read_text())
        assert record(sweep, name)["objective"] == metrics["val/qwk/total"]
    assert {"summary.csv", "summary.html"} < {path.name for path in sweep.iterdir()}
    assert "sweep: 2 of 2 trials finished" in stdout
    assert evaluate(f"run={sweep}", f"out={tmp_path / 'pooled'}", "num_resamples=0") == 0
    assert (tmp_path / "pooled" / "report.html").is_file()


@pytest.mark.slow
def test_a_trial_that_fails_in_the_middle(start: Command, tmp_path: Path) -> None:
    limits = "data.max_tokens=2048,200,2047"
    status, stdout, stderr = ended(start("-m", *SHORT, "trainer.max_steps=1", limits))
    assert status == 1
    sweep = only_sweep(tmp_path)
    assert [record(sweep, name)["state"] for name in "012"] == ["finished", "failed", "finished"]
    error = record(sweep, "1")["error"]
    assert error in stdout.replace("\n", " ")
    assert stderr.splitlines()[-1].startswith("Error: 1 of 3 trials failed (number 1)")
    assert "Traceback" not in stderr
    told = (sweep / "trials" / "1.json").read_text(encoding="utf-8")
    told += (sweep / "summary.html").read_text(encoding="utf-8")
    essays = [essay.text for essay in load_sample()]
    assert not any(text[i : i + 12] in told for text in essays for i in range(0, len(text), 12))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_sweep_goes_on_where_it_was(
    start: Command, tmp_path: Path, number: signal.Signals
) -> None:
    steps = ("trainer.max_steps=8", "trainer.log_every_n_steps=1")
    saves = "callbacks.checkpoint.every_n_train_steps=2"
    command = ("-m", *SHORT, *steps, saves, "seed=1,2")
    killed = start(*command)
    deadline = time.monotonic() + 900
    while not list(tmp_path.glob("multirun/*/*/1/checkpoints/step-*/manifest.json")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(number)
    status, _, stderr = ended(killed)
    assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in stderr
    sweep = only_sweep(tmp_path)
    first = (sweep / "0" / "metrics.json").stat().st_mtime_ns
    assert record(sweep, "1")["state"] == ("running" if number == signal.SIGKILL else "interrupted")
    status, stdout, stderr = ended(start(*command))
    assert status == 0, stderr
    assert "1 of 2 trials are finished" in stdout
    assert "going on after step" in stdout
    assert (sweep / "0" / "metrics.json").stat().st_mtime_ns == first
    assert steps_logged(sweep / "1") == list(range(1, 9))
    assert only_sweep(tmp_path) == sweep


SBATCH = r"""#!/bin/bash
# Runs the script at once, as often as its array says, and tells it what Slurm would.
script="${@: -1}"
cp "$script" submitted.sh
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
for i in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((7 + i)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i SLURM_PROCID=0 \
    SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NODELIST=here SLURM_JOB_NUM_NODES=1 \
    nohup bash "$script" >/dev/null 2>&1 &
done
echo "Submitted batch job 7"
"""
SRUN = r"""#!/bin/bash
while [[ $1 == --* ]]; do
  case $1 in --output|--error) shift 2 ;; *) shift ;; esac
done
exec "$@"
"""
SACCT = "#!/bin/bash\necho 'JobID|State'\n"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_trials_as_jobs_of_submitit(
    launcher: str, start: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's part is played by scripts that do at once what they are told."""
    pytest.importorskip("submitit", reason="needs the extra aes[submitit]")
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    jobs = [f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=20"]
    if launcher == "submitit_slurm":
        jobs.append("hydra.launcher.partition=gpu")
    status, stdout, stderr = ended(start("-m", *jobs, *SHORT, "trainer.max_steps=1", "seed=1,2"))
    assert status == 0, stderr
    sweep = only_sweep(tmp_path)
    assert [record(sweep, name)["state"] for name in "01"] == ["finished", "finished"]
    assert "sweep: 2 of 2 trials finished" in stdout
    assert list((sweep / ".submitit").glob("*/*_result.pkl"))
    if launcher == "submitit_slurm":
        script = (tmp_path / "submitted.sh").read_text()
        for line in ("--partition=gpu", "--nodes=1", "--ntasks-per-node=1", "--time=20"):
            assert f"#SBATCH {line}\n" in script
