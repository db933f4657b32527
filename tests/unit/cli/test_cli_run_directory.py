"""The run directory, the free disk, and what counts as a user's mistake."""

import dataclasses
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from test_cli_conf import settings_of

import aes
from aes.cli.errors import explain, nearest, nearest_key
from aes.cli.run_directory import create_run_directory, require_free_space

OUR_CODE = Path(aes.__file__).parent


def test_it_holds_the_choices_and_the_plain_values(tmp_path: Path) -> None:
    settings = settings_of(f"run_dir={tmp_path}/deep/run")
    run_dir = create_run_directory(settings)
    assert [path.name for path in run_dir.iterdir()] == ["config.yaml"]
    written = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert written["choices"]["model"] == "nano"
    assert written["config"] == settings.resolved


def test_a_used_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is in use already; choose another run_dir="):
        create_run_directory(settings_of(f"run_dir={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert create_run_directory(settings_of(f"run_dir={tmp_path}")) == tmp_path


def test_two_runs_of_one_second_get_two_directories(tmp_path: Path) -> None:
    settings = dataclasses.replace(
        settings_of(), run_dir=tmp_path / "12-00-00", run_dir_is_fixed=False
    )
    names = [create_run_directory(settings).name for _ in range(3)]
    assert names == ["12-00-00", "12-00-00-2", "12-00-00-3"]


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="run_dir"):
            create_run_directory(settings_of(f"run_dir={run_dir}"))


def test_free_space(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(ValueError, match=r"needs 1,099,511,627,776 MiB, but only .* are free"):
        require_free_space(tmp_path, 2**60)


@pytest.mark.parametrize(
    ("folder", "line", "is_mistake"),
    [
        (OUR_CODE, "raise ValueError('too long')", True),
        (OUR_CODE, "with suppress(KeyError): raise ValueError('too long')", True),
        (OUR_CODE, "int('x')", False),
        (OUR_CODE, "raise KeyError('x')", False),
        (OUR_CODE.parent / "elsewhere", "raise ValueError('too long')", False),
    ],
)
def test_only_a_raise_of_ours_is_the_users_mistake(
    folder: Path, line: str, is_mistake: bool
) -> None:
    code = compile(line, str(folder / "module.py"), "exec")
    with pytest.raises(Exception) as raised:
        exec(code, {"suppress": suppress})
    assert (explain(raised.value) == "too long") is is_mistake


def test_nearest() -> None:
    assert nearest("qwen3_vl_30b", ["qwen3_vl_8b", "qwen3_vl_30b_a3b"]) == "qwen3_vl_30b_a3b"
    assert nearest("zz", ["lora", "none"]) is None
    known = ["optim", "optim.lr", "trainer", "trainer.max_steps", "model", "model.path"]
    assert nearest_key("optm.lrr", known) == "optim.lr"
    assert nearest_key("xyz", known) is None
