"""Essays answered by the Engine and by ``generate``: seconds of the parts, and equal answers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

import aes
from aes.data.processor import Processor
from aes.inference import DecodingSpec, HfEngineSpec
from aes.inference.engine import Engine
from aes.model import KernelSpec, ModelSpec
from aes.model.kernels import apply_kernels, resolve_kernels
from aes.model.loading import load_base, model_folder
from aes.page import PageSpec
from aes.prompt import PromptSpec
from aes.prompt.build import ExampleBuilder
from aes.records import Essay, Example
from aes.rubric import Rubric
from grading.floor import bandwidth, bytes_of_step, wait
from grading.plain import GenerateLoop

CONF = Path(__file__).parents[2] / "conf"
NUM_NEW_TOKENS = 64
"""Longest answer: fixed text, scores and comment."""
NUM_CHARS = 700


def read_conf(name: str, **changes: Any) -> dict[str, Any]:
    """Plain values of one option, with changes."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("_target_", "defaults")} | changes


@dataclass
class Contest:
    """Both ways over one batch after the other, on one device.

    Attributes:
        engine: Over a model as ``kernels=fast`` has it.
        loop: Over the same weights as transformers loads them.
    """

    engine: Engine
    loop: GenerateLoop
    examples: list[Example]
    device: torch.device
    clock: Callable[[], float]

    def measure(self, repeats: int) -> dict[str, Any]:
        """Seconds a batch of each way, the median over repeats that take turns."""
        ways: dict[str, Callable[[], list[str]]] = {
            "generate": self._generate,
            "engine": lambda: [a.text for a in self.engine.answer(self.examples)],
            "scores_only": lambda: [
                a.text for a in self.engine.answer(self.examples, scores_only=True)
            ],
            "prefill": self._prefill,
        }
        answers = {way: run() for way, run in ways.items()}  # the first round warms up
        assert answers["generate"] == answers["engine"], "both must give the same answers"
        num_batches = len(self._batches())
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        prefills: list[float] = []
        for _ in range(repeats):
            for way, run in ways.items():
                self.loop.prefill_s = 0.0
                wait(self.device)
                start = self.clock()
                run()
                wait(self.device)
                seconds[way].append((self.clock() - start) / num_batches)
                if way == "generate":
                    prefills.append(self.loop.prefill_s / num_batches)
        found = {way: statistics.median(times) for way, times in seconds.items()}
        ratios = [g / e for g, e in zip(seconds["generate"], seconds["engine"], strict=True)]
        return self._figures(found, statistics.median(prefills), answers["engine"]) | {
            "times_generate": statistics.median(ratios),
            "times_generate_least": min(ratios),
            "times_generate_most": max(ratios),
        }

    def _figures(
        self, found: dict[str, float], generate_prefill_s: float, answers: Sequence[str]
    ) -> dict[str, Any]:
        encode = self.engine.processor.tokenizer.encode
        size = self.engine.decoding.batch_size
        tokens = statistics.mean(len(encode(a, add_special_tokens=False)) for a in answers)
        prompt = self.engine._read(self.examples[0]).num_tokens
        parts = {
            "generate": (found["generate"], generate_prefill_s),
            "engine": (found["engine"], found["prefill"]),
            "scores_only": (found["scores_only"], found["prefill"]),
        }
        needed = bytes_of_step(
            self.engine.model, num_rows=size, num_columns=int(prompt + tokens / 2)
        )
        rate = bandwidth(self.device)
        floor_s = self._num_passes() * sum(needed.values()) / rate
        decode = {way: total - prefill for way, (total, prefill) in parts.items()}
        return {
            "batch_size": size,
            "tokens_of_a_prompt": prompt,
            "new_tokens_of_an_answer": round(tokens),
            "s_per_batch": found | {"generate_prefill": generate_prefill_s},
            "answers_per_s": {way: size / total for way, (total, _) in parts.items()},
            "decode_s": decode,
            "prefill_tokens_per_s": {way: size * prompt / p for way, (_, p) in parts.items()},
            "new_tokens_per_s_of_decoding": {
                way: size * tokens / decode[way] for way in ("generate", "engine")
            },
            "times_generate_decoding": decode["generate"] / decode["engine"],
            "scores_only_of_prefill_speed": found["prefill"] / found["scores_only"],
            "bytes_of_a_step": needed,
            "bandwidth_gb_per_s": rate / 1e9,
            "decode_floor_s": floor_s,
            "engine_of_decode_floor": floor_s / decode["engine"],
        }

    def _num_passes(self) -> int:
        """Forward passes of the Engine behind the prompts of one batch."""
        passes: list[int] = []
        text = self.engine.model.model.language_model
        hook = text.register_forward_hook(lambda *_: passes.append(1))
        list(self.engine.answer(self._batches()[0]))
        hook.remove()
        return len(passes) - 1

    def _batches(self) -> list[list[Example]]:
        size = self.engine.decoding.batch_size
        return [self.examples[i : i + size] for i in range(0, len(self.examples), size)]

    def _generate(self) -> list[str]:
        return [text for batch in self._batches() for text in self.loop.answer(batch)]

    def _prefill(self) -> list[str]:
        """Pages drawn and prompts read, nothing else."""
        engine, memory = self.engine, self.engine._take_memory()
        for batch in self._batches():
            prompts = [engine._read(example) for example in batch]
            with engine._evaluating(), engine._deciding():
                engine._prefill(prompts, engine._draw(prompts), memory, NUM_NEW_TOKENS)
        return []


