"""What trained is what evaluates: a run's configuration, composed again."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.cli.compose import Composed, compose, compose_again, resolve, without_hydra
from aes.cli.saved_run import find_runs, read_run
from aes.cli.source import CONFIG_DIR, Source


def source(command: str, *overrides: str) -> Source:
    return Source(config_dir=CONFIG_DIR, config_name=command, overrides=overrides)


def save_run(folder: Path, *overrides: str) -> Path:
    """A run directory with what train.py would write there."""
    asked = source("train", *overrides)
    config = compose(asked)
    composed = resolve(without_hydra(config), config.hydra, asked)
    folder.mkdir(parents=True)
    content = {"choices": composed.choices, "config": composed.values}
    (folder / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    return folder


def again(run: Path, *overrides: str) -> Composed:
    asked = source("evaluate", f"run={run}", *overrides)
    config = compose_again(asked, read_run(run))
    return resolve(without_hydra(config), config.hydra, asked)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(
        tmp_path / "run",
        "model=qwen3_vl_2b",
        "page=scan",
        "page.glyph_px=18",
        "decoding=greedy",
        "data.val_fraction=0.3",
        "seed=5",
        "rubric.traits.content.maximum=10",
        "rubric.traits.content.levels=[]",
    )


def test_a_key_that_the_run_did_not_know_yet_is_filled_in(run: Path) -> None:
    file = run / "config.yaml"
    saved = yaml.safe_load(file.read_text(encoding="utf-8"))
    checkpoint = saved["config"]["callbacks"]["checkpoint"]
    shipped = checkpoint.pop("keep_last")
    checkpoint["every_n_train_steps"] = 7
    file.write_text(yaml.safe_dump(saved, allow_unicode=True))
    values = again(run).values["callbacks"]["checkpoint"]
    assert (values["keep_last"], values["every_n_train_steps"]) == (shipped, 7)


def test_the_run_s_values_stand(run: Path) -> None:
    values = again(run).values
    assert (values["seed"], values["data"]["split_seed"]) == (5, 5)
    assert values["page"]["glyph_px"] == 18
    assert values["page"]["style"] == "scan"
    assert values["decoding"]["score"] == "greedy"
    assert values["data"]["val_fraction"] == 0.3
    assert values["rubric"]["traits"]["content"]["maximum"] == 10
    assert values["model"]["path"] == "Qwen/Qwen3-VL-2B-Instruct"


def test_the_command_line_wins(run: Path) -> None:
    composed = again(run, "decoding=expected", "data.val_fraction=0.2", "page.glyph_px=12")
    assert composed.choices["decoding"] == "expected"
    assert composed.values["decoding"]["score"] == "expected"
    assert composed.values["data"]["val_fraction"] == 0.2
    assert composed.values["page"]["glyph_px"] == 12


def test_another_data_set_keeps_the_run_s_rubric(run: Path) -> None:
    composed = again(run, "data=aes_dataset", "data.root=essays")
    assert composed.choices["rubric"] == "five_by_twenty"
    assert composed.values["data"]["root"] == "essays"


def test_a_key_that_the_run_did_not_know_takes_the_shipped_value(run: Path) -> None:
    file = run / "config.yaml"
    content = yaml.safe_load(file.read_text())
    del content["config"]["decoding"]["batch_size"]
    file.write_text(yaml.safe_dump(content))
    shipped = yaml.safe_load((CONFIG_DIR / "decoding" / "expected.yaml").read_text())
    assert again(run).values["decoding"]["batch_size"] == shipped["batch_size"]


def test_paths_are_this_machine_s(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AES_CACHE", "/elsewhere")
    assert again(run).values["paths"]["cache"] == "/elsewhere"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("decoding.scoer=greedy", "decoding.scoer is not a setting; did you mean decoding.score?"),
        ("splt=val", "splt is not a setting; did you mean split?"),
        ("suite=robust", "did you mean suite=robustness"),
    ],
)
def test_a_wrong_key_names_the_right_one(run: Path, override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        again(run, override)


def test_a_folder_of_runs_stands_for_its_runs_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    runs = [save_run(folder / str(number)) for number in (0, 2, 10)]
    assert find_runs([folder]) == runs
    assert find_runs([runs[2], runs[0]]) == [runs[2], runs[0]]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run directory"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="is not a run directory"):
        find_runs([tmp_path])


@pytest.mark.parametrize("content", ["", "choices: {}", "[1, 2]", "a: [", "choices: 3\nconfig: 4"])
def test_a_broken_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="is not the configuration of a run"):
        read_run(tmp_path)


def test_a_class_that_is_not_ours_is_refused(run: Path) -> None:
    from aes.cli.settings import bind_settings

    file = run / "config.yaml"
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content["config"]["decoding"]["_target_"] = "os.system"
    file.write_text(yaml.safe_dump(content))
    composed = again(run)
    with pytest.raises(ValueError, match=r"decoding\._target_: must name a class of aes"):
        bind_settings(composed, other_keys=tuple(composed.values))
