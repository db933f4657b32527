"""vLLM in this process, with a module in its place that runs the nano.

vLLM itself needs a card. What is called of it here has the names and arguments of vLLM 0.33.0, read
in its source: ``LLM``, ``LLM.generate``, ``SamplingParams``, ``StructuredOutputsParams``,
``LoRARequest``, ``TokensPrompt``.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_vllm import Contrary, Words, guided_by, write_tokens

from aes.data.processor import Processor
from aes.inference import DecodingSpec
from aes.inference.vllm_engine import VllmEngine
from aes.inference.vllm_offline import load_offline, served_rank
from aes.prompt.build import ExampleBuilder
from aes.records import Example

Maker = Callable[..., Any]


@dataclass(kw_only=True)
class StructuredOutputsParams:
    json: str | dict[str, Any] | None = None
    regex: str | None = None


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    logprob_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputsParams | None = None


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


class FakeLLM:
    """Answers like ``vllm.LLM``; ``calls`` counts the prompts of each call."""

    words: Words
    base: Words
    settings: dict[str, Any]
    calls: list[int]

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.92,
        **kwargs: Any,
    ) -> None:
        known = {"max_model_len", "limit_mm_per_prompt", "enable_prefix_caching"}
        assert kwargs.keys() <= known | {"generation_config", "enable_lora", "max_lora_rank"}
        FakeLLM.settings = {"model": model, "dtype": dtype, **kwargs}
        FakeLLM.calls = []

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[Any]:
        assert sampling_params is not None and len(prompts) == len(sampling_params)
        FakeLLM.calls.append(len(prompts))
        words = self.base if lora_request is None else self.words
        return [self._one(words, *pair) for pair in zip(prompts, sampling_params, strict=True)]

    def _one(self, words: Words, prompt: dict[str, Any], params: SamplingParams) -> Any:
        pages = prompt.get("multi_modal_data", {}).get("image", [])
        counts = iter(page.width * page.height // 1024 for page in pages)
        ids: list[int] = []
        for token in prompt["prompt_token_ids"]:
            ids += [token] * (next(counts) if token == words.processor.image_token else 1)
        form = params.structured_outputs or StructuredOutputsParams()
        assert params.temperature == 0 and params.max_tokens is not None
        written = list(
            write_tokens(
                words,
                list(ids),
                pages,
                guided_by(words, schema=form.json, regex=form.regex),
                max_tokens=params.max_tokens,
                stops=params.stop_token_ids or [],
            )
        )
        logprobs = None
        if params.logprob_token_ids:
            shares = written[0][1].log_softmax(0)
            wanted = dict.fromkeys((written[0][0], *params.logprob_token_ids))
            logprobs = [{t: SimpleNamespace(logprob=float(shares[t])) for t in wanted}]
        output = SimpleNamespace(
            token_ids=[token for token, _, _ in written],
            finish_reason="stop" if written[-1][2] else "length",
            logprobs=logprobs,
        )
        return SimpleNamespace(prompt_token_ids=ids, outputs=[output])


@pytest.fixture(scope="module")
def words(sure_nano: Any, processor: Processor) -> Words:
    return Words(sure_nano, processor)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, words: Words) -> None:
    """A module named vllm."""
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.sampling_params", "vllm.lora")}
    modules["vllm.lora.request"] = ModuleType("vllm.lora.request")
    monkeypatch.setattr(FakeLLM, "words", words, raising=False)
    modules["vllm"].LLM = FakeLLM  # type: ignore[attr-defined]
    modules["vllm"].SamplingParams = SamplingParams  # type: ignore[attr-defined]
    modules["vllm.sampling_params"].StructuredOutputsParams = (  # type: ignore[attr-defined]
        StructuredOutputsParams
    )
    modules["vllm.lora.request"].LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    config = {"r": 10, "target_modules": r".*self_attn\.q_proj", "modules_to_save": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@pytest.fixture
def make(
    vllm: None,
    adapter: Path,
    processor: Processor,
    builder: ExampleBuilder,
    read_conf: Callable[..., Any],
) -> Callable[..., VllmEngine]:
    def make(*, max_tokens: int = 8192, with_adapter: bool = True) -> VllmEngine:
        backend = load_offline(
            Path("base"),
            adapter if with_adapter else None,
            name="aes",
            processor=processor,
            max_tokens=max_tokens,
            precision="bf16",
            tensor_parallel_size=None,
            gpu_memory_utilization=0.8,
        )
        keys = {"max_feedback_tokens": 3, "max_answer_tokens": 4}
        decoding = DecodingSpec(**read_conf("decoding/expected", **keys))
        return VllmEngine(
            backend=backend,
            processor=processor,
            renderer=builder.renderer,
            decoding=decoding,
            max_in_flight=8,
        )

    return make


def test_same_answers_as_the_model_loaded_here(
    make: Maker, make_engine: Maker, examples: list[Example], questions: list[Example]
) -> None:
    here, there = make_engine(max_feedback_tokens=3, max_answer_tokens=4), make()
    found, expected = list(there.answer(examples)), list(here.answer(examples))
    assert [a.text for a in found] == [a.text for a in expected]
    for one, other in zip(found, expected, strict=True):
        for name, shares in one.distributions.items():
            assert shares == pytest.approx(other.distributions[name], abs=1e-4)
    # Essays are asked together: root, branches, the second trait, then comments.
    assert len(FakeLLM.calls) <= 5 and max(FakeLLM.calls) >= len(examples)
    assert [a.text for a in there.answer(questions)] == [a.text for a in here.answer(questions)]
    streamed = ["".join(there.stream(question)) for question in questions[:1]]
    assert streamed == [a.text for a in here.answer(questions[:1])]


def test_what_vllm_is_told(make: Maker, adapter: Path) -> None:
    make()
    assert FakeLLM.settings["enable_lora"] and FakeLLM.settings["max_lora_rank"] == 16
    assert FakeLLM.settings["dtype"] == "bfloat16"
    assert FakeLLM.settings["max_model_len"] == 8192
    assert FakeLLM.settings["generation_config"] == "vllm"


def test_the_base_answers_without_the_adapter(
    make: Maker,
    words: Words,
    processor: Processor,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Contrary(words.model, processor)
    monkeypatch.setattr(FakeLLM, "base", base, raising=False)
    engine = make()
    with engine.without_adapter():
        (without,) = engine.answer(examples[:1], scores_only=True)
    (with_it,) = engine.answer(examples[:1], scores_only=True)
    assert without.distributions != with_it.distributions
    with pytest.raises(ValueError, match="no adapter"), make(with_adapter=False).without_adapter():
        pass


def test_an_essay_that_is_too_long(make: Maker, examples: list[Example]) -> None:
    (answer,) = make(max_tokens=100).answer(examples[:1])
    assert "more than the 100 that data.max_tokens leaves room for" in answer.error


def test_what_vllm_raises_is_not_lost(
    make: Maker, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FakeLLM, "generate", generate)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(make().answer(examples))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"modules_to_save": ["visual.merger"]}, "weights of visual.merger"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "weights of mlp.experts.down_proj"),
        ({"target_modules": r".*visual\..*qkv"}, "weights of the vision tower"),
        ({"r": 1024}, "rank 1024, but vLLM serves up to 512"),
    ],
)
def test_adapters_that_vllm_does_not_serve(
    adapter: Path, change: dict[str, Any], sentence: str
) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        served_rank(adapter)


def test_without_vllm(adapter: Path, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r'pip install "aes\[vllm\]", or name servers'):
        load_offline(
            Path("base"),
            adapter,
            name="aes",
            processor=processor,
            max_tokens=100,
            precision="bf16",
            tensor_parallel_size=None,
            gpu_memory_utilization=None,
        )