def build_contest(
    name: str, *, batch_size: int, device: torch.device, clock: Callable[[], float], cache: Path
) -> Contest:
    """A random model of ``conf/model`` and the sample's essays, comments included, two batches."""
    spec = ModelSpec(**read_conf(f"model/{name}"))
    rubric = Rubric(**read_conf("rubric/five_by_twenty"))
    folder = model_folder(spec, cache)
    processor = Processor(
        folder, ranges=rubric.ranges, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels
    )
    sizes = {
        "glyph_px": spec.glyph_px,
        "width_px": spec.page_width_px,
        "max_height_px": spec.page_max_height_px,
        "min_pixels": spec.min_pixels,
    }
    page = PageSpec(**read_conf("page/plain", **sizes))
    prompt = PromptSpec(**read_conf("prompt/zh"))
    builder = ExampleBuilder(rubric=rubric, prompt=prompt, page=page, seed=1)
    decoding = read_conf("decoding/expected", score="greedy", batch_size=batch_size)
    model, plain = (
        load_base(folder, dtype=torch.float32, device=device.type).eval() for _ in range(2)
    )
    for parameter in model.parameters():
        parameter.requires_grad = False
    kernels = KernelSpec(**read_conf("kernels/fast"))
    apply_kernels(model, resolve_kernels(kernels, spec, None))
    engine = Engine(
        model=model,
        processor=processor,
        renderer=builder.renderer,
        decoding=DecodingSpec(**decoding),
        precision="fp32",
        spec=HfEngineSpec(**read_conf("engine/hf")),
    )
    examples = [builder.build(essay) for essay in read_essays(2 * batch_size)]
    num_form = _num_form_tokens(engine, examples[:batch_size])
    engine.decoding = replace(engine.decoding, max_feedback_tokens=NUM_NEW_TOKENS - num_form)
    loop = GenerateLoop(plain, engine, NUM_NEW_TOKENS, clock)
    return Contest(engine, loop, examples, device, clock)


def _num_form_tokens(engine: Engine, examples: Sequence[Example]) -> int:
    """Most tokens of an answer beside its comment."""
    encode = engine.processor.tokenizer.encode
    answers = engine.answer(examples, scores_only=True)
    return max(len(encode(answer.text, add_special_tokens=False)) for answer in answers)


def read_essays(count: int) -> list[Essay]:
    """Essays of one length from the sample's texts, so that both ways make the same batches."""
    found = []
    paths = sorted(Path(aes.__file__).parent.glob("corpus/sample/s*.yaml"))
    for number in range(count):
        essay = yaml.safe_load(paths[number % len(paths)].read_text(encoding="utf-8"))
        text = essay["text"].replace("\n", "")
        begin = number // len(paths)  # of a text that is used again, another beginning
        while len(text) < begin + NUM_CHARS:
            text += text
        text = text[begin : begin + NUM_CHARS]
        found.append(Essay(id=f"e{number}", title="", text=text, comment="好"))
    return found


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
