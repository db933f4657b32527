"""Answers a second: the Engine against a plain ``generate`` loop that gives the same answers.

    python benchmarks/engine.py [--out benchmarks/results/engine.json] [--model large] [--repeats 3]

Both answer the same essays in batches of the same examples, greedily and under the same grammar,
in as many new tokens. The loop is transformers' ``generate`` with a logits processor, which leaves
open only the tokens of the fixed text, then the digits of a valid score, then what llguidance
allows in a comment: one forward pass a token. Both draw and encode the pages within the time. The
answers must be equal; the figures are the medians over the repeats, which take the ways in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

import aes
from aes.data.collate import pad_prompts
from aes.data.processor import Processor
from aes.inference import DecodingSpec
from aes.inference.engine import Engine
from aes.inference.grammar import Grammar, Written
from aes.inference.prompts import draw_prompts, read_prompt
from aes.model import ModelSpec
from aes.model.loading import load_base, model_folder
from aes.page import PageSpec
from aes.prompt import AnswerSchema, PromptSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example
from aes.rubric import Rubric

CONF = Path(__file__).parents[1] / "conf"
NUM_NEW_TOKENS = 64
"""Longest answer: fixed text, scores and comment."""

# A model of 50 M parameters whose page of 640 x 928 px is 580 tokens.
LARGE = {
    "text": {
        "num_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 32,
        "num_experts": 16,
        "experts_per_token": 4,
        "expert_intermediate_size": 192,
        "tie_embeddings": True,
    },
    "vision": {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 512,
        "deepstack_layers": [0, 1, 2],
    },
    "page_width_px": 640,
    "page_max_height_px": 928,
    "glyph_px": 20,
}


def read_conf(name: str, **changes: Any) -> dict[str, Any]:
    """Plain values of one option, with changes; groups inside are changed key by key."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    kept = {k: v for k, v in values.items() if k not in ("_target_", "defaults")}
    for key, value in changes.items():
        kept[key] = kept[key] | value if isinstance(value, dict) else value
    return kept


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
    """

    def __init__(self, processor: Processor, grammar: Grammar, num_comment_tokens: int) -> None:
        self.guide, self.tokenizer = processor.guide, processor.tokenizer
        self.end_token, self.grammar = processor.end_token, grammar
        self.limit = num_comment_tokens
        self.names = list(self.guide.ranges)
        self.schema = AnswerSchema(ranges=self.guide.ranges, feedback=True)
        leads = [*(lead for _, lead in self.schema.leads()), self.schema.opening_of_feedback()]
        self.leads = [self.tokenizer.encode(lead, add_special_tokens=False) for lead in leads]
        self.close = self.tokenizer.encode('"}', add_special_tokens=False)
        self.rows: list[Row] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Logits with all but the allowed tokens masked."""
        if not self.rows:
            self.rows = [
                Row(self.grammar.start(), list(self.leads[0]), [""]) for _ in range(len(input_ids))
            ]
        else:
            for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
                self._take(row, token)
        for i, row in enumerate(self.rows):
            allowed = self._allowed(row, scores.shape[1])
            scores[i] = scores[i].masked_fill(~allowed, -torch.inf)
        return scores

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
        engine: Lends its model, processor and renderer.
        num_comment_tokens: Longest comment.
    """

    def __init__(self, engine: Engine, num_comment_tokens: int) -> None:
        self.engine, self.processor = engine, engine.processor
        self.num_comment_tokens = num_comment_tokens
        schema = AnswerSchema(ranges=self.processor.guide.ranges, feedback=True)
        self.grammar = Grammar(
            self.processor, schema.json_schema(engine.decoding.max_feedback_chars)
        )

    @torch.no_grad()
    def answer(self, examples: Sequence[Example]) -> list[str]:
        """Texts of the answers to one batch."""
        processor, renderer = self.processor, self.engine.renderer
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
        form = FormProcessor(processor, self.grammar, self.num_comment_tokens)
        self.engine.model.generate(
            **batch,
            mm_token_type_ids=(batch["input_ids"] == processor.image_token).int(),
            pixel_values=draw_prompts(prompts, processor=processor, renderer=renderer),
            logits_processor=transformers.LogitsProcessorList([form]),
            max_new_tokens=NUM_NEW_TOKENS + 8,
            do_sample=False,
            eos_token_id=processor.end_token,
            pad_token_id=processor.end_token,
        )
        for row in form.rows:
            row.written.close()
        return [row.written.text() for row in form.rows]


def _shift_right(tensor: Any, lengths: Any) -> Any:
    width = tensor.shape[1]
    rows = [torch.roll(row, width - int(n)) for row, n in zip(tensor, lengths, strict=True)]
    return torch.stack(rows)


def build_engine(size: str, batch_size: int, folder: Path) -> tuple[Engine, list[Example]]:
    """An engine over a random model, and the sample's essays to answer, comments included."""
    spec = ModelSpec(**read_conf("model/nano", **(LARGE if size == "large" else {})))
    rubric = Rubric(**read_conf("rubric/five_by_twenty"))
    checkpoint = model_folder(spec, folder)
    processor = Processor(
        checkpoint,
        ranges=rubric.ranges,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
    )
    page = PageSpec(
        **read_conf(
            "page/plain",
            glyph_px=spec.glyph_px,
            width_px=spec.page_width_px,
            max_height_px=spec.page_max_height_px,
            min_pixels=spec.min_pixels,
        )
    )
    prompt = PromptSpec(**read_conf("prompt/zh"))
    builder = ExampleBuilder(rubric=rubric, prompt=prompt, page=page, seed=1)
    decoding = read_conf("decoding/expected", score="greedy", batch_size=batch_size)
    engine = Engine(
        model=load_base(checkpoint, dtype=torch.float32).eval(),
        processor=processor,
        renderer=builder.renderer,
        decoding=DecodingSpec(**decoding),
        precision="fp32",
    )
    examples = [builder.build(essay) for essay in read_essays(2 * batch_size)]
    engine.decoding = replace(
        engine.decoding, max_feedback_tokens=NUM_NEW_TOKENS - _num_form_tokens(engine, examples)
    )
    return engine, examples


