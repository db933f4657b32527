"""evaluate.py and predict.py with ``engine=vllm``, against a server that runs the run's model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
from fake_vllm import FakeVllm, Words

from aes.data.processor import Processor
from aes.model import ModelSpec
from aes.model.trained import load_trained, read_grading_facts

pytestmark = pytest.mark.command

QUICK = ("num_resamples=20", "decoding.max_feedback_tokens=2", "split=val")
TYPED = "我们沿着小河走到公园，看见柳树发了芽。"


@pytest.fixture(scope="module")
def served(
    trained_run: Path, session_cache: Path, nano_spec: ModelSpec, nano_checkpoint: Path
) -> Iterator[FakeVllm]:
    facts = read_grading_facts(trained_run)
    ranges = {name: (low, high) for name, (low, high) in facts["ranges"].items()}
    processor = Processor(
        nano_checkpoint,
        ranges=ranges,
        min_pixels=nano_spec.min_pixels,
        max_pixels=nano_spec.max_pixels,
    )
    model = load_trained(
        nano_spec, trained_run, cache=session_cache, precision="fp32", accelerator="cpu"
    )
    words = Words(model, processor)
    with FakeVllm({"base": words, "aes": words}) as fake:
        yield fake


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_evaluating_on_a_server_gives_the_same_grades(
    evaluate: Callable[..., int],
    trained_run: Path,
    served: FakeVllm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where an answer is missing at first: it is not one that could not be read."""
    here, there = tmp_path / "here", tmp_path / "there"
    assert evaluate(f"run={trained_run}", *QUICK, f"out={here}") == 0
    command = (
        *(f"run={trained_run}", *QUICK, f"out={there}"),
        *("engine=vllm", f"engine.urls=[{served.url}]", "engine.max_in_flight=4"),
    )
    served.faults = [fake_vllm.status(400)]
    capsys.readouterr()
    assert evaluate(*command) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "1 of " in told and "answered 400" in told and "start the same command again" in told
    num_asked = len(served.bodies)
    assert evaluate(*command) == 0
    one, other = (sorted(_read(f / "predictions.jsonl"), key=_by_id) for f in (here, there))
    assert len(served.bodies) - num_asked < 25, "one essay"
    assert [line["scores"] for line in one] == [line["scores"] for line in other]
    for before, after in zip(one, other, strict=True):
        assert before["expected"] == pytest.approx(after["expected"], abs=1e-3)


def _by_id(line: dict[str, Any]) -> str:
    return str(line["id"])


def test_predicting_writes_down_what_got_no_answer_and_tries_it_again(
    predict: Callable[..., int], trained_run: Path, served: FakeVllm, tmp_path: Path
) -> None:
    essays, output = tmp_path / "essays", tmp_path / "out.jsonl"
    essays.mkdir()
    for name in "ab":
        (essays / f"{name}.txt").write_text(f"春天\n{TYPED}{name}", encoding="utf-8")
    command = (
        *(f"run={trained_run}", f"input={essays}", f"output={output}", "feedback=false"),
        *("engine=vllm", f"engine.urls=[{served.url}]", "engine.max_in_flight=1"),
    )
    served.faults = [fake_vllm.status(400)]
    assert predict(*command) == 0
    first, second = _read(output)
    assert first["error"].startswith("no answer: ") and first["total_score"] is None
    assert second["error"] is None
    assert predict(*command) == 0
    assert [line["error"] for line in _read(output)] == [None, None]


def test_a_question_is_answered_by_a_server(
    predict: Callable[..., int],
    trained_run: Path,
    served: FakeVllm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    essay = tmp_path / "a.txt"
    essay.write_text(TYPED, encoding="utf-8")
    command = (f"run={trained_run}", f"input={essay}", "question=写了什么？")
    vllm = ("engine=vllm_server", f"engine.urls=[{served.url}]", "decoding.max_answer_tokens=6")
    num_asked = len(served.bodies)
    assert predict(*command, *vllm) == 0
    assert capsys.readouterr().out.strip()
    (body,) = served.bodies[num_asked:]
    assert body["stream"] and body["max_completion_tokens"] == 6


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (("engine=vllm",), "adapter holds weights of visual.merger|pip install"),
        (
            ("engine=vllm", "engine.urls=[http://8.8.8.8/v1]"),
            r"engine\.urls: http://8\.8\.8\.8/v1 lies outside",
        ),
        (("engine=vllm_server", "hardware=cpux2"), "hardware=cpux2 starts 2; add hardware=cpu"),
        (("engine=vllm", "engine.base_model=x"), r"engine: base_model has no effect"),
        (
            ("engine=vllm_server", "engine.tensor_parallel_size=2"),
            r"tensor_parallel_size has no effect",
        ),
        (("engine=vllm", "engine.url=x"), "did you mean engine.urls"),
    ],
)
def test_what_is_refused(
    predict: Callable[..., int],
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    keys: tuple[str, ...],
    sentence: str,
) -> None:
    (tmp_path / "a.txt").write_text(TYPED, encoding="utf-8")
    output = tmp_path / "out" / "out.jsonl"
    command = (f"run={trained_run}", f"input={tmp_path / 'a.txt'}", f"output={output}")
    assert predict(*command, *keys) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(sentence, told), told


def test_one_adapter_does_not_answer_for_two_runs(
    evaluate: Callable[..., int], trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (f"run={trained_run}", f"second={trained_run}", "engine=vllm_server")
    assert evaluate(*command) == 1
    assert "one run's adapter at a time" in " ".join(capsys.readouterr().err.split())


def test_training_refuses_it(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert train("engine=vllm", f"run_dir={tmp_path / 'run'}") == 1
    assert "engine=vllm answers for evaluate.py and predict.py alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
