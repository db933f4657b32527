"""transformers' ``generate`` under the grammar of answers: what the Engine is compared with.

A logits processor leaves open only the tokens of the fixed text, then the digits of a valid score,
then what llguidance allows in a comment: one forward pass a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from aes.data.collate import pad_prompts
from aes.data.processor import Processor
from aes.inference.engine import Engine
from aes.inference.grammar import Grammar, Written
from aes.inference.prompts import draw_prompts, read_prompt
from aes.prompt import AnswerSchema
from aes.records import Example


@dataclass
class Row:
    """What the logits processor knows of one answer.

    Attributes:
        forced: Tokens that must come next.
        scores: Digits of the scores that were written.
        written: The same under the grammar.
    """

    written: Written
    forced: list[int]
    scores: list[str] = field(default_factory=list)
    num_comment: int = 0


class FormProcessor(transformers.LogitsProcessor):
    """Leaves open only what an answer's form allows, one token at a time.

    Args:
        processor: Ranges and tokens.
        grammar: Of answers with a comment.
        num_comment_tokens: Longest comment.

    Attributes:
        first_s: When the prompts had been read, by ``clock``.
    """

    def __init__(
        self,
        processor: Processor,
        grammar: Grammar,
        num_comment_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        self.guide, self.tokenizer = processor.guide, processor.tokenizer
        self.end_token, self.grammar = processor.end_token, grammar
        self.limit, self.clock = num_comment_tokens, clock
        self.names = list(self.guide.ranges)
        self.schema = AnswerSchema(ranges=self.guide.ranges, feedback=True)
        leads = [*(lead for _, lead in self.schema.leads()), self.schema.opening_of_feedback()]
        self.leads = [self.tokenizer.encode(lead, add_special_tokens=False) for lead in leads]
        self.close = self.tokenizer.encode('"}', add_special_tokens=False)
        self.rows: list[Row] = []
        self.first_s = 0.0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Logits with all but the allowed tokens masked."""
        last = input_ids[:, -1].tolist()
        if not self.rows:
            self.first_s = self.clock()
            self.rows = [Row(self.grammar.start(), list(self.leads[0]), [""]) for _ in last]
        else:
            for row, token in zip(self.rows, last, strict=True):
                self._take(row, token)
        allowed = torch.stack([self._allowed(row, scores.shape[1]) for row in self.rows])
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _take(self, row: Row, token: int) -> None:
        if row.written.is_whole:
            return
        row.written.append([token])
        if row.forced:
            row.forced.pop(0)
        elif len(row.scores) <= len(self.names):
            self._take_score(row, token)
        else:
            row.num_comment += 1
        if len(row.scores) > len(self.names) and row.num_comment == self.limit:
            row.forced = list(self.close)

    def _take_score(self, row: Row, token: int) -> None:
        digit = next((d for d, known in self.guide.digits.items() if known == token), None)
        if digit is not None:
            row.scores[-1] += digit
        else:  # the first token of the fixed text behind the score
            row.forced = list(self.leads[len(row.scores)][1:])
            row.scores.append("")

    def _allowed(self, row: Row, num_words: int) -> Any:
        allowed = torch.zeros(num_words, dtype=torch.bool)
        if row.written.is_whole:
            allowed[self.end_token] = True
        elif row.forced:
            allowed[row.forced[0]] = True
        elif len(row.scores) <= len(self.names):
            name = self.names[len(row.scores) - 1]
            allowed[list(self.guide.step(name, row.scores[-1], feedback=True).allowed)] = True
        else:
            found = row.written.allowed()[:num_words]
            allowed[: len(found)] = found
        return allowed


class GenerateLoop:
    """transformers' ``generate`` over batches in the order given.

    Args:
        model: As transformers loads it.
        engine: Lends its processor, renderer and decoding.
        num_new_tokens: Longest answer.
        clock: Gives seconds.

    Attributes:
        prefill_s: Seconds up to the first word's logits, pages included, summed over the calls.
    """

    def __init__(
        self, model: Any, engine: Engine, num_new_tokens: int, clock: Callable[[], float]
    ) -> None:
        self.model, self.processor, self.renderer = model, engine.processor, engine.renderer
        self.num_new_tokens, self.clock = num_new_tokens, clock
        self.num_comment_tokens = engine.decoding.max_feedback_tokens
        schema = AnswerSchema(ranges=self.processor.guide.ranges, feedback=True)
        self.grammar = Grammar(
            self.processor, schema.json_schema(engine.decoding.max_feedback_chars)
        )
        self.prefill_s = 0.0

    @torch.no_grad()
    def answer(self, examples: Sequence[Example]) -> list[str]:
        """Texts of the answers to one batch."""
        start = self.clock()
        processor, renderer = self.processor, self.renderer
        prompts = [read_prompt(e, processor=processor, renderer=renderer) for e in examples]
        batch = pad_prompts(
            [prompt.encoded for prompt in prompts],
            image_token=processor.image_token,
            pad_token=processor.pad_token,
        )
        # generate wants the padding on the left, and makes the positions itself.
        for name in ("input_ids", "attention_mask"):
            batch[name] = _shift_right(batch[name], batch["attention_mask"].sum(dim=1))
        del batch["position_ids"]
        batch["mm_token_type_ids"] = (batch["input_ids"] == processor.image_token).int()
        batch["pixel_values"] = draw_prompts(prompts, processor=processor, renderer=renderer)
        form = FormProcessor(processor, self.grammar, self.num_comment_tokens, self.clock)
        self.model.generate(
            **{name: tensor.to(self.model.device) for name, tensor in batch.items()},
            logits_processor=transformers.LogitsProcessorList([form]),
            max_new_tokens=self.num_new_tokens + 8,
            do_sample=False,
            eos_token_id=processor.end_token,
            pad_token_id=processor.end_token,
        )
        self.prefill_s += form.first_s - start
        for row in form.rows:
            row.written.close()
        return [row.written.text() for row in form.rows]


def _shift_right(tensor: Any, lengths: Any) -> Any:
    width = tensor.shape[1]
    rows = [torch.roll(row, width - int(n)) for row, n in zip(tensor, lengths, strict=True)]
    return torch.stack(rows)
