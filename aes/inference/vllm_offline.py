"""Questions to vLLM's offline engine in this process.

It takes many requests in one call and returns when all are done. So questions are gathered while
essays ask them, and put together when no more come. Prompts go as tokens, with the adapter as a
LoRA request: nothing is laid out or cut anew.

Source: vLLM 0.33.0, ``entrypoints/llm.py``, ``sampling_params.py``, ``inputs/llm.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aes.data.processor import Processor
from aes.inference.prompts import Prompt
from aes.inference.vllm_questions import Ask, NoAnswerError, Question, Reply

_QUIET_ROUNDS = 5
"""Rounds of the event loop without a new question after which no more is to come."""


@dataclass(frozen=True, eq=False)
class _Asked:
    question: Question
    prompt: dict[str, Any]
    saw: list[int]
    reply: asyncio.Future[Reply]


class OfflineBackend:
    """vLLM in this process; see ``Backend``.

    Args:
        llm: ``vllm.LLM``.
        adapter: ``vllm.lora.request.LoRARequest`` of what was trained; ``None``: the model itself.
        processor: Tokenizer of the model.
        max_tokens: Longest prompt with its answer.
    """

    is_elsewhere = False

    def __init__(self, llm: Any, adapter: Any, *, processor: Processor, max_tokens: int) -> None:
        self.with_adapter = True
        self._llm = llm
        self._adapter = adapter
        self._processor = processor
        self._max_tokens = max_tokens
        self._asked: list[_Asked] = []
        self._work: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Forget what was asked before."""
        self._asked, self._work = [], None

    async def close(self) -> None:
        """Nothing to let go of: the weights stay for the next essays."""
        if self._work is not None:
            self._work.cancel()

    def require_base(self) -> None:
        """See ``Backend``.

        Raises:
            ValueError: If every weight was trained.
        """
        if self._adapter is None:
            raise ValueError(
                "this model has no adapter that could be switched off, since all of it was "
                "trained; to compare it with its base, evaluate the base checkpoint by itself"
            )

    def asker(self, prompt: Prompt, pages: Sequence[Image.Image]) -> Ask:
        """See ``Backend``."""
        text = self._processor.prompt_text(prompt.example)
        # One placeholder a page, which vLLM fills up to the page's tokens.
        short = self._processor.tokenizer.encode(text, add_special_tokens=False)
        shared: dict[str, Any] = {}
        if pages:
            size = self._processor.image_processor.size
            shared["multi_modal_data"] = {"image": [page.convert("RGB") for page in pages]}
            shared["mm_processor_kwargs"] = {
                "min_pixels": size["shortest_edge"],
                "max_pixels": size["longest_edge"],
            }

        async def ask(question: Question) -> Reply:
            saw = [*prompt.encoded.input_ids, *question.begun.tokens]
            self._require_room(len(saw) + question.max_tokens)
            tokens = [*short, *question.begun.tokens]
            reply = asyncio.get_running_loop().create_future()
            self._asked.append(_Asked(question, {**shared, "prompt_token_ids": tokens}, saw, reply))
            if self._work is None or self._work.done():
                self._work = asyncio.create_task(self._answer_all())
            found: Reply = await reply
            return found

        return ask

    async def stream(
        self, prompt: Prompt, pages: Sequence[Image.Image], question: Question
    ) -> AsyncGenerator[Sequence[int], None]:
        """See ``Backend``; the offline engine gives a reply in one piece."""
        yield (await self.asker(prompt, pages)(question)).tokens

    async def _answer_all(self) -> None:
        num_asked = quiet = 0
        while quiet < _QUIET_ROUNDS:
            quiet = quiet + 1 if len(self._asked) == num_asked else 0
            num_asked = len(self._asked)
            await asyncio.sleep(0)
        asked, self._asked = self._asked, []
        try:
            outputs = self._llm.generate(
                [one.prompt for one in asked],
                [sampling_params(one.question) for one in asked],
                use_tqdm=False,
                lora_request=self._adapter if self.with_adapter else None,
            )
            replies = [_reply(*pair) for pair in zip(asked, outputs, strict=True)]
        except Exception as error:  # whoever waits must hear of it
            for one in asked:
                if not one.reply.done():
                    one.reply.set_exception(error)
            return
        for one, reply in zip(asked, replies, strict=True):
            if not one.reply.done():
                one.reply.set_result(reply)

    def _require_room(self, num_tokens: int) -> None:
        if num_tokens > self._max_tokens:
            raise NoAnswerError(
                f"it takes {num_tokens} tokens with its answer, more than the {self._max_tokens} "
                "that data.max_tokens leaves room for"
            )


