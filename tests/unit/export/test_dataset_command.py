from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aes.cli.export_data import compose_settings, run, without_folders
from aes.corpus import Reading, load_sample
from aes.records import Problem


@pytest.fixture
def export(
    monkeypatch: pytest.MonkeyPatch, session_cache: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Exports into a new folder and returns it."""
    monkeypatch.setenv("AES_CACHE", str(session_cache))

    def command(*overrides: str) -> Path:
        out = tmp_path / "exported"
        assert run(overrides, out) == 0
        return out

    return command


@pytest.fixture
def few_essays(tmp_path: Path) -> Path:
    """Twelve of the embedded essays in the layout of AES-Dataset, and a row without a file."""
    root = tmp_path / "corpus"
    (root / "essays").mkdir(parents=True)
    rows = ["missing\t无\t60\n"]
    for essay in load_sample()[:12]:
        text = f"{essay.title}\n{essay.text}\n"
        (root / "essays" / f"{essay.id}.txt").write_text(text, encoding="utf-8")
        rows.append(f"{essay.id}\t{essay.title}\t{sum(essay.scores.values())}\n")
    (root / "scores.txt").write_text("".join(rows), encoding="gb18030")
    return root


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        part: json.loads(path.read_text(encoding="utf-8"))
        for part in ("train", "val", "test")
        if (path := folder / f"{part}.json").exists()
    }


def test_a_corpus_becomes_a_data_set_a_part(
    export: Callable[..., Path], few_essays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export("data=aes_dataset", f"data.root={few_essays}", "data.test_fraction=0.2")
    found = records(folder)
    ids = [record["id"] for part in found.values() for record in part]
    assert sorted(ids) == sorted({essay.id for essay in load_sample()[:12]})
    assert set(found) == {"train", "val", "test"}
    for part in found.values():
        for record in part:
            assert all((folder / name).is_file() for name in record["images"])
            answer = json.loads(record["messages"][-1]["content"])
            essay = next(e for e in load_sample() if e.id == record["id"])
            assert list(answer["scores"].values()) == [sum(essay.scores.values())]
    check = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert check["counts"]["missing_essay_file"] == 1
    assert f"aes_train: {len(found['train'])} samples" in capsys.readouterr().out


def test_no_file_names_a_folder_of_this_machine(
    export: Callable[..., Path], few_essays: Path, tmp_path: Path
) -> None:
    first = next((few_essays / "essays").iterdir())
    first.write_bytes(b"\xff\xfe\xff")
    folder = export("data=aes_dataset", f"data.root={few_essays}", "page=none")
    written = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()]
    assert not any(str(tmp_path) in text for text in written)
    settings = yaml.safe_load((folder / "llamafactory.yaml").read_text(encoding="utf-8"))
    assert settings["dataset_dir"] == ".", "which is right wherever the folder goes"


def test_messages_lose_the_folders_they_name(few_essays: Path) -> None:
    settings = compose_settings(["data=aes_dataset", f"data.root={few_essays}"])
    problem = Problem(
        code="unreadable_page",
        id="",
        file=f"{few_essays}/essays/甲 1.png",
        line=0,
        message=f"{few_essays}/essays/甲 1.png and {Path.home()}/x are no images.",
        cure="",
        action="dropped",
    )
    (found,) = without_folders(Reading((), (problem,), {}), settings).problems
    assert found.file == "essays/甲 1.png"
    assert found.message == "essays/甲 1.png and x are no images."


def test_typed_essays_may_go_as_text(export: Callable[..., Path], few_essays: Path) -> None:
    folder = export("data=aes_dataset", f"data.root={few_essays}", "page=none")
    assert not (folder / "images").exists()
    registry = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    assert registry["aes_train"]["columns"] == {"messages": "messages"}
    text = next(e.text for e in load_sample() if e.id == records(folder)["train"][0]["id"])
    assert text.split("\n")[0].strip() in records(folder)["train"][0]["messages"][0]["content"]


def test_instructions_for_a_model_that_reads_text_alone(
    export: Callable[..., Path], tmp_path: Path
) -> None:
    lines = [
        {"instruction": f"写出第{number}个词。", "input": "", "output": f"词{number}"}
        for number in range(4)
    ]
    path = tmp_path / "words.json"
    path.write_text(json.dumps([*lines, {"instruction": "没有答案"}]), encoding="utf-8")
    folder = export("data=alpaca", f"data.path={path}", "model=nano_text", "data.val_fraction=0.25")
    assert {name: len(part) for name, part in records(folder).items()} == {"train": 3, "val": 1}
    settings = yaml.safe_load((folder / "llamafactory.yaml").read_text(encoding="utf-8"))
    assert settings["template"] == "qwen3_nothink" and "image_max_pixels" not in settings
    check = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert check["counts"]["no_answer"] == 1


def test_what_is_too_long_is_refused_or_counted(
    export: Callable[..., Path], few_essays: Path, tmp_path: Path
) -> None:
    short = ("data=aes_dataset", f"data.root={few_essays}", "data.max_tokens=150")
    with pytest.raises(ValueError, match=r"more than data\.max_tokens=150; raise it"):
        export(*short, "data.on_overlong=error")
    with pytest.raises(ValueError, match="nothing to learn from"):
        export(*short, "data.on_overlong=drop", "data.max_tokens=64")
    assert not (tmp_path / "exported").exists()
    assert not list(tmp_path.glob(".exported*"))


def test_a_place_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    with pytest.raises(ValueError, match="is not empty"):
        run(["data=nothing_of_the_kind"], tmp_path / "out")


def test_a_sweep_is_refused() -> None:
    with pytest.raises(ValueError, match="leave the sweep out"):
        compose_settings(["sweep=lora_rank"])
