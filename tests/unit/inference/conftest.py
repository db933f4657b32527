"""Engines over the nano, and brute force: whole sequences through transformers' own forward."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from aes.data.dataset import draw_patches
from aes.data.processor import Processor
from aes.inference import DecodingSpec, HfEngineSpec
from aes.inference.engine import Engine
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example, Message


@pytest.fixture(scope="session")
def sure_nano(load_nano: Callable[..., Any]) -> Any:
    """A nano that is sure of itself, so that distributions are far from flat."""
    model = load_nano()
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return model.eval()


@pytest.fixture(scope="session")
def make_engine(
    sure_nano: Any, processor: Processor, builder: ExampleBuilder, read_conf: Callable[..., Any]
) -> Callable[..., Engine]:
    """An engine over the sure nano, unless told; keywords are keys of the decoding.

    ``engine`` are keys of the engine's own settings.
    """

    def make(
        *,
        model: Any = None,
        processor: Processor = processor,
        renderer: Any = None,
        engine: dict[str, Any] | None = None,
        **keys: Any,
    ) -> Engine:
        keys = {"batch_size": 3, "max_feedback_tokens": 5, "max_answer_tokens": 6} | keys
        return Engine(
            model=model or sure_nano,
            processor=processor,
            renderer=renderer or builder.renderer,
            decoding=DecodingSpec(**read_conf("decoding/expected", **keys)),
            precision="fp32",
            spec=HfEngineSpec(**read_conf("engine/hf", **(engine or {}))),
        )

    return make


@pytest.fixture(scope="session")
def examples(builder: ExampleBuilder) -> list[Example]:
    """Four of unlike lengths; the second and the fourth ask for feedback."""
    return [
        builder.build(
            Essay(
                id=f"x{i}",
                text="我们去公园看花。" * (1 + 40 * i),
                topic="春" * (20 * (3 - i)),
                comment="好" if i % 2 else "",
            )
        )
        for i in range(4)
    ]


@pytest.fixture(scope="session")
def questions(examples: list[Example]) -> list[Example]:
    """Free questions; the first two are about a page, and of unlike lengths."""
    pages = [(*example.pages, "这一页写的是什么？") for example in examples[:2]]
    parts = [*pages, ("你好",), ("春天来了。" * 9,)]
    return [
        Example(id=f"q{i}", messages=(Message("user", tuple(p)),), kind="text")
        for i, p in enumerate(parts)
    ]


@pytest.fixture
def count_passes(sure_nano: Any) -> Any:
    """List that grows by one at each forward pass of the sure nano's language model."""
    passes: list[int] = []
    hook = sure_nano.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    yield passes
    hook.remove()


@pytest.fixture
def steer(sure_nano: Any) -> Any:
    """Function that sets what the sure nano's logits become, until the test is over."""
    hooks = []

    def steer(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        hooks.append(sure_nano.lm_head.register_forward_hook(lambda _, __, out: change(out)))

    yield steer
    for hook in hooks:
        hook.remove()


class BruteForce:
    """Next-token logits from whole sequences, without cache, padding or our position ids."""

    def __init__(self, model: Any, processor: Processor, renderer: Any) -> None:
        self.model, self.processor, self.renderer = model, processor, renderer
        self.known: list[tuple[tuple[Example, tuple[int, ...]], torch.Tensor]] = []

    def tokens(self, text: str) -> list[int]:
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False))

    def next_logits(self, example: Example, answer: Sequence[int]) -> torch.Tensor:
        """Logits ``[vocabulary]`` behind the beginning of an answer."""
        key = (example, tuple(answer))
        if not any(seen == key for seen, _ in self.known):
            self.known.append((key, self._forward(example, answer)[-1]))
        return next(found for seen, found in self.known if seen == key)

    def _forward(
        self, example: Example, answer: Sequence[int], *, num_last: int = 1
    ) -> torch.Tensor:
        """Logits ``[num_last, vocabulary]`` behind the last tokens."""
        sizes = [self.renderer.size(page) for page in example.pages]
        prompt = self.processor.encode(example, sizes)
        assert prompt.num_prompt == len(prompt.input_ids)
        ids = torch.tensor([[*prompt.input_ids, *answer]])
        pages: dict[str, Any] = {}
        if example.pages:
            drawn, grids = draw_patches(example, self.renderer, self.processor)
            pages = {
                "pixel_values": torch.from_numpy(drawn),
                "image_grid_thw": torch.from_numpy(grids),
                "mm_token_type_ids": (ids == self.processor.image_token).int(),
            }
        with torch.no_grad():
            out = self.model.eval()(
                input_ids=ids, logits_to_keep=num_last, use_cache=False, **pages
            )
        found: torch.Tensor = out.logits[0]
        return found

    def distribution(
        self, example: Example, before: Sequence[int], span: tuple[int, int], after: str
    ) -> list[float]:
        """Probability of each score behind ``before``, its digits and its end among valid ones."""
        scores = [str(score) for score in range(span[0], span[1] + 1)]
        (end, *_) = self.tokens(after)
        found = dict.fromkeys(scores, 0.0)
        for prefix in {score[:k] for score in scores for k in range(len(score) + 1)}:
            ways = sorted({s[len(prefix)] for s in scores if s.startswith(prefix) and s != prefix})
            choices = [*ways, *([""] if prefix in scores else [])]
            if len(choices) == 1:
                continue  # no choice, no share
            ids = [self.tokens(way)[0] if way else end for way in choices]
            answer = [*before, *(self.tokens(digit)[0] for digit in prefix)]
            shares = self.next_logits(example, answer)[ids].log_softmax(0)
            for choice, share in zip(choices, shares.tolist(), strict=True):
                for score in scores:
                    if score == prefix if not choice else score.startswith(prefix + choice):
                        found[score] += share
        return [math.exp(found[score]) for score in scores]

    def model_distribution(
        self, example: Example, before: Sequence[int], span: tuple[int, int], after: str
    ) -> list[float]:
        """Probability that the model itself writes each score and its end, among valid scores."""
        found = []
        for score in range(span[0], span[1] + 1):
            written = [*(t for digit in str(score) for t in self.tokens(digit))]
            written.append(self.tokens(after)[0])
            said = self._forward(example, [*before, *written], num_last=len(written) + 1)
            of_all = said[:-1].double().log_softmax(1)
            found.append(of_all[range(len(written)), written].sum())
        shares: list[float] = torch.stack(found).softmax(0).tolist()
        return shares

    def distributions(
        self, example: Example, scores: dict[str, int], *, of: str = "constrained"
    ) -> dict[str, list[float]]:
        """That of each trait behind the scores that were written before it."""
        distribution = self.distribution if of == "constrained" else self.model_distribution
        ranges = self.processor.guide.ranges
        ends = [*(f',"{name}":' for name in list(ranges)[1:])]
        ends.append('},"feedback":"' if example.asks_feedback else "}}")
        found, written = {}, self.tokens('{"scores":{"' + next(iter(ranges)) + '":')
        for (name, span), end in zip(ranges.items(), ends, strict=True):
            found[name] = distribution(example, written, span, end)
            digits = [token for digit in str(scores[name]) for token in self.tokens(digit)]
            written = [*written, *digits, *self.tokens(end)]
        return found


@pytest.fixture(scope="session")
def make_brute_force(
    sure_nano: Any, processor: Processor, builder: ExampleBuilder
) -> Callable[..., BruteForce]:
    def make(
        *, model: Any = None, processor: Processor = processor, renderer: Any = None
    ) -> BruteForce:
        return BruteForce(model or sure_nano, processor, renderer or builder.renderer)

    return make
