"""A sweep from the command line to its folder, with a train.py that does nothing but obey."""

import csv
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aes.cli import entry, sweep_trial
from aes.cli.source import CONFIG_DIR

# What a trial is told by a file in the working directory, since its settings must be real ones.
FAKE = """
import json, os, sys, time
from pathlib import Path
told = json.loads(Path("told.json").read_text()) if Path("told.json").exists() else {}
args = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
run_dir = Path(args.get("hydra.run.dir", "none").strip("'"))
with open("started.jsonl", "a") as log:
    log.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\\n")
what = told.get(args.get("adapter.rank"), {})
if "check_only" not in args:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text("config: {}")
sys.stderr.write(what.get("stderr", ""))
sys.stderr.flush()
if "sleep_s" in what:
    Path("child.pid").write_text(str(os.getpid()))
    try:
        time.sleep(what["sleep_s"])
    except KeyboardInterrupt:
        sys.exit(130)
if "signal" in what:
    os.kill(os.getpid(), what["signal"])
if "check_only" not in args and not what.get("status"):
    objective = what.get("objective", 0.5)
    metrics = {} if objective is None else {"val/qwk/total": objective, "val/mae/total": 7.0}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (run_dir / "split.json").write_text(json.dumps({"val": ["a", "b"]}))
sys.exit(what.get("status", 0))
"""
RANKS = ("-m", "adapter.rank=4,8", "logger=none")


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the train.py above."""
    program = tmp_path / "fake" / "train.py"
    program.parent.mkdir()
    program.write_text(FAKE)
    monkeypatch.setattr(sweep_trial, "_TRAIN", program)
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def command(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *args])
        with pytest.raises(SystemExit) as stop:
            entry.train()
        return int(stop.value.code or 0)

    return command


def told(**ranks: dict[str, Any]) -> None:
    """Tells the trials by their rank what to do, e.g. ``r8={"status": 1}``."""
    Path("told.json").write_text(json.dumps({name[1:]: what for name, what in ranks.items()}))


def started() -> list[dict[str, str]]:
    """The settings of every trial that was started, in order; then forgets them."""
    path = Path("started.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    argvs = [json.loads(line)["argv"] for line in lines]
    return [dict(a.split("=", 1) for a in argv) for argv in argvs]


def ranks_started() -> list[str]:
    return [settings["adapter.rank"] for settings in started()]


def sweeps() -> list[Path]:
    return sorted(path.parent for path in Path("multirun").glob("*/*/sweep.json"))


def record(sweep: Path, name: str) -> dict[str, Any]:
    loaded = json.loads((sweep / "trials" / f"{name}.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def change_record(sweep: Path, name: str, **changes: Any) -> None:
    path = sweep / "trials" / f"{name}.json"
    path.write_text(json.dumps(record(sweep, name) | changes))


def as_killed(sweep: Path) -> None:
    """What a kill leaves behind: nobody says that the sweep is finished."""
    header = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps(header | {"is_finished": False}))


def test_each_trial_is_a_run_of_its_own_in_its_folder(train: Callable[..., int]) -> None:
    assert train(*RANKS, "seed=7") == 0
    (sweep,) = sweeps()
    trials = started()
    assert [one["adapter.rank"] for one in trials] == ["4", "8"]
    for number, one in enumerate(trials):
        assert one["hydra.run.dir"] == f"'{sweep.absolute() / str(number)}'"
        assert (one["hydra.mode"], one["seed"], one["logger"]) == ("RUN", "7", "none")
        assert not {"resume", "logger.group", "logger.tags", "hydra.sweep.dir"} & one.keys()


def test_a_trial_is_no_rank_and_keeps_the_rest_of_the_environment(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_TRAINER_GPUS")
    slurm = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME")
    for name in (*ranks, *slurm, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")
    assert train("-m", "adapter.rank=4") == 0
    environment = json.loads(Path("started.jsonl").read_text())["env"]
    assert not {*ranks, *slurm} & environment.keys()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_trials_are_one_group_in_wandb(train: Callable[..., int]) -> None:
    assert train("sweep=lora_rank", "adapter.rank=4,8", "logger.tags=[mine]") == 0
    one, other = started()
    assert one["logger.group"] == other["logger.group"] != "''"
    assert one["logger.group"].startswith("'lora_rank-")
    assert one["logger.tags"] == "['mine','sweep','lora_rank']"
    assert other["logger.name"] == "'adapter.rank=8'"
    assert train("-m", "adapter.rank=4", "logger.group=ours") == 0
    assert [s["logger.group"] for s in started()] == ["ours"]


def test_the_summary_names_what_varied_and_the_best(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    told(r4={"objective": 0.2}, r8={"objective": 0.6}, r16={"objective": None})
    assert train("-m", "adapter.rank=4,8,16", "logger=none") == 0
    (sweep,) = sweeps()
    rows = list(csv.DictReader((sweep / "summary.csv").open()))
    assert [row["adapter.rank"] for row in rows] == ["4", "8", "16"]
    assert [row["val/qwk/total"] for row in rows] == ["0.2", "0.6", ""]
    assert [row["best"] for row in rows] == ["", "yes", ""]
    assert {row["state"] for row in rows} == {"finished"}, "no validation is no failure"
    out = capsys.readouterr().out
    assert f"python evaluate.py run={sweep.absolute() / '1'} baseline=true" in out
    assert "2 essays validated each trial" in " ".join(out.split())


def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    essay = "春天来了我和妈妈一起去公园看花"
    told(r8={"status": 1, "stderr": f"warning\n{essay}\nError: the disk is full; make room\n"})
    three = ("-m", "adapter.rank=4,8,16", "logger=none")
    assert train(*three) == 1
    assert ranks_started() == ["4", "8", "16"]
    (sweep,) = sweeps()
    failed = record(sweep, "1")
    assert (failed["state"], failed["status"]) == ("failed", 1)
    assert failed["error"] == "the disk is full; make room"
    assert essay[:9] not in json.dumps(failed, ensure_ascii=False)
    assert "warning" in failed["stderr"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: 1 of 3 trials failed (number 1)")
    told()
    assert train(*three) == 0
    (again,) = started()
    assert (again["adapter.rank"], again["resume"]) == ("8", "auto")
    assert sweeps() == [sweep]


def test_the_same_command_after_a_kill_runs_what_is_missing(train: Callable[..., int]) -> None:
    three = ("-m", "adapter.rank=4,8,16", "logger=none")
    assert train(*three) == 0
    (sweep,) = sweeps()
    as_killed(sweep)
    change_record(sweep, "1", state="running", objective=None, seconds=1000.0)
    (sweep / "trials" / "2.json").unlink()
    shutil.rmtree(sweep / "2")
    started()
    assert train("-m", "logger=none", "adapter.rank=4,8,16") == 0, "the order means nothing"
    cut_short, missing = started()
    assert (cut_short["adapter.rank"], cut_short["resume"]) == ("8", "auto")
    assert cut_short["hydra.run.dir"] == f"'{sweep.absolute() / '1'}'"
    assert missing["adapter.rank"] == "16"
    assert "resume" not in missing
    assert record(sweep, "1")["seconds"] > 1000, "time before the kill counts"
    assert sweeps() == [sweep]
    assert json.loads((sweep / "sweep.json").read_text())["is_finished"]


def test_a_finished_sweep_is_left_alone(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*RANKS) == train(*RANKS) == 0
    assert len(sweeps()) == 2
    assert len(started()) == 4
    assert train(*RANKS, f"hydra.sweep.dir={sweeps()[0]}") == 0
    assert started() == []
    assert "all 2 trials in" in capsys.readouterr().out


def test_a_sweep_that_somebody_works_on_is_left_to_them(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    told(r4={"status": 1})
    assert train(*RANKS) == 1
    (sweep,) = sweeps()
    with (sweep / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert train(*RANKS, f"hydra.sweep.dir={sweep}") == 1
        assert "another process works on" in capsys.readouterr().err
        assert train(*RANKS) == 1
    assert len(sweeps()) == 2


def test_a_folder_of_something_else_is_refused(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert train(*RANKS, "hydra.sweep.dir=mine") == 1
    assert "is in use by something else" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]
    assert train(*RANKS, "hydra.sweep.dir=other") == 0
    assert train(*RANKS, "hydra.sweep.dir=other", "seed=2") == 1
    assert "holds the sweep of another command" in capsys.readouterr().err


def test_a_trial_whose_settings_changed_is_run_again_and_the_old_one_kept(
    train: Callable[..., int], tmp_path: Path
) -> None:
    conf = shutil.copytree(CONFIG_DIR, tmp_path / "conf")
    command = (f"--config-path={conf}", "sweep=lora_rank", "adapter.rank=4,8")
    told(r8={"status": 1})
    assert train(*command) == 1
    (sweep,) = sweeps()
    (sweep / "0" / "old").touch()
    adamw = conf / "optim" / "adamw.yaml"
    adamw.write_text(adamw.read_text().replace("weight_decay: 0.0", "weight_decay: 0.1"))
    told()
    started()
    assert train(*command) == 0
    argv = started()
    assert [one["adapter.rank"] for one in argv] == ["4", "8"]
    assert "resume" not in argv[0]
    assert argv[0]["--config-path"] == str(conf)
    assert not (sweep / "0" / "old").exists()
    assert (sweep / "replaced" / "0-1" / "old").exists()
    # Pooled evaluation looks for <sweep>/*/config.yaml.
    assert {path.parent.name for path in sweep.glob("*/config.yaml")} == {"0", "1"}


def test_check_only_leaves_nothing_and_returns_the_worst_status(train: Callable[..., int]) -> None:
    assert train(*RANKS, "check_only=true") == 0
    assert ranks_started() == ["4", "8"]
    told(r8={"status": 1})
    assert train(*RANKS, "check_only=true") == 1
    assert not Path("multirun").exists()


def test_a_sweep_over_groups(train: Callable[..., int]) -> None:
    groups = ("page=plain,squared_paper", "data.fold=1", "data.num_folds=3")
    assert train("-m", *groups, "logger=none") == 0
    varied = [record(sweeps()[0], str(n))["varied"] for n in range(2)]
    assert varied == [{"page": "plain"}, {"page": "squared_paper"}]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("-m adapter.rank=4,0", "adapter.rank: must be at least 1, got 0"),
        ("sweep=lora_rank run_dir=a", "run_dir cannot be combined"),
        ("sweep=lora_rnak", "did you mean sweep=lora_rank"),
        ("sweep=dropout adapter=lora_experts", "adapter.dropout: must be 0 with experts"),
        ("sweep=lora_rank hydra.sweep.subdir=x", "whose trials are numbered"),
        ("-m seed=interval(1,3)", "does not support sweep type"),
    ],
)
def test_a_mistake_is_one_sentence_and_starts_nothing(
    train: Callable[..., int], capfd: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    assert train(*command.split()) == 1
    stderr = capfd.readouterr().err
    assert words in stderr
    assert stderr.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_ranks_do_not_sweep(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one_of_two = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**one_of_two, "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert train(*RANKS) == 1
    assert "start it once, without torchrun or srun" in capfd.readouterr().err


def test_a_search_without_the_extra_names_it(
    train: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    if find_spec("optuna") is not None:
        pytest.skip("the extra is installed here")
    assert train("sweep=search") == 1
    said = capfd.readouterr().err
    assert said.startswith("Error: hydra/sweeper=optuna needs an extra that is not installed")
    assert "pip install 'aes[optuna]'" in said


def driven(place: Path, *args: str) -> subprocess.Popen[str]:
    """The command in a process of its own, so that it can be stopped."""
    program = (
        "import sys; from pathlib import Path; from aes.cli import entry, sweep_trial\n"
        f"sweep_trial._TRAIN = Path({str(sweep_trial._TRAIN)!r})\n"
        f"sys.argv = ['train.py', *{args!r}]\nentry.train()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=place, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_stops_the_sweep_and_its_trial(
    train: Callable[..., int], place: Path, number: signal.Signals, status: int
) -> None:
    told(r8={"sleep_s": 600})
    running = driven(place, *RANKS)
    wait_for(Path("child.pid").exists)
    wait_for(lambda: bool(Path("child.pid").read_text()))
    pid = int(Path("child.pid").read_text())
    running.send_signal(number)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == status
    wait_for(lambda: not is_alive(pid))
    (sweep,) = sweeps()
    assert record(sweep, "1")["state"] == ("running" if status < 0 else "interrupted")
    assert next(csv.DictReader((sweep / "summary.csv").open()))["state"] == "finished"
    if number != signal.SIGKILL:
        assert "the same command goes on with it" in stderr
        assert "Traceback" not in stderr
    told()
    started()
    assert train(*RANKS) == 0
    again = started()
    assert [one["adapter.rank"] for one in again] == ["8"]
    assert again[0]["resume"] == "auto"


def proposed() -> list[tuple[str, str]]:
    return [(one["optim.lr"], one["adapter.rank"]) for one in started()]


def test_a_search_proposes_the_same_trials_again_after_a_kill(train: Callable[..., int]) -> None:
    pytest.importorskip("optuna", reason="needs the extra aes[optuna]")
    command = ("sweep=search", "hydra.sweeper.n_trials=4", "logger=none")
    told(r64={"status": 1})
    train(*command)
    (sweep,) = sweeps()
    once = proposed()
    assert len(set(once)) == 4
    as_killed(sweep)
    for name in ("2", "3"):
        (sweep / "trials" / f"{name}.json").unlink()
        shutil.rmtree(sweep / name)
    told()
    assert train(*command) == 0
    again = proposed()
    assert again[-2:] == once[-2:]
    assert set(again[:-2]) <= set(once[:2]), "failed ones are tried again"
    assert sweeps() == [sweep]
    assert (sweep / "optimization_results.yaml").is_file()


def test_a_search_in_which_nothing_works_ends_with_a_sentence(
    train: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="needs the extra aes[optuna]")
    told(**{f"r{rank}": {"status": 1} for rank in (8, 16, 32, 64)})
    assert train("sweep=search", "hydra.sweeper.n_trials=2", "logger=none") == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("Error: 2 of 2 trials failed")
    assert train("sweep=search", "data.val_fraction=0") == 1
    assert "a search learns from validation" in capfd.readouterr().err
