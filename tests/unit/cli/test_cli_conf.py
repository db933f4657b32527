"""Every option of every group composes and binds; a misspelt key in a YAML does not."""

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.requests import EvaluateValues, PredictValues
from aes.cli.settings import TARGET, Settings, bind_settings, bind_target
from aes.cli.source import CONFIG_DIR, Source
from aes.cli.system_prompt import SystemPromptValues
from aes.grading import CalibrationSpec
from aes.model import LoraSpec
from aes.page import ScanNoise
from aes.prompt.guidance import GuidanceSpec
from aes.prompt.suite_spec import NoSuiteSpec, SuiteSpec

# Groups of one command each; the others are everybody's.
COMMAND_OF = {"suite": "evaluate", "calibration": "predict", "guidance": "system_prompt"}
CLASS_OF = {
    "suite": (SuiteSpec, NoSuiteSpec),
    "calibration": (CalibrationSpec,),
    "guidance": (GuidanceSpec,),
}
GIVEN_OF = {
    "evaluate": ("run=somewhere",),
    "predict": ("run=somewhere", "input=somewhere"),
    "system_prompt": ("out=somewhere",),
}
OPTIONS = sorted((path.parent.name, path.stem) for path in CONFIG_DIR.glob("*/*.yaml"))


def _missing(option: str) -> list[str]:
    """Where the data lies is the only thing that no option can know."""
    text = (CONFIG_DIR / "data" / f"{option}.yaml").read_text()
    if inherited := re.search(r"^  - (\w+)$", text.replace("_self_", ""), re.MULTILINE):
        return _missing(inherited.group(1))
    return [f"data.{key}=somewhere" for key in re.findall(r"^(\w+): \?\?\?", text, re.MULTILINE)]


def _given(group: str, option: str) -> list[str]:
    if group == "experiment":
        text = (CONFIG_DIR / "experiment" / f"{option}.yaml").read_text()
        named = re.search(r"/data: (\w+)", text)
        built_on = re.search(r"^  - (med_\w+)$", text, re.MULTILINE)
        if built_on and not named:
            return _given(group, built_on.group(1))
        return _missing(named.group(1)) if named else []
    return _missing(option) if group == "data" else []


def settings_of(*overrides: str, config_dir: Path = CONFIG_DIR) -> Settings:
    source = Source(config_dir=config_dir, config_name="train", overrides=overrides)
    config = compose(source)
    return bind_settings(resolve(without_hydra(config), config.hydra, source))


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIG_DIR, tmp_path / "conf"))


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in COMMAND_OF])
def test_every_option_of_one_command_binds(group: str, option: str) -> None:
    command = COMMAND_OF[group]
    source = Source(
        config_dir=CONFIG_DIR,
        config_name=command,
        overrides=(f"{group}={option}", *GIVEN_OF[command]),
    )
    config = compose(source)
    values = resolve(without_hydra(config), config.hydra, source).values
    assert isinstance(bind_target(values[group], path=group), CLASS_OF[group])


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "system_prompt"])
def test_the_top_of_a_command_holds_only_its_own_keys(command: str) -> None:
    own = {
        "train": set(),
        "evaluate": {*EvaluateValues.__dataclass_fields__, "suite"},
        "predict": {*PredictValues.__dataclass_fields__, "calibration"},
        "system_prompt": {*SystemPromptValues.__dataclass_fields__, "guidance"},
    }[command]
    given = [f"{key}=somewhere" for key in ("run", "input", "out") if key in own]
    source = Source(config_dir=CONFIG_DIR, config_name=command, overrides=tuple(given))
    config = compose(source)
    composed = resolve(without_hydra(config), config.hydra, source)
    assert own <= composed.values.keys()
    bind_settings(composed, other_keys=own)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_the_groups_in_a_command_s_help_have_the_options_told(command: str) -> None:
    text = yaml.safe_load((CONFIG_DIR / f"{command}.yaml").read_text())["hydra"]["help"]["template"]
    told = dict(re.findall(r"^(\w+): ([\w, ]+)$", text, re.MULTILINE))
    assert {"decoding", "hardware", "page"} < told.keys()
    for group, options in told.items():
        there = {path.stem for path in (CONFIG_DIR / group).glob("*.yaml")}
        assert set(options.split(", ")) == there


