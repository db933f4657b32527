"""What a sweep's command line asks for, its folder, and the process of one trial."""

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.settings import bind_settings
from aes.cli.source import CONFIG_DIR, Source
from aes.cli.sweep_child import run_child, without_ranks
from aes.cli.sweep_claim import claim_sweep
from aes.cli.sweep_folder import Record
from aes.cli.sweep_jobs import SweepPlan, plan_sweep
from aes.cli.texts import find_monitor
from aes.model import LoraSpec

GRIDS = sorted({path.stem for path in (CONFIG_DIR / "sweep").glob("*.yaml")} - {"search"})
AGENTS = CONFIG_DIR.parent / "docs" / "wandb_sweep.yaml"


def source(*overrides: str) -> Source:
    return Source(config_dir=CONFIG_DIR, config_name="train", overrides=overrides)


def lora_of(*overrides: str) -> LoraSpec:
    asked = source(*overrides)
    config = compose(asked)
    adapter = bind_settings(resolve(without_hydra(config), config.hydra, asked)).adapter
    assert isinstance(adapter, LoraSpec)
    return adapter


@pytest.mark.parametrize("name", GRIDS)
def test_every_sweep_can_start_and_says_how(name: str) -> None:
    text = (CONFIG_DIR / "sweep" / f"{name}.yaml").read_text()
    assert f"# python train.py sweep={name}\n" in text
    plan = plan_sweep(source(f"sweep={name}"))
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    assert plan.name == name
    assert plan.varied == tuple(params)
    assert plan.num_trials == len(plan.jobs) == len(set(plan.jobs)) > 2
    assert plan.is_grid


def test_alpha_is_twice_the_rank() -> None:
    jobs = plan_sweep(source("sweep=lora_rank")).jobs
    adapters = [lora_of(*job) for job in (jobs[0], jobs[-1])]
    assert [(one.rank, one.alpha) for one in adapters] == [(8, 16), (64, 128)]
    assert lora_of("sweep=lora_rank", "adapter.rank=4", "adapter.alpha=4").alpha == 4


def test_the_command_line_replaces_what_a_sweep_varies() -> None:
    plan = plan_sweep(source("sweep=schedule", "optim.warmup_ratio=0.1", "seed=1,2"))
    assert plan.varied == ("optim.schedule", "seed")
    assert plan.jobs[0] == (
        "optim.schedule=cosine",
        "optim.warmup_ratio=0.1",
        "sweep=schedule",
        "seed=1",
    )
    assert plan.num_trials == 4


def planned(path: Path, *overrides: str, chosen: bool = False) -> SweepPlan:
    """A plan as it would come out, made without composing."""
    return SweepPlan(
        source=source(*overrides),
        name="sweep",
        varied=("seed",),
        num_trials=2,
        jobs=(("seed=1",), ("seed=2",)),
        is_grid=True,
        check_only=False,
        sweep_dir=path,
        dir_is_chosen=chosen,
    )


def record(name: str) -> Record:
    return Record(
        name=name,
        overrides=(f"seed={name}", "logger=none"),
        varied={"seed": name},
        settings="x",
        state="running",
        monitor="val/qwk/total",
    )


def test_the_newest_unfinished_sweep_of_a_command_is_gone_on_with(tmp_path: Path) -> None:
    command = ("-m", "seed=1,2", "logger=none")
    old, new = (tmp_path / "2026-01-01" / time for time in ("10-00-00", "11-00-00"))
    first = claim_sweep(planned(old, *command, "hydra.launcher.nodes=1"))
    assert (first.is_new, first.folder.path) == (True, old)
    beside = claim_sweep(planned(new, *command))
    assert beside.folder.path == new, "the first is still worked on"
    first.lock.close()
    beside.lock.close()
    again = claim_sweep(planned(tmp_path / "2026-01-02" / "09-00-00", *reversed(command)))
    assert (again.is_new, again.folder.path) == (False, new)
    assert again.folder.group == beside.folder.group
    again.close()
    again.lock.close()
    third = claim_sweep(planned(tmp_path / "2026-01-02" / "09-00-00", *command))
    assert third.folder.path == old, "the newest one is finished"
    assert claim_sweep(planned(old, "seed=1,3")).folder.path == old.with_name("10-00-00-2")


def test_a_damaged_sweep_does_not_stop_others(tmp_path: Path) -> None:
    (tmp_path / "day" / "one").mkdir(parents=True)
    (tmp_path / "day" / "one" / "sweep.json").write_text("{")
    assert claim_sweep(planned(tmp_path / "day" / "two", "seed=1,2")).is_new
    with pytest.raises(ValueError, match=r"sweep\.json is damaged"):
        claim_sweep(planned(tmp_path / "day" / "one", "seed=1,2", chosen=True))


