"""One Example -> its Answer, by questions to vLLM.

Scores are decided here and not by the server, as in ``aes.inference.scores``: behind every
beginning of a score the server says how likely each digit is, one token a request, and its prefix
cache makes that cheap. So distributions are exact, whatever sampler or grammar the server has. With
``decoding.score=greedy`` the server writes the whole answer to the JSON schema in one request, and
there are no distributions. Of choices the server writes one, token by token, and gives no
probabilities.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Sequence

from aes.data.processor import Processor
from aes.inference.grammar import Grammar, grammar_tokenizer
from aes.inference.spec import DecodingSpec
from aes.inference.vllm_questions import (
    Ask,
    Begun,
    NoAnswerError,
    Question,
    Reply,
    comment_pattern,
    compact,
)
from aes.inference.vllm_scores import among_valid, distribution_of, places, rounded_mean, ways
from aes.inference.writing import is_harmless
from aes.prompt import AnswerSchema
from aes.records import Answer, Example


class AnswerWriter:
    """Writes answers with questions.

    Args:
        processor: Gives tokens and the trees of scores.
        decoding: How answers are decoded.
    """

    def __init__(self, processor: Processor, decoding: DecodingSpec) -> None:
        self.processor = processor
        self.decoding = decoding
        self._grammars: dict[bool, Grammar] = {}

    async def write(self, ask: Ask, example: Example, *, scores_only: bool) -> Answer:
        """The answer.

        Raises:
            NoAnswerError: If the server gives none that can be used.
        """
        if choices := self.choices(example):
            return Answer(id=example.id, text=await self._choice(ask, choices))
        if not self.is_graded(example):
            return Answer(id=example.id, text=self._free(await ask(self.free_question())))
        if self.decoding.score == "greedy":
            text = await self._whole(ask, feedback=example.asks_feedback, scores_only=scores_only)
            return Answer(id=example.id, text=text)
        begun, distributions = await self._scores(ask, example)
        text = begun.text
        if example.asks_feedback:
            text = text + '"}' if scores_only else await self._comment(ask, begun)
        return Answer(id=example.id, text=text, distributions=distributions)

    def is_graded(self, example: Example) -> bool:
        """Whether the answer is held to the rubric's form."""
        return self.decoding.constrained and example.kind == "grade"

    def choices(self, example: Example) -> tuple[str, ...]:
        """Of which the answer is to be one; none where it is free."""
        return example.choices if self.decoding.constrained else ()

    def free_question(self) -> Question:
        """The question whose answer has no form."""
        ends = (self.processor.end_token, self.processor.pad_token)
        return Question(begun=Begun(), max_tokens=self.decoding.max_answer_tokens, stops=ends)

    async def _scores(
        self, ask: Ask, example: Example
    ) -> tuple[Begun, dict[str, tuple[float, ...]]]:
        """The answer up to where a comment begins, or to its end; and each trait's distribution."""
        guide, begun = self.processor.guide, Begun()
        schema = self._schema(example.asks_feedback)
        distributions = {}
        for name, lead in schema.leads():
            # Requests that come together share nothing: the first one fills the prefix cache.
            is_first = not begun.tokens
            begun = begun.plus(lead, self._encode(lead))
            after = await self._look(ask, name, begun, example.asks_feedback, alone=is_first)
            low, high = guide.ranges[name]
            distributions[name] = shares = distribution_of(after, low, high)
            score = str(rounded_mean(low, shares))
            begun = begun.plus(score, [guide.digits[digit] for digit in score])
        opening = schema.opening_of_feedback()
        return begun.plus(opening, self._encode(opening)), distributions

    async def _look(
        self, ask: Ask, name: str, begun: Begun, feedback: bool, *, alone: bool
    ) -> dict[str, dict[str, float]]:
        """Log-probabilities behind every beginning of a score."""
        guide = self.processor.guide

        async def look_behind(place: str) -> dict[str, float]:
            allowed = ways(guide.step(name, place, feedback=feedback))
            behind = begun.plus(place, [guide.digits[digit] for digit in place])
            looked_at = tuple(allowed.values())
            reply = await ask(Question(begun=behind, max_tokens=1, looked_at=looked_at))
            found = {way: reply.log_shares[token] for way, token in allowed.items()}
            return among_valid(found) if self.decoding.distribution == "constrained" else found

        first, *rest = places(guide, name, self.decoding.distribution)
        found = {first: await look_behind(first)} if alone else {}
        left = rest if alone else [first, *rest]
        tasks = [asyncio.ensure_future(look_behind(place)) for place in left]
        try:
            return found | dict(zip(left, await asyncio.gather(*tasks), strict=True))
        finally:  # no request outlives one that failed
            for task in tasks:
                task.cancel()

    async def _choice(self, ask: Ask, choices: Sequence[str]) -> str:
        """The choice that greedy decoding leads to; not always the likeliest as a whole."""
        question = Question(
            begun=Begun(),
            max_tokens=max(len(choice.encode()) for choice in choices) + 1,
            pattern="|".join(f"(?:{re.escape(choice)})" for choice in choices),
        )
        text = self._free(await ask(question))
        if text not in choices:
            raise NoAnswerError(
                "the server does not hold answers to the labels; is it vLLM with structured "
                "outputs?"
            )
        return text

    async def _comment(self, ask: Ask, begun: Begun) -> str:
        question = Question(
            begun=begun,
            max_tokens=self.decoding.max_feedback_tokens,
            pattern=comment_pattern(self.decoding.max_feedback_chars),
        )
        reply = await ask(question)
        return self._finish(True, question.begun.tokens, reply.tokens, _is_full(question, reply))

    async def _whole(self, ask: Ask, *, feedback: bool, scores_only: bool) -> str:
        """Scores, and the comment if it is wanted, in one request under the JSON schema."""
        max_chars = 0 if scores_only else self.decoding.max_feedback_chars
        num_tokens = self._num_fixed(feedback=feedback) + 1
        if feedback and not scores_only:
            num_tokens += self.decoding.max_feedback_tokens
        schema = compact(self._schema(feedback).json_schema(max_chars))
        question = Question(begun=Begun(), max_tokens=num_tokens, schema=schema)
        reply = await ask(question)
        kept = self._within_limit(reply.tokens)
        is_full = len(kept) < len(reply.tokens) or _is_full(question, reply)
        return self._finish(feedback, (), kept, is_full)

    def _within_limit(self, tokens: Sequence[int]) -> Sequence[int]:
        """A whole answer with no more tokens of its comment than it may have."""
        opening = self._schema(feedback=True).opening_of_feedback().encode()
        words = grammar_tokenizer(self.processor)
        for num_before in range(1, len(tokens) + 1):
            if opening in words.decode_bytes(list(tokens[:num_before])):
                return tokens[: num_before + self.decoding.max_feedback_tokens]
        return tokens

    def _finish(
        self, feedback: bool, begun: Sequence[int], tokens: Sequence[int], is_full: bool
    ) -> str:
        """What was begun with what follows, closed where there was no more room."""
        written = self._grammar(feedback=feedback).start()
        written.append(begun)
        for token in tokens:
            if written.is_whole:
                break
            if not written.accept([token]):
                raise NoAnswerError(
                    "the server does not hold answers to their form; is it vLLM with structured "
                    "outputs?"
                )
        if not written.is_whole and not is_full:
            raise NoAnswerError("the server ended the answer before it was whole")
        written.close()
        return written.text()

    def _free(self, reply: Reply) -> str:
        text = self.free_text()
        for token in reply.tokens:
            text.take(token)
        return text.text

    def free_text(self) -> StreamedText:
        """What a free answer is collected in."""
        return StreamedText(self.processor)

    def _num_fixed(self, *, feedback: bool) -> int:
        """Most tokens of an answer without its comment; one a character is enough."""
        schema, ranges = self._schema(feedback), self.processor.guide.ranges
        digits = sum(len(str(high)) for _, high in ranges.values())
        leads = "".join(lead for _, lead in schema.leads()) + schema.opening_of_feedback()
        return len(leads) + digits

    def _schema(self, feedback: bool) -> AnswerSchema:
        return AnswerSchema(ranges=self.processor.guide.ranges, feedback=feedback)

    def _grammar(self, *, feedback: bool) -> Grammar:
        if feedback not in self._grammars:
            schema = self._schema(feedback).json_schema(self.decoding.max_feedback_chars)
            self._grammars[feedback] = Grammar(self.processor, schema)
        return self._grammars[feedback]

    def _encode(self, text: str) -> Sequence[int]:
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False))


def _is_full(question: Question, reply: Reply) -> bool:
    """Whether nothing but the limit that we set ended a reply."""
    return reply.is_cut and len(reply.tokens) == question.max_tokens


class StreamedText:
    """A free answer whose tokens were chosen elsewhere; ``text`` is what they say so far.

    The same text as ``FreeText`` would make of them: whole characters, no control characters.
    """

    def __init__(self, processor: Processor) -> None:
        self._words = grammar_tokenizer(processor)
        self._ends = {processor.end_token, processor.pad_token}
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._is_ended = False
        self.text = ""

    def take(self, token: int) -> None:
        """Append a token; those behind the end, and ids without a word, say nothing."""
        self._is_ended |= token in self._ends
        if self._is_ended or token >= self._words.vocab_size or self._words.is_special_token(token):
            return
        piece = self._decoder.decode(self._words.decode_bytes([token]))
        self.text += "".join(filter(is_harmless, piece))