@pytest.mark.parametrize(
    ("group", "option"), [o for o in OPTIONS if o[0] not in COMMAND_OF], ids=lambda value: value
)
def test_every_option_binds(group: str, option: str) -> None:
    if (group, option) == ("sweep", "search"):
        pytest.importorskip("optuna", reason="needs the extra aes[optuna]")
    settings = settings_of(f"{group}={option}", *_given(group, option))
    assert settings.choices[group] == option


def test_defaults_fill_every_field_and_no_key_is_left_over() -> None:
    settings = settings_of()
    assert all(getattr(settings, field.name) is not None for field in fields(Settings))
    unbound = {"seed", "global_batch_size", "check_only", "run_dir", "callbacks", "paths"}
    bound = {field.name for field in fields(Settings)}
    assert set(settings.resolved) - unbound <= bound
    assert settings.run_dir.is_absolute()
    assert not settings.run_dir_is_fixed


def test_choices_of_a_model_reach_the_optimiser_and_can_be_undone() -> None:
    assert settings_of().choices["optim"] == "nano"
    assert settings_of("optim=adamw").choices["optim"] == "adamw"
    assert settings_of("model=qwen3_vl_2b").choices["optim"] == "adamw"


def test_a_group_within_a_group_is_bound() -> None:
    assert isinstance(settings_of("page=scan").page.scan, ScanNoise)
    adapter = settings_of("adapter.rank=4").adapter
    assert isinstance(adapter, LoraSpec)
    assert adapter.rank == 4


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("adapter/lora.yaml", "rank", "rnak"),
        ("hardware/cpu.yaml", "micro_batch_size", "microbatch_size"),
        ("trainer/default.yaml", "max_epochs", "maxepochs"),
        ("callbacks/default.yaml", "monitor", "moniter"),
        ("base.yaml", "global_batch_size", "global_batchsize"),
        ("paths/default.yaml", "cache", "cashe"),
    ],
)
def test_a_misspelt_key_in_a_yaml_fails_and_names_the_right_one(
    own_conf: Path, file: str, right: str, wrong: str
) -> None:
    path = own_conf / file
    path.write_text(path.read_text().replace(f"{right}:", f"{wrong}:", 1))
    with pytest.raises(ValueError, match=f"{wrong} is not a setting; did you mean .*{right}"):
        settings_of(config_dir=own_conf)


def test_a_class_that_is_not_ours_is_refused(own_conf: Path) -> None:
    path = own_conf / "loss" / "ce.yaml"
    path.write_text(f"{TARGET}: os.system\ncommand: 'true'\n")
    with pytest.raises(ValueError, match=r"loss\._target_: must name a class of aes"):
        settings_of("loss=ce", config_dir=own_conf)


def test_broken_yaml_names_file_and_line(own_conf: Path) -> None:
    (own_conf / "loss" / "ce.yaml").write_text("name: [ce\nother: 1\n")
    with pytest.raises(ValueError, match=r"ce\.yaml, line 2: not valid YAML"):
        settings_of("loss=ce", config_dir=own_conf)


def test_resolved_values_are_plain() -> None:
    resolved = settings_of("run_dir=somewhere").resolved
    assert yaml.safe_load(yaml.safe_dump(resolved)) == resolved
    assert "${" not in yaml.safe_dump(resolved)


def test_a_run_keeps_the_text_of_a_system_prompt_not_its_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("先想一想，再回答。\n", encoding="utf-8")
    settings = settings_of("data=alpaca", "data.path=somewhere", f"data.system_file={file}")
    assert settings.data.system == settings.resolved["data"]["system"] == "先想一想，再回答。"
    assert settings.data.system_file is settings.resolved["data"]["system_file"] is None