def test_records_come_back_in_order_and_by_command(tmp_path: Path) -> None:
    folder = claim_sweep(planned(tmp_path / "a" / "b", "seed=1,2")).folder
    for name in ("10", "2", "0"):
        folder.write(record(name))
    assert [one.name for one in folder.records()] == ["0", "2", "10"]
    assert folder.find(("logger=none", "seed=2")) == record("2")
    assert folder.find(("seed=2",)) is None
    assert [folder.free_name(number) for number in (0, 1, 2)] == ["1", "1", "3"]
    (tmp_path / "a" / "b" / "trials" / "2.json").write_text('{"name": 1}')
    with pytest.raises(ValueError, match=r"2\.json is not a trial's record"):
        folder.records()


def test_what_is_put_aside_is_kept(tmp_path: Path) -> None:
    folder = claim_sweep(planned(tmp_path / "a" / "b", "seed=1,2")).folder
    for text in ("first", "second"):
        (folder.run_dir("0")).mkdir()
        (folder.run_dir("0") / "note").write_text(text)
        folder.put_aside("0")
    kept = [folder.path / "replaced" / f"0-{n}" / "note" for n in (1, 2)]
    assert [path.read_text() for path in kept] == ["first", "second"]
    folder.put_aside("1")


def test_a_trial_is_told_nothing_about_ranks() -> None:
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "9", "AES_RANKS": "3"}
    others = {"SLURM_PROCID": "1", "PL_GLOBAL_SEED": "1", "TORCHELASTIC_RUN_ID": "x"}
    kept = {"CUDA_VISIBLE_DEVICES": "0", "PATH": "/bin", "WANDB_MODE": "offline"}
    assert without_ranks({**ranks, **others, **kept}) == kept


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_lock_of_a_trial_outlives_its_sweep(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    look = (
        "import fcntl, sys\n"
        f"with open({str(path)!r}, 'ab') as file:\n"
        "    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: sys.exit(7)"
    )
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holder = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        process = subprocess.Popen(holder, stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    assert run_child([sys.executable, "-c", look]).status == 7
    process.communicate()
    assert run_child([sys.executable, "-c", look]).status == 0


def test_what_a_trial_leaves_running_is_ended(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(left.pid))"
    )
    assert run_child([sys.executable, "-c", program]).status == 0
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("sys.exit(3)", 3, "the process ended with status 3"),
        ("os.kill(os.getpid(), 9)", -9, "the process was ended by SIGKILL"),
        ("{}['春天来了我和妈妈一起去公园看花']", 1, "KeyError, a bug"),
        ("print('Error: no room', file=sys.stderr); sys.exit(1)", 1, "no room"),
    ],
)
def test_how_a_trial_failed_is_told_without_what_it_read(
    program: str, status: int, error: str
) -> None:
    ended = run_child([sys.executable, "-c", f"import os, sys; {program}"])
    assert ended.status == status
    assert ended.error.startswith(error)
    assert "妈妈" not in "".join(ended.stderr)


def test_a_trial_that_went_well_has_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('a warning', file=sys.stderr)"
    ended = run_child([sys.executable, "-c", program])
    assert (ended.status, ended.error, ended.stderr) == (0, "", ())
    assert capsys.readouterr().err == "a warning\n"


def agent_command(pick: int) -> list[str]:
    """What W&B's agent starts with the first value of each key (0), or the last (-1)."""
    sweep = yaml.safe_load(AGENTS.read_text())
    ends = {
        key: given.get("values") or [given["min"], given["max"]]
        for key, given in sweep["parameters"].items()
    }
    macros = create_sweep_command_args(
        {"args": {key: {"value": end[pick]} for key, end in ends.items()}}
    )
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    line: list[str] = []
    for part in create_sweep_command(sweep["command"]):
        is_macro = part.startswith("${") and part.endswith("}")
        line += macros[part[2:-1]] if is_macro else [part]
    return line


def test_what_wandb_agents_start_is_a_run_that_binds() -> None:
    sweep = yaml.safe_load(AGENTS.read_text())
    lines = [agent_command(pick) for pick in (0, -1)]
    ranks = []
    for line in lines:
        assert line[:3] == ["/usr/bin/env", "python", "train.py"]
        adapter = lora_of(*line[3:])
        assert adapter.alpha == 2 * adapter.rank
        ranks.append(adapter.rank)
    assert ranks == [8, 64]
    assert sweep["metric"] == {"name": "val/qwk/total", "goal": "maximize"}
    config = compose(source(*lines[0][3:]))
    assert find_monitor(config) == sweep["metric"]["name"]
    assert config.logger.mode == "online"


def test_a_plan_is_not_changed_by_what_is_found(tmp_path: Path) -> None:
    plan = planned(tmp_path / "a" / "b", "seed=1,2")
    claimed = claim_sweep(plan)
    header = json.loads((claimed.folder.path / "sweep.json").read_text())
    assert header["command"] == ["seed=1,2"]
    assert not header["is_finished"]
    claimed.lock.close()
    changed = claim_sweep(replace(plan, num_trials=5))
    assert changed.folder.num_trials == 5