def _num_form_tokens(engine: Engine, examples: Sequence[Example]) -> int:
    """Most tokens of an answer beside its comment."""
    encode = engine.processor.tokenizer.encode
    answers = engine.answer(examples, scores_only=True)
    return max(len(encode(answer.text, add_special_tokens=False)) for answer in answers)


def read_essays(count: int) -> list[Essay]:
    """Sample essays of one length, so that both ways make the same batches."""
    found = []
    for path in sorted(Path(aes.__file__).parent.glob("corpus/sample/s*.yaml"))[:count]:
        essay = yaml.safe_load(path.read_text(encoding="utf-8"))
        text = essay["text"].replace("\n", "")
        while len(text) < 700:
            text += text
        found.append(Essay(id=path.stem, title="", text=text[:700], comment="好"))
    assert len(found) == count, "the sample is smaller than two batches"
    return found


def measure(
    engine: Engine, examples: Sequence[Example], repeats: int
) -> tuple[dict[str, float], int, int]:
    """Answers a second of each way, new tokens an answer, and how many answers are equal."""
    size = engine.decoding.batch_size
    loop = GenerateLoop(engine, engine.decoding.max_feedback_tokens)

    def run_engine() -> list[str]:
        return [answer.text for answer in engine.answer(examples)]

    def run_loop() -> list[str]:
        batches = [examples[i : i + size] for i in range(0, len(examples), size)]
        return [text for batch in batches for text in loop.answer(batch)]

    def run_scores() -> list[str]:
        return [answer.text for answer in engine.answer(examples, scores_only=True)]

    ways: dict[str, Callable[[], list[str]]] = {
        "generate": run_loop,
        "engine": run_engine,
        "engine_scores_only": run_scores,
    }
    answers = {way: run() for way, run in ways.items()}  # the first round warms up
    assert answers["generate"] == answers["engine"], "the two ways must give the same answers"
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    encode = engine.processor.tokenizer.encode
    tokens = [len(encode(text, add_special_tokens=False)) for text in answers["engine"]]
    speeds = {way: len(examples) / statistics.median(times) for way, times in seconds.items()}
    return speeds, round(statistics.mean(tokens)), len(examples)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description="How fast examples are answered.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engine.json"))
    parser.add_argument("--model", choices=("nano", "large", "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    print(f"{'answers a second':<18}{'generate':>12}{'Engine':>12}{'times':>8}{'scores only':>14}")
    results = {}
    for model in ("nano", "large") if args.model == "both" else (args.model,):
        with tempfile.TemporaryDirectory() as folder:
            engine, examples = build_engine(model, args.batch_size, Path(folder))
            speeds, num_tokens, num_answers = measure(engine, examples, args.repeats)
        times = speeds["engine"] / speeds["generate"]
        print(
            f"{model:<18}{speeds['generate']:>12.2f}{speeds['engine']:>12.2f}{times:>8.2f}"
            f"{speeds['engine_scores_only']:>14.2f}"
        )
        results[model] = {
            "answers_per_s": {way: round(speed, 3) for way, speed in speeds.items()},
            "times": round(times, 2),
            "num_answers": num_answers,
            "new_tokens_per_answer": num_tokens,
        }
    result = results | {
        "batch_size": args.batch_size,
        "repeats": args.repeats,
        "threads": args.threads,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