def sampling_params(question: Question) -> Any:
    """A question's as ``vllm.SamplingParams``."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    form: dict[str, Any] = {}
    if question.schema is not None:
        form = {"json": dict(question.schema)}
    elif question.pattern is not None:
        form = {"regex": question.pattern}
    return SamplingParams(
        temperature=0.0,
        max_tokens=question.max_tokens,
        stop_token_ids=list(question.stops),
        logprob_token_ids=list(question.looked_at) or None,
        structured_outputs=StructuredOutputsParams(**form) if form else None,
    )


def _reply(asked: _Asked, output: Any) -> Reply:
    if list(output.prompt_token_ids) != asked.saw:
        raise ValueError(
            f"vLLM made {len(output.prompt_token_ids)} tokens of an essay that training makes "
            f"{len(asked.saw)} of, or others; this version of vLLM does not fit, use engine=hf"
        )
    (written,) = output.outputs
    shares: dict[int, float] = {}
    if asked.question.looked_at:
        shares = {token: found.logprob for token, found in written.logprobs[0].items()}
    return Reply(
        tokens=tuple(written.token_ids),
        is_cut=written.finish_reason == "length",
        log_shares=shares,
    )


def require_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        ValueError: If not.
    """
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "engine=vllm without engine.urls needs vLLM in this process, which is not installed: "
            'pip install "aes[vllm]", or name servers with engine.urls=[http://HOST:8000/v1]'
        ) from error


def load_offline(
    folder: Path,
    adapter: Path | None,
    *,
    name: str,
    processor: Processor,
    max_tokens: int,
    precision: str,
    tensor_parallel_size: int | None,
    gpu_memory_utilization: float | None,
) -> OfflineBackend:
    """Load a checkpoint, and what was trained beside it, into vLLM.

    Args:
        folder: The base, or the whole model where every weight was trained.
        adapter: Folder of the adapter.
        name: Of the adapter within vLLM.
        max_tokens: Longest prompt with its answer.
        precision: ``bf16`` or ``fp32``, of the weights.

    Raises:
        ValueError: If vLLM is not installed, or does not take this adapter.
    """
    require_vllm()
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    settings: dict[str, Any] = {
        "model": str(folder),
        "dtype": "bfloat16" if precision == "bf16" else "float32",
        "max_model_len": max_tokens,
        "tensor_parallel_size": tensor_parallel_size or 1,
        "enable_prefix_caching": True,
        # Without it the sampler's defaults are those of generation_config.json.
        "generation_config": "vllm",
    }
    if processor.image_processor is not None:
        settings["limit_mm_per_prompt"] = {"video": 0}
    if gpu_memory_utilization is not None:
        settings["gpu_memory_utilization"] = gpu_memory_utilization
    request = None
    if adapter is not None:
        settings |= {"enable_lora": True, "max_lora_rank": served_rank(adapter)}
        request = LoRARequest(lora_name=name, lora_int_id=1, lora_path=str(adapter))
    return OfflineBackend(LLM(**settings), request, processor=processor, max_tokens=max_tokens)


def served_rank(adapter: Path) -> int:
    """The rank that vLLM must make room for: it knows some sizes alone.

    Raises:
        ValueError: If the adapter holds what vLLM would refuse, or pass over in silence.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    beside = [
        *(config.get("modules_to_save") or ()),
        *(config.get("target_parameters") or ()),
        *(["the vision tower"] if "visual" in str(config.get("target_modules")) else []),
    ]
    if beside:
        raise ValueError(
            f"{adapter} holds weights of {beside[0]}, but vLLM serves LoRA on the language model's "
            "linear layers alone; use engine=hf"
        )
    rank = int(config["r"])
    sizes = [size for size in LORA_RANKS if size >= rank]
    if not sizes:
        raise ValueError(
            f"{adapter} has rank {rank}, but vLLM serves up to {LORA_RANKS[-1]}; use engine=hf"
        )
    return sizes[0]


LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for. Source: vLLM 0.33.0, ``config/lora.py``."""
