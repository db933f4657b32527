"""What README.md and docs/ tell people to type works, and what they say is there is there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aes.corpus import load_sample
from aes.prompt import AnswerSchema
from aes.rubric import Rubric

ROOT = Path(__file__).parents[2]
README, README_ZH = ROOT / "README.md", ROOT / "README.zh.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MOST_LINES = 75
"""One screen."""

INSTALL_AND_TEST = "pip install -e '.[dev]' && pytest -n 2 --dist loadfile"


def commands_of(page: Path) -> list[str]:
    """Lines of the fenced bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [
        c
        for b in blocks
        for c in (shlex.join(shlex.split(line, comments=True)) for line in b.splitlines())
        if c
    ]


def commands_of_pages() -> list[str]:
    """Every command of ours on the English pages, once."""
    parts = (part for page in PAGES for line in commands_of(page) for part in line.split(" '&&' "))
    return sorted({part for part in parts if part.startswith("python ")})


def test_the_first_two_commands_are_the_promised_ones() -> None:
    assert "\npip install -e . && python train.py\n" in README.read_text(encoding="utf-8")
    assert f"\n{INSTALL_AND_TEST}\n" in README.read_text(encoding="utf-8")


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    """It takes the line from README.md by this pattern, so that the two cannot diverge."""
    pattern = re.compile(r"^pip install .* && pytest .*$", re.MULTILINE)
    assert pattern.pattern in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert pattern.findall(README.read_text(encoding="utf-8")) == [INSTALL_AND_TEST]


TRAINING = [c for c in commands_of_pages() if "train.py" in c]
ON_A_RUN = [c for c in commands_of_pages() if "train.py" not in c]


@pytest.mark.command
@pytest.mark.parametrize("command", TRAINING)
def test_training_command_works(
    command: str,
    train: Callable[..., int],
    cheap: tuple[str, ...],
    aes_root: Path,
    tmp_path: Path,
) -> None:
    names = {"data.root=DIR": f"data.root={aes_root}", "model.path=MODEL_DIR": ""}
    python, script, *rest = shlex.split(command)
    assert (python, script) == ("python", "train.py"), command
    args = [arg for arg in (names.get(arg, arg) for arg in rest) if arg]
    assert not [arg for arg in args if arg.endswith("DIR")], "a name that no test fills in"
    needs_gpu = any(arg.startswith(("experiment=", "hardware=")) for arg in args)
    if needs_gpu and "check_only=true" not in args:
        args.append("check_only=true")
    if any(arg.startswith("sweep=") for arg in args):  # one of its trials will do
        args.append("adapter.rank=8")
    if "check_only=true" not in args and "--cfg" not in args:
        args = [arg for arg in args if arg.partition("=")[0] != "run_dir"]
        if any(arg.startswith("data.fold=") for arg in args):  # two of the folds will do
            args = [arg.replace("0,1,2,3,4", "0,1") for arg in args]
        place = "hydra.sweep.dir" if "-m" in args else "run_dir"
        args += [*cheap, f"{place}={tmp_path / 'run'}"]
    assert train(*args) == 0


@pytest.fixture(scope="session")
def calibrated_run(train_once: Callable[..., Path]) -> Path:
    """A run that holds out enough essays to be calibrated on."""
    return train_once("readme", "data.val_fraction=0.4")


@pytest.fixture
def two_folds(train_once: Callable[..., Path], tmp_path: Path) -> Path:
    """What the sweep over the folds leaves."""
    for fold in (0, 1):
        run = train_once(f"readme{fold}", f"data.fold={fold}", "data.num_folds=2")
        shutil.move(run, tmp_path / "sweep" / str(fold))
    return tmp_path / "sweep"


