"""Essays as text: the nano that reads text alone, and one with eyes, from training to grades."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.command

ROOT = Path(__file__).parents[2]

ESSAY = "我的春天\n春天来了，花开了，小鸟在枝头唱歌。" + "我们一起去公园看花，大家都很高兴。" * 20


@pytest.fixture(scope="module")
def text_run(train_once: Callable[..., Path]) -> Path:
    return train_once("text", "model=nano_text")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A typed essay, a photo and a PDF."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "typed.txt").write_text(ESSAY, encoding="utf-8")
    photo = Image.new("RGB", (640, 640), "white")
    photo.paste("black", (100, 100, 500, 300))
    photo.save(folder / "photo.png")
    photo.save(folder / "scan.pdf")
    return folder


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["id"]: line for line in found}


def test_the_run_holds_what_any_run_holds(text_run: Path) -> None:
    config = yaml.safe_load((text_run / "config.yaml").read_text(encoding="utf-8"))
    assert config["choices"]["model"] == "nano_text"
    assert config["choices"]["page"] == "none"
    metrics = json.loads((text_run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["val/parse_rate"] == 1
    assert "val/qwk/total" in metrics
    assert (text_run / "adapter" / "adapter_model.safetensors").is_file()


def test_it_is_evaluated_beside_its_base(
    text_run: Path, evaluate: Callable[..., int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert evaluate(f"run={text_run}", "baseline=true", "num_resamples=0", f"out={out}") == 0
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["test/parse_rate"] == 1
    assert (out / "report.html").is_file()
    lines = _lines(out / "predictions.jsonl")
    assert len(lines) == metrics["test/num"]


def test_typed_essays_are_graded_and_images_refused_each(
    text_run: Path, predict: Callable[..., int], inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert predict(f"run={text_run}", f"input={inputs}", f"output={out}") == 0
    lines = _lines(out)
    assert set(lines["typed"]["scores"]) and not lines["typed"]["error"]
    for name, file in (("photo", "photo.png"), ("scan", "scan.pdf")):
        assert "this model reads text alone and no images" in lines[name]["error"]
        assert lines[name]["error"].startswith(file)


def test_a_question_about_a_text_is_answered(
    text_run: Path, predict: Callable[..., int], inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("question=写了什么？", "decoding.max_answer_tokens=4")
    assert predict(f"run={text_run}", f"input={inputs / 'typed.txt'}", *asked) == 0
    assert predict(f"run={text_run}", f"input={inputs / 'photo.png'}", *asked) == 1
    assert "photo.png: this model reads text alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("page=plain",), "this model reads text alone: choose page=none"),
        (("adapter.targets=[vision]",), "model=nano_text reads text alone"),
        (("adapter=lora_experts",), "model=nano_text has none"),
        (("vision_cache=memory",), "vision_cache.place=memory would keep nothing of use"),
        (("kernels.experts=frozen",), "kernels.experts=frozen would do nothing"),
        (("model.glyph_px=20",), "model.glyph_px must be null with model.architecture=qwen3"),
    ],
)
def test_what_makes_no_sense_is_refused_with_one_sentence(
    settings: tuple[str, ...],
    words: str,
    train: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("model=nano_text", "logger=none", *settings) == 1
    shown = capsys.readouterr().err
    assert words in " ".join(shown.split())
    assert "Traceback" not in shown


def test_a_corpus_of_photos_is_refused(
    train: Callable[..., int],
    essay_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "photos"
    (root / "essays").mkdir(parents=True)
    (root / "scores.txt").write_bytes((essay_folder / "scores.txt").read_bytes())
    page = Image.new("RGB", (640, 640), "white")
    page.paste("black", (100, 100, 500, 300))
    for path in (essay_folder / "essays").glob("*.txt"):
        page.save(root / "essays" / f"{path.stem}.png")
    assert train("model=nano_text", "data=aes_dataset", f"data.root={root}", "logger=none") == 1
    shown = capsys.readouterr()
    assert "reads text alone" in " ".join((shown.out + shown.err).split())


def test_a_plan_of_the_4b_model_needs_no_weights(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("model=qwen3_4b", "hardware=h800x1", "check_only=true") == 0
    shown = capsys.readouterr().out
    assert "4.028 B parameters" in shown  # with LoRA
    assert "trained 5,898,240" in shown
    assert "none: text alone" in shown


def test_a_model_with_eyes_takes_essays_as_text_too(
    train_once: Callable[..., Path], predict: Callable[..., int], inputs: Path, tmp_path: Path
) -> None:
    run = train_once("typed", "page=none")
    out = tmp_path / "out.jsonl"
    assert predict(f"run={run}", f"input={inputs}", f"output={out}") == 0
    lines = _lines(out)
    assert all(line["scores"] and not line["error"] for line in lines.values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_two_ranks_train_as_one(
    strategy: str, train_once: Callable[..., Path], session_cache: Path, cheap: tuple[str, ...]
) -> None:
    """Real processes; what was trained is graded by one rank as by any run."""
    alone = train_once("alone", "model=nano_text", "hardware.micro_batch_size=8")
    out = alone.parent / strategy
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "train.py"), *cheap, "data.copies=2", "model=nano_text"),
            *("hardware=cpux2", f"strategy={strategy}", f"run_dir={out}"),
        ],
        env=os.environ | {"AES_CACHE": str(session_cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses, qwk = zip(*(_outcome(run) for run in (alone, out)), strict=True)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert qwk[1] == pytest.approx(qwk[0], abs=0.02)


def _outcome(run: Path) -> tuple[list[float], float]:
    """Training losses, and what validation found."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return [line["loss"] for line in lines if "loss" in line], metrics["val/qwk/total"]
