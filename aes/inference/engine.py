"""Examples to Answers. The only way to an answer: validation, evaluation and prediction share it.

The answer's form is written by us and only its scores and its comment by the model, so every
answer can be read. Knows no rubric beyond the ranges; Grades are made downstream.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from aes.data.dataset import draw_patches
from aes.data.processor import Encoded, Processor
from aes.inference.decoder import CachedRows
from aes.inference.spec import DecodingSpec
from aes.model.forward import autocast
from aes.page import PageRenderer
from aes.prompt import AnswerSchema
from aes.records import Answer, Example

Distribution = Mapping[int, Tensor]
"""Probability of each score, float32 ``[B]`` each."""


class Engine:
    """Answers Examples with one model.

    Args:
        model: Transformers or PEFT model.
        processor: Its tokenizer and image processor.
        renderer: Draws and opens pages.
        decoding: How scores are chosen.
        precision: As the model was loaded.
    """

    def __init__(
        self,
        *,
        model: Any,
        processor: Processor,
        renderer: PageRenderer,
        decoding: DecodingSpec,
        precision: Literal["fp32", "bf16"],
    ) -> None:
        self.model = model
        self.processor = processor
        self.renderer = renderer
        self.decoding = decoding
        self.precision = precision

    def answer(self, examples: Iterable[Example], *, scores_only: bool = False) -> Iterator[Answer]:
        """Answers in input order, as they come.

        Args:
            scores_only: Leave feedback empty; saves most of the time.
        """
        source = iter(examples)
        while batch := list(islice(source, self.decoding.batch_size)):
            yield from self.answer_batch(batch, scores_only=scores_only)

    @torch.no_grad()
    def answer_batch(self, examples: Sequence[Example], *, scores_only: bool) -> list[Answer]:
        """Answers to examples that are decoded side by side."""
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        try:
            with autocast(self.precision, device):
                return self._decode(examples, scores_only=scores_only)
        finally:
            self.model.train(was_training)

    def _decode(self, examples: Sequence[Example], *, scores_only: bool) -> list[Answer]:
        asks = [example.asks_feedback for example in examples]
        rows = self._prefill(examples)
        scores: list[dict[str, int]] = [{} for _ in examples]
        shares: list[dict[str, tuple[float, ...]]] = [{} for _ in examples]
        names = list(self.processor.guide.ranges)
        for i, name in enumerate(names):
            distribution, greedy = self._score_distribution(rows, name, asks)
            chosen = self._choose(distribution, greedy)
            for b, value in enumerate(chosen):
                scores[b][name] = value
                shares[b][name] = tuple(float(p[b]) for p in distribution.values())
            if i + 1 < len(names) or (any(asks) and not scores_only):
                rows.feed([self._after_score(v, i, a) for v, a in zip(chosen, asks, strict=True)])
        comments = [""] * len(examples)
        if any(asks) and not scores_only:
            comments = self._write_feedback(rows, asks)
        return [
            Answer(id=example.id, text=self._text(s, ask, c), distributions=d)
            for example, s, ask, c, d in zip(examples, scores, asks, comments, shares, strict=True)
        ]

    def _prefill(self, examples: Sequence[Example]) -> CachedRows:
        """Prompts, pages and the fixed text before the first score."""
        encoded: list[Encoded] = []
        patches: list[Tensor] = []
        first = self._schema(feedback=False).leads()[0][1]
        lead = self.processor.tokenizer.encode(first, add_special_tokens=False)
        for example in examples:
            drawn, grids = draw_patches(example, self.renderer, self.processor)
            sizes = [(int(width) * 16, int(height) * 16) for _, height, width in grids]
            found = self.processor.encode(_without_answer(example), sizes)
            encoded.append(
                Encoded(
                    input_ids=[*found.input_ids, *lead],
                    num_prompt=found.num_prompt,
                    steps=[],
                    grids=found.grids,
                    num_image_tokens=found.num_image_tokens,
                )
            )
            patches.append(torch.from_numpy(drawn))
        return CachedRows(self.model, self.processor, encoded, torch.cat(patches))

    def _schema(self, *, feedback: bool) -> AnswerSchema:
        return AnswerSchema(ranges=self.processor.guide.ranges, feedback=feedback)

    def _score_distribution(
        self, rows: CachedRows, name: str, asks: Sequence[bool]
    ) -> tuple[dict[int, Tensor], list[int]]:
        """Exact probability of every valid score of a trait, and the greedy score of each row.

        A score's probability is the product of its digits' and its end's, each among the tokens
        that a valid score allows there.
        """
        guide = self.processor.guide
        after: dict[str, dict[str, Tensor]] = {"": self._shares(rows.last_logits, name, "", asks)}
        for prefix in guide.open_prefixes(name):
            seen = rows.peek([guide.digits[digit] for digit in prefix])
            after[prefix] = self._shares(seen, name, prefix, asks)
        low, high = guide.ranges[name]
        one = torch.ones(len(asks), device=rows.last_logits.device)
        distribution = {}
        for score in range(low, high + 1):
            text, share = str(score), one
            for k in range(len(text) + 1):
                if text[:k] in after:
                    share = share * after[text[:k]][text[k : k + 1]]
            distribution[score] = share
        return distribution, [_walk(after, b) for b in range(len(asks))]

    def _shares(
        self, seen: Tensor, name: str, prefix: str, asks: Sequence[bool]
    ) -> dict[str, Tensor]:
        """Probability ``[B]`` of each allowed next digit, and of the end under ``""``."""
        steps = [self.processor.guide.step(name, prefix, feedback=ask) for ask in asks]
        allowed = torch.tensor([step.allowed for step in steps], device=seen.device)
        share = seen.gather(1, allowed).softmax(dim=1)
        keys = [*steps[0].next_digit, *([] if steps[0].end is None else [""])]
        return {key: share[:, k] for k, key in enumerate(keys)}

    def _choose(self, distribution: Distribution, greedy: list[int]) -> list[int]:
        if self.decoding.score == "greedy":
            return greedy
        mean = sum(score * share for score, share in distribution.items())
        assert isinstance(mean, Tensor)
        return [math.floor(value + 0.5) for value in mean.tolist()]

    def _after_score(self, score: int, index: int, asks: bool) -> list[int]:
        """Tokens of a chosen score and of the fixed text behind it."""
        schema = self._schema(feedback=asks)
        leads = schema.leads()
        last = index + 1 == len(leads)
        text = schema.opening_of_feedback() if last else leads[index + 1][1]
        encode = self.processor.tokenizer.encode
        return [
            *(token for digit in str(score) for token in encode(digit, add_special_tokens=False)),
            *encode(text, add_special_tokens=False),
        ]

    def _write_feedback(self, rows: CachedRows, asks: Sequence[bool]) -> list[str]:
        """The likeliest comment of each row that asks for one, up to its closing quote."""
        written: list[list[int]] = [[] for _ in asks]
        comments = [""] * len(asks)
        open_rows = [b for b, ask in enumerate(asks) if ask]
        for _ in range(self.decoding.max_feedback_tokens):
            best = rows.last_logits.argmax(dim=1).tolist()
            for b in list(open_rows):
                written[b].append(best[b])
                comments[b], closed = _read_string(self.processor.tokenizer.decode(written[b]))
                if closed or best[b] == self.processor.end_token:
                    open_rows.remove(b)
            if not open_rows:
                break
            rows.feed([[best[b]] if b in open_rows else [] for b in range(len(asks))])
        return comments

    def _text(self, scores: Mapping[str, int], asks: bool, comment: str) -> str:
        segments = self._schema(feedback=asks).segments(scores, comment)
        return "".join(text for text, _ in segments)


def _without_answer(example: Example) -> Example:
    return Example(id=example.id, messages=example.messages, asks_feedback=example.asks_feedback)


def _walk(after: Mapping[str, Mapping[str, Tensor]], row: int) -> int:
    """The greedy score of a row: the likeliest digit at each step, until the end is likeliest."""
    digits = ""
    while digits in after:
        options = {key: float(share[row]) for key, share in after[digits].items()}
        best = max(options, key=options.__getitem__)
        if not best:
            break
        digits += best
    return int(digits)


def _read_string(raw: str) -> tuple[str, bool]:
    """What was written of a JSON string so far, and whether its closing quote has come."""
    at = 0
    while at < len(raw) and raw[at] != '"':
        at += 2 if raw[at] == "\\" else 1
    body = raw[:at].replace("\n", "\\n").replace("\t", "\\t")
    try:
        return str(json.loads(f'"{body}"')), at < len(raw)
    except json.JSONDecodeError:  # an escape that is broken or not yet whole
        return body.replace("\\", ""), at < len(raw)