@pytest.mark.command
@pytest.mark.parametrize("command", ON_A_RUN)
def test_command_on_a_run_works(
    command: str,
    request: pytest.FixtureRequest,
    evaluate: Callable[..., int],
    predict: Callable[..., int],
    calibrated_run: Path,
    tmp_path: Path,
) -> None:
    python, script, *rest = shlex.split(command)
    assert python == "python", command
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    essay = load_sample()[0]
    (inbox / "essay.txt").write_text(f"{essay.title}\n{essay.text}", encoding="utf-8")
    names: dict[str, Callable[[], object]] = {
        "run=RUN_DIR": lambda: f"run={calibrated_run}",
        "run=multirun/DATE/TIME": lambda: f"run={request.getfixturevalue('two_folds')}",
        "input=FOLDER": lambda: f"input={inbox}",
        "input=PAGE": lambda: f"input={inbox / 'essay.txt'}",
    }
    args = [str(names[arg]()) if arg in names else arg for arg in rest]
    assert not [arg for arg in args if re.search(r"=[A-Z/_]+$", arg)], "a name that nothing fills"
    if any(arg.startswith("calibration=") for arg in args):
        assert evaluate(f"run={calibrated_run}", "split=val", "num_resamples=0") == 0
    if script == "evaluate.py":
        assert evaluate(*args, "num_resamples=20", "fresh=true") == 0
    else:
        assert script == "predict.py", command
        short = ["decoding.max_answer_tokens=8"] if "question" in command else []
        assert predict(*args, *short) == 0


def test_both_readmes_list_the_same_commands() -> None:
    assert commands_of(README) == commands_of(README_ZH)


@pytest.mark.parametrize("page", [README, README_ZH], ids=lambda page: page.name)
def test_readme_fits_one_screen(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", [README, README_ZH], ids=lambda page: page.name)
def test_tree_is_of_this_repository(page: Path) -> None:
    (tree,) = re.findall(r"```\n(train\.py.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in tree.splitlines() if line]
    inside = {line.split()[0].rstrip("/") for line in lines if line.startswith("  ")}
    there = {
        path.name
        for path in (ROOT / "aes").iterdir()
        if not path.name.startswith("__") and path.name != "py.typed"
    }
    assert inside == there
    for line in lines:
        name = line.split()[0]
        path = ROOT / ("aes" if line.startswith("  ") else "") / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


@pytest.mark.parametrize("page", [*PAGES, README_ZH], ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    for target in links:
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:aes|conf|tests|benchmarks)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_page_on_configuration_lists_each_groups_options() -> None:
    listed: dict[str, set[str]] = {}
    table, _, _ = CONFIGURATION.read_text(encoding="utf-8").partition("To find a key")
    for row in re.findall(r"^\| (`.*) \|$", table, re.MULTILINE):
        groups, _, options = row.split(" | ")
        names = [set(re.findall(r"`(\w+)`", part)) for part in options.split(";")]
        listed |= zip(re.findall(r"`(\w+)`", groups), names, strict=True)
    there: dict[str, set[str]] = {}
    for path in (ROOT / "conf").glob("*/*.yaml"):
        there.setdefault(path.parent.name, set()).add(path.stem)
    assert listed == there


def test_the_page_on_configuration_tells_what_options_pull_in() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    rows = re.findall(r"^- `(\w+=\w+)` picks (.*)$", text, re.MULTILINE)
    told = {option: set(re.findall(r"`(\w+)`", groups)) for option, groups in rows}
    pulled = {
        f"{path.parent.name}={path.stem}": set(re.findall(r"override /(\w+)@_global_", content))
        for path in (ROOT / "conf").glob("*/*.yaml")
        if "@_global_" in (content := path.read_text(encoding="utf-8"))
    }
    assert told == pulled


def test_the_answer_in_the_page_on_the_data_flow_can_be_read(
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    text = (ROOT / "docs" / "data_flow.md").read_text(encoding="utf-8")
    (answer,) = re.findall(r"^    (\{.*\})$", text, re.MULTILINE)
    rubric = Rubric(**read_conf("rubric/five_by_twenty"))
    parsed = AnswerSchema(ranges=rubric.ranges, feedback=True).parse(answer)
    assert parsed.error == "" and list(parsed.scores) == list(rubric.ranges)
