"""Every option of every group composes and binds; a misspelt key in a YAML does not."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.settings import TARGET, Settings, bind_settings
from aes.cli.source import CONFIG_DIR, Source
from aes.model import LoraSpec
from aes.page import ScanNoise

OPTIONS = sorted(
    (path.parent.name, path.stem) for path in CONFIG_DIR.glob("*/*.yaml") if path.parent != "hydra"
)
# A root is the only value that no option can know.
NEEDS_ROOT = {
    path.stem for path in (CONFIG_DIR / "data").glob("*.yaml") if "???" in path.read_text()
}
EXPERIMENTS_WITH_ROOT = {
    path.stem
    for path in (CONFIG_DIR / "experiment").glob("*.yaml")
    if any(f"/data: {name}" in path.read_text() for name in NEEDS_ROOT)
}


def settings_of(*overrides: str, config_dir: Path = CONFIG_DIR) -> Settings:
    source = Source(config_dir=config_dir, config_name="train", overrides=overrides)
    config = compose(source)
    return bind_settings(resolve(without_hydra(config), config.hydra, source))


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIG_DIR, tmp_path / "conf"))


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)
def test_every_option_binds(group: str, option: str) -> None:
    needs_root = (group == "data" and option in NEEDS_ROOT) or (
        group == "experiment" and option in EXPERIMENTS_WITH_ROOT
    )
    settings = settings_of(f"{group}={option}", *(["data.root=essays"] if needs_root else []))
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
        ("train.yaml", "global_batch_size", "global_batchsize"),
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
