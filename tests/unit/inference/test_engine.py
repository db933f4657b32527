"""The Engine against brute force: whole sequences through transformers' own forward."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aes.data.dataset import draw_patches
from aes.data.processor import Processor
from aes.inference import DecodingSpec
from aes.inference.engine import Engine, _read_string
from aes.page import PageSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example

IM_END = 151645


@pytest.fixture(scope="module")
def model(load_nano: Callable[..., Any]) -> Any:
    """A nano that is sure of itself, so that distributions are far from flat."""
    model = load_nano()
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return model


@pytest.fixture(scope="module")
def make_engine(model: Any, processor: Processor, builder: ExampleBuilder) -> Callable[..., Engine]:
    def make(score: Any = "expected", *, batch_size: int = 3, tokens: int = 5) -> Engine:
        decoding = DecodingSpec(score=score, batch_size=batch_size, max_feedback_tokens=tokens)
        return Engine(
            model=model,
            processor=processor,
            renderer=builder.renderer,
            decoding=decoding,
            precision="fp32",
        )

    return make


@pytest.fixture(scope="module")
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


class BruteForce:
    """Next-token logits from whole sequences, without cache, padding or our position ids."""

    def __init__(self, model: Any, processor: Processor, builder: ExampleBuilder) -> None:
        self.model, self.processor, self.builder = model, processor, builder
        self.known: list[tuple[tuple[Example, tuple[int, ...]], torch.Tensor]] = []

    def tokens(self, text: str) -> list[int]:
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False))

    def next_logits(self, example: Example, answer: Sequence[int]) -> torch.Tensor:
        """Logits ``[vocabulary]`` behind the beginning of an answer."""
        key = (example, tuple(answer))
        if not any(seen == key for seen, _ in self.known):
            self.known.append((key, self._forward(example, answer)))
        return next(found for seen, found in self.known if seen == key)

    def _forward(self, example: Example, answer: Sequence[int]) -> torch.Tensor:
        sizes = [self.builder.renderer.size(page) for page in example.pages]
        prompt = self.processor.encode(example, sizes)
        assert prompt.num_prompt == len(prompt.input_ids)
        ids = torch.tensor([[*prompt.input_ids, *answer]])
        pages: dict[str, Any] = {}
        if example.pages:
            drawn, grids = draw_patches(example, self.builder.renderer, self.processor)
            pages = {
                "pixel_values": torch.from_numpy(drawn),
                "image_grid_thw": torch.from_numpy(grids),
                "mm_token_type_ids": (ids == self.processor.image_token).int(),
            }
        with torch.no_grad():
            out = self.model.eval()(input_ids=ids, logits_to_keep=1, use_cache=False, **pages)
        found: torch.Tensor = out.logits[0, -1]
        return found

    def distribution(
        self, example: Example, before: str, span: tuple[int, int], after: str
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
            answer = [*self.tokens(before), *(self.tokens(digit)[0] for digit in prefix)]
            shares = self.next_logits(example, answer)[ids].log_softmax(0)
            for choice, share in zip(choices, shares.tolist(), strict=True):
                for score in scores:
                    if score == prefix if not choice else score.startswith(prefix + choice):
                        found[score] += share
        return [math.exp(found[score]) for score in scores]


@pytest.fixture(scope="module")
def brute_force(model: Any, processor: Processor, builder: ExampleBuilder) -> BruteForce:
    return BruteForce(model, processor, builder)


def _expected(brute_force: BruteForce, example: Example, content: int) -> dict[str, list[float]]:
    end = '},"feedback":"' if example.asks_feedback else "}}"
    first, second = '{"scores":{"content":', ',"language":'
    return {
        "content": brute_force.distribution(example, first, (0, 20), second),
        "language": brute_force.distribution(example, f"{first}{content}{second}", (8, 12), end),
    }


def test_distributions_equal_brute_force(
    make_engine: Callable[..., Engine], examples: list[Example], brute_force: BruteForce
) -> None:
    answers = list(make_engine(batch_size=4).answer(examples))
    for example, answer in zip(examples, answers, strict=True):
        scores = json.loads(answer.text)["scores"]
        expected = _expected(brute_force, example, scores["content"])
        for name, shares in expected.items():
            assert sum(shares) == pytest.approx(1, abs=1e-4)
            assert answer.distributions[name] == pytest.approx(shares, abs=1e-4)
            low = {"content": 0, "language": 8}[name]
            mean = sum((low + i) * share for i, share in enumerate(shares))
            assert scores[name] == math.floor(mean + 0.5)
        assert max(expected["content"]) > 0.15, "too flat to tell anything"


def test_greedy_is_the_likeliest_digit_at_each_step(
    make_engine: Callable[..., Engine], examples: list[Example], brute_force: BruteForce
) -> None:
    answers = make_engine("greedy", batch_size=4).answer(examples, scores_only=True)
    for example, answer in zip(examples, answers, strict=True):
        scores = json.loads(answer.text)["scores"]
        expected = _expected(brute_force, example, scores["content"])
        for name, low in (("content", 0), ("language", 8)):
            share = {str(low + i): p for i, p in enumerate(expected[name])}
            digits = ""
            while True:
                ways = {
                    d: sum(p for s, p in share.items() if s.startswith(digits + d))
                    for d in "0123456789"
                }
                best = max(ways, key=ways.__getitem__)
                if share.get(digits, 0) >= ways[best]:
                    break
                digits += best
            assert scores[name] == int(digits)


def test_batches_of_one_and_of_all_agree_and_keep_their_order(
    make_engine: Callable[..., Engine], examples: list[Example]
) -> None:
    alone = list(make_engine(batch_size=1).answer(examples))
    for size in (3,):
        together = list(make_engine(batch_size=size).answer(examples))
        assert [a.id for a in together] == [e.id for e in examples]
        assert [a.text for a in together] == [a.text for a in alone]
        for one, other in zip(alone, together, strict=True):
            for name, shares in one.distributions.items():
                assert other.distributions[name] == pytest.approx(shares, abs=1e-5)
    backwards = list(make_engine(batch_size=3).answer(examples[::-1]))
    assert [a.text for a in backwards] == [a.text for a in alone[::-1]]


def test_answers_are_made_as_they_are_asked_for(
    make_engine: Callable[..., Engine], examples: list[Example]
) -> None:
    taken: list[str] = []

    def source() -> Iterator[Example]:
        for example in examples:
            taken.append(example.id)
            yield example

    first = next(make_engine(batch_size=2).answer(source(), scores_only=True))
    assert (first.id, taken) == ("x0", ["x0", "x1"])


def test_every_answer_can_be_read_under_its_own_form(
    make_engine: Callable[..., Engine], examples: list[Example], builder: ExampleBuilder
) -> None:
    for score, scores_only in (("expected", False), ("greedy", True)):
        found = make_engine(score).answer(examples, scores_only=scores_only)
        for example, answer in zip(examples, found, strict=True):
            data = json.loads(answer.text)
            assert set(data) == {"scores"} | ({"feedback"} if example.asks_feedback else set())
            assert not builder.schema(feedback=True).parse(answer.text).error
            if scores_only:
                assert data.get("feedback", "") == ""


def test_feedback_is_what_greedy_decoding_writes(
    make_engine: Callable[..., Engine], examples: list[Example], brute_force: BruteForce
) -> None:
    """Whatever the neighbours do: others in the batch ask for none, or stop earlier."""
    answers = list(make_engine(batch_size=4, tokens=5).answer(examples))
    for example, answer in zip(examples, answers, strict=True):
        if not example.asks_feedback:
            continue
        before = answer.text[: answer.text.index('"feedback":"') + len('"feedback":"')]
        head, tail = before.split('},"feedback"')
        written = [
            token
            for piece in [*_pieces(head), '},"feedback"' + tail]
            for token in brute_force.tokens(piece)
        ]
        comment: list[int] = []
        for _ in range(5):
            best = int(brute_force.next_logits(example, [*written, *comment]).argmax())
            comment.append(best)
            text, closed = _read_string(brute_force.processor.tokenizer.decode(comment))
            if closed or best == IM_END:
                break
        assert json.loads(answer.text)["feedback"] == text
        assert text


def _pieces(head: str) -> list[str]:
    """``{"scores":{"content":7,"language":9`` cut as gold answers are."""
    first, rest = head.split(',"language":')
    lead, score = first.rsplit(":", 1)
    return [lead + ":", *score, ',"language":', *rest]


def test_feedback_closes_at_its_limit(
    make_engine: Callable[..., Engine], examples: list[Example], processor: Processor
) -> None:
    lengths = []
    for tokens in (1, 8):
        (answer,) = make_engine(tokens=tokens).answer([examples[1]])
        assert answer.text.endswith('"}')
        feedback = json.loads(answer.text)["feedback"]
        lengths.append(len(processor.tokenizer.encode(feedback, add_special_tokens=False)))
    assert lengths[0] < lengths[1]


def test_a_model_that_closes_the_quote_is_heard(
    make_engine: Callable[..., Engine], examples: list[Example], model: Any, processor: Processor
) -> None:
    (close,) = processor.tokenizer.encode('"}', add_special_tokens=False)
    (say,) = processor.tokenizer.encode("好", add_special_tokens=False)
    calls = []

    def steer(_: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        forced = out.clone()
        forced[:, say], forced[:, close] = 1e4, (2e4 if len(calls) > 8 else 0)
        return forced

    hook = model.lm_head.register_forward_hook(steer)
    try:
        (answer,) = make_engine(tokens=100).answer([examples[1]])
    finally:
        hook.remove()
    feedback = json.loads(answer.text)["feedback"]
    assert feedback.strip("好") == ""
    assert 0 < len(feedback) < 4


def test_typed_text_is_answered_without_pages(
    model: Any,
    processor: Processor,
    builder: ExampleBuilder,
    examples: list[Example],
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    page = PageSpec(**read_conf("page/none", width_px=320, max_height_px=640, min_pixels=65536))
    made = ExampleBuilder(rubric=builder.rubric, prompt=builder.prompt, page=page, seed=1)
    engine = Engine(
        model=model,
        processor=processor,
        renderer=made.renderer,
        decoding=DecodingSpec(score="greedy", batch_size=2, max_feedback_tokens=2),
        precision="fp32",
    )
    texts = [made.build(Essay(id=str(i), text="花" * (1 + 9 * i), comment="好")) for i in range(3)]
    answers = list(engine.answer(texts))
    assert [a.id for a in answers] == ["0", "1", "2"]
    checker = BruteForce(model, processor, made)
    for example, answer in zip(texts, answers, strict=True):
        content = json.loads(answer.text)["scores"]["content"]
        for name, shares in _expected(checker, example, content).items():
            assert answer.distributions[name] == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize("was_training", [False, True])
def test_the_models_mode_is_restored_even_after_an_error(
    make_engine: Callable[..., Engine],
    examples: list[Example],
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    was_training: bool,
) -> None:
    engine = make_engine()
    model.train(was_training)
    list(engine.answer(examples[:1], scores_only=True))
    assert model.training == was_training

    def fail(*_: Any, **__: Any) -> None:
        assert not model.training
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine, "_decode", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        list(engine.answer(examples[:1]))
    assert model.training == was_training
    model.eval()


def test_no_gradients_are_kept(make_engine: Callable[..., Engine], examples: list[Example]) -> None:
    engine = make_engine()
    list(engine.answer(examples[:1], scores_only=True))
    assert all(p.grad is None for p in engine.model.parameters())
    assert torch.is_grad_enabled()


def test_a_gold_answer_in_the_example_changes_nothing(
    make_engine: Callable[..., Engine], builder: ExampleBuilder
) -> None:
    plain = Essay(id="x", text="春天来了。")
    marked = Essay(id="x", text="春天来了。", scores={"content": 3, "language": 9})
    both = [builder.build(plain), builder.build(marked)]
    one, other = make_engine(batch_size=1).answer(both)
    assert one == other


@given(st.text())
def test_a_json_string_is_read_back_up_to_its_quote(text: str) -> None:
    raw = json.dumps(text, ensure_ascii=False)[1:]
    assert _read_string(raw + "}") == (text, True)


@given(st.text(alphabet='a好"\\nu0\n\t\r\x01{}', max_size=12))
def test_any_beginning_of_a_string_can_be_written_into_an_answer(raw: str) -> None:
    comment, _ = _read_string(raw)
    assert json.loads(json.dumps(comment)) == comment
