"""Decoding with random weights on any device: torch, transformers, peft and ``aes.kernels`` alone.

Prompts are random ids without pages; rows write the likeliest word, whatever it is. Ways that are
ours differ in where keys and values are kept and in whether a step is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from training.geometry import Geometry
from training.random_model import build_model, draw_weights

from aes.kernels.cache import RowCache
from aes.kernels.cached import cached_states
from aes.kernels.experts import use_experts
from aes.kernels.forward import autocast, hidden_states
from aes.kernels.fused import fuse_ops
from aes.kernels.graphs import GraphRecorder
from aes.kernels.parts import unwrap
from aes.kernels.prefill import last_tokens_only
from aes.kernels.steps import RecordedSteps, Run
from aes.kernels.words import WordSearch
from grading.floor import bandwidth, bytes_of_step, wait

WAYS = ("dynamic", "static", "recorded", "generate")
"""``generate`` is transformers' own; it comes last, since on a card it copies experts."""

REFERENCE = (300, 500)
"""Answers, and tokens of each, of which facts about cards are known."""


class Decoding:
    """A random model and prompts for it.

    Args:
        geometry: Sizes.
        device: Where the weights are drawn.
        dtype: Of the base; the adapter is float32.
        num_prompt: Tokens of a prompt.
        num_new: Tokens that each row writes.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        device: torch.device,
        dtype: torch.dtype,
        num_prompt: int,
        num_new: int,
    ) -> None:
        self.geometry, self.device, self.dtype = geometry, device, dtype
        self.num_prompt, self.num_new = num_prompt, num_new
        self.weights = draw_weights(geometry, dtype=dtype, device=device)
        self.rate = bandwidth(device)
        self.plain = build_model(geometry, self.weights).eval()
        self.ours = build_model(geometry, self.weights).eval()
        use_experts(self.ours, "frozen")
        fuse_ops(self.ours)

    def measure(self, way: str, num_rows: int) -> dict[str, Any]:
        """Seconds of the prompts and of a step, against the floor, and the words written."""
        run = self._generate if way == "generate" else self._decode
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 1000, (num_rows, self.num_prompt), generator=generator)
        with torch.no_grad(), self._precision():
            run(way, ids.to(self.device), 2)  # warms up
            prefill_s, decode_s, words = run(way, ids.to(self.device), self.num_new)
        step_s = decode_s / (self.num_new - 1)
        needed = bytes_of_step(
            self.ours, num_rows=num_rows, num_columns=self.num_prompt + self.num_new // 2
        )
        floor_s = sum(needed.values()) / self.rate
        answers, tokens = REFERENCE
        return {
            "way": way,
            "rows": num_rows,
            "prefill_s": prefill_s,
            "prefill_tokens_per_s": num_rows * self.num_prompt / prefill_s,
            "s_per_step": step_s,
            "tokens_per_s": num_rows / step_s,
            "essays_per_s": num_rows / (prefill_s + self.num_new * step_s),
            "floor_s_per_step": floor_s,
            "of_floor": floor_s / step_s,
            "reference_decode_s": answers * tokens / num_rows * step_s,
            "reference_floor_s": answers * tokens / num_rows * floor_s,
            "bytes_of_a_step": needed,
            "words": words,
        }

    def _precision(self) -> AbstractContextManager[Any]:
        return autocast("bf16" if self.dtype == torch.bfloat16 else "fp32", self.device)

    def _decode(self, way: str, ids: Tensor, num_new: int) -> tuple[float, float, Tensor]:
        """Ours. The recording itself is not in the time: it serves all batches of a call."""
        from transformers import DynamicCache

        num_rows, length = ids.shape
        cache: Any = DynamicCache()
        if way != "dynamic":
            cache = RowCache()
            cache.restart(num_rows, length + self.num_new)
        last = torch.full((num_rows,), length - 1, device=self.device)
        positions = torch.arange(length, device=self.device).expand(3, num_rows, -1)
        batch = {"input_ids": ids, "position_ids": positions, "attention_mask": None}
        start = self._now()
        with last_tokens_only(self.ours, last) as is_shortened:
            states = hidden_states(self.ours, batch, cache=cache)
        search = WordSearch(self.ours, "auto")
        found: Any = search(states[:, 0] if is_shortened else states[:, -1])
        words = [found.words]
        prefill_s = self._now() - start
        mask = torch.ones(num_rows, length, dtype=torch.bool, device=self.device)
        if way == "recorded":
            steps = RecordedSteps(self.ours, _recorder(self.device))
            if not steps.begin(cache, mask, last + 1, max(num_new, 8)):
                raise RuntimeError("a step cannot be recorded here")
            advance: Callable[[list[int]], Any] = steps.advance
        else:
            advance = _Stepper(self.ours, search, cache, mask, last + 1)
        start = self._now()
        while len(words) < num_new:
            words.append(advance(words[-1]).words)
        return prefill_s, self._now() - start, torch.tensor(words).T

    def _generate(self, _: str, ids: Tensor, num_new: int) -> tuple[float, float, Tensor]:
        seconds = []
        for count in (1, num_new):
            start = self._now()
            out = unwrap(self.plain).generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=count,
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
            seconds.append(self._now() - start)
        return seconds[0], seconds[1] - seconds[0], out[:, ids.shape[1] :].cpu()

    def _now(self) -> float:
        wait(self.device)
        return time.perf_counter()


class _Stepper:
    """One token a row as it comes, as the Engine does where nothing is recorded."""

    def __init__(
        self, model: Any, search: WordSearch, cache: Any, mask: Tensor, position: Tensor
    ) -> None:
        self.model, self.search, self.cache = model, search, cache
        self.mask, self.position = mask, position

    def __call__(self, words: list[int]) -> Any:
        """Append a word to each row; the words that may follow."""
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=True)
        batch = {
            "input_ids": torch.tensor(words, device=self.mask.device)[:, None],
            "attention_mask": self.mask[:, None, None],
            "position_ids": self.position[:, None].expand(3, -1, -1),
        }
        self.position = self.position + 1
        return self.search(cached_states(self.model, batch, self.cache)[:, 0])


def _recorder(device: torch.device) -> Callable[[Run], Run]:
    """Without a card nothing is recorded, but memory stays where it is all the same."""
    return GraphRecorder() if device.type == "cuda" else lambda run: run
