"""``python -m aes.export`` on real runs of the nano, as a user and as a peer sees it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aes.cli import entry
from aes.export.digests import check_digests
from aes.kernels.forward import hidden_states, logits
from aes.model import ModelSpec
from aes.model.trained import load_trained
from aes.records import Essay

pytestmark = pytest.mark.command
ROOT = Path(__file__).parents[2]
Export = Callable[..., int]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, session_cache: Path, tmp_path: Path) -> Export:
    """Runs the command line in this process; returns its exit status."""
    monkeypatch.setenv("AES_CACHE", str(session_cache))
    monkeypatch.chdir(tmp_path)

    def command(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["aes.export", *args])
        with pytest.raises(SystemExit) as stop:
            entry.export()
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return command


@pytest.fixture
def expected(
    trained_run: Path,
    nano_spec: ModelSpec,
    session_cache: Path,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> tuple[Any, torch.Tensor]:
    """A batch with pages, and the logits that the run's own model gives."""
    model = load_trained(
        nano_spec, trained_run, cache=session_cache, precision="fp32", accelerator="cpu"
    )
    batch = make_batch(essays[:1])
    return batch, answers(model, batch)


def answers(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return logits(model.eval(), hidden_states(model, batch)[0, -8:])


def texts(folder: Path) -> str:
    """All that people and programs read of an export, but the vocabulary."""
    return "\n".join(
        file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.suffix != ".safetensors" and file.name != "tokenizer.json"
    )


def test_the_adapter_loads_in_plain_peft(
    export: Export,
    trained_run: Path,
    nano_checkpoint: Path,
    expected: tuple[Any, torch.Tensor],
    session_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    assert export(str(trained_run), "--out", "adapter") == 0
    assert "serve merged weights" in capsys.readouterr().out, "vLLM has no base to serve"
    base = AutoModelForImageTextToText.from_pretrained(nano_checkpoint, dtype=torch.float32)
    batch, wanted = expected
    found = answers(PeftModel.from_pretrained(base, "adapter"), batch)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained("adapter")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "你好"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    grading = json.loads(Path("adapter/grading.json").read_text())
    assert grading["ranges"]["content"] == [0, 20] and grading["page"]["width_px"] == 320
    told = texts(Path("adapter"))
    assert not any(str(place) in told for place in (trained_run, session_cache, ROOT, Path.home()))
    assert export("--check", "adapter") == 0


def test_merged_weights_load_in_plain_transformers_in_files_of_bounded_size(
    export: Export,
    trained_run: Path,
    expected: tuple[Any, torch.Tensor],
    session_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForImageTextToText, GenerationConfig

    run = Path(shutil.copytree(trained_run, "copy"))
    assert export(str(run), "--out", "merged", "--merged", "--shard-gib", "0.03") == 0
    out = capsys.readouterr().out
    assert "vllm serve" in out and "--enable-lora" not in out
    assert len(list(Path("merged").glob("model-*-of-*.safetensors"))) > 2
    model = AutoModelForImageTextToText.from_pretrained("merged", dtype=torch.float32)
    batch, wanted = expected
    torch.testing.assert_close(answers(model, batch), wanted, atol=1e-5, rtol=0)
    assert GenerationConfig.from_pretrained("merged").eos_token_id == [151645, 151643]
    settings = json.loads(Path("merged/preprocessor_config.json").read_text())
    assert settings["size"] == {"shortest_edge": 65536, "longest_edge": 16777216}
    told = texts(Path("merged"))
    assert "Nobody has evaluated this model" in told
    assert str(session_cache) not in told and str(run.absolute()) not in told
    assert oct(Path("merged/README.md").stat().st_mode)[-3:] == "644"


def test_another_base_of_the_same_sizes_is_refused(
    export: Export,
    trained_run: Path,
    nano_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bases = [Path(shutil.copytree(nano_checkpoint, name)).absolute() for name in ("own", "other")]
    weights = bases[1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    run = Path(shutil.copytree(trained_run, "run"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["config"]["model"]["path"] = str(bases[0])
    (run / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    assert export(str(run), "--out", "out", "--merged", "--model-path", str(bases[1])) == 1
    assert "holds other weights than those that the adapter" in capsys.readouterr().err
    assert not Path("out").exists()
    assert export(str(run), "--out", "out", "--merged", "--model-path", str(bases[0])) == 0


def test_a_hub_id_is_all_that_is_said_of_the_base(
    export: Export, trained_run: Path, session_cache: Path
) -> None:
    assert export(str(trained_run), "--out", "out", "--base-name", "Qwen/Nano-VL") == 0
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Qwen/Nano-VL"
    assert "base_model: Qwen/Nano-VL" in Path("out/README.md").read_text(encoding="utf-8")


def test_a_changed_export_is_found(
    export: Export, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(str(trained_run), "--out", "out") == 0
    file = Path("out/adapter_model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    assert export("--check", "out") == 1
    assert "adapter_model.safetensors is not what was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "nothing to export"),
        (("RUN",), "--out is not set"),
        (("RUN", "--out", "full"), "--out"),
        (("RUN", "--out", "out", "--dtype", "bf16"), "--dtype is about merged weights"),
        (("RUN", "--out", "out", "--merged", "--shard-gib", "0"), "--shard-gib must be above 0"),
        (("RUN", "--out", "out", "--mergd"), "did you mean --merged?"),
        (("RUN", "data.root=x", "--out", "out"), "data.root=x comes after a run"),
        (("no_run", "--out", "out"), "there is no run directory"),
        (("data=sample", "--out", "out", "--merged"), "--merged is about a run"),
        (("--check", "full"), "holds no SHA256SUMS"),
        (("RUN", "--out", "out", "--model-path", "x"), "--model-path has no effect"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    export: Export,
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    told: str,
) -> None:
    Path("full").mkdir()
    (Path("full") / "file").touch()
    assert export(*(str(trained_run) if arg == "RUN" else arg for arg in args)) == 1
    shown = capsys.readouterr().err
    assert told in shown and shown.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["full"]


def test_a_killed_export_looks_like_none(export: Export, trained_run: Path, tmp_path: Path) -> None:
    """Killed at several moments, from the start to the last file."""
    arguments = (str(trained_run), "--out", "out", "--merged", "--shard-gib", "0.03")
    out = tmp_path / "out"
    for awaited in ("*.part", "*.part/model-00003*", "*.part/SHA256SUMS"):
        child = os.fork()  # which has all imported already
        if child == 0:
            try:
                export(*arguments)
            finally:
                os._exit(0)
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(f".out.{awaited}")):
            assert not out.exists() and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if out.exists():  # it was quicker than the signal: then it is whole
            assert check_digests(out) > 5
            shutil.rmtree(out)
    assert export(*arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert check_digests(out) > 5
