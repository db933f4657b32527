"""Questions <-> the chat API of vLLM servers.

The chat API is the one that takes pages. The server lays the turns out by its own chat template, so
it is made to tell which tokens the model saw, and each reply is compared with what training would
have made of the essay, image tokens included: a page that was resized or another template is found
out. Pages go as PNG, which loses nothing. Beginnings of answers stand in a last turn that is to be
continued. Knows no connections.

Source: vLLM 0.33.0, ``entrypoints/openai/chat_completion/protocol.py``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from aes.data.processor import Processor
from aes.inference.prompts import Prompt
from aes.inference.vllm_http import Json, TryAgainError
from aes.inference.vllm_questions import Question, Reply

_TOKEN = "token_id:"

# Without them the server takes those of the checkpoint's generation_config.json.
_LIKELIEST = {
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}


@dataclass(frozen=True, eq=False)
class Chat:
    """What all requests about one essay share.

    Attributes:
        prompt: What training would have made of it.
        turns: Messages, pages included.
        pixels: Least and greatest area of a page that stays as it is; empty where the model reads
            text alone.
    """

    prompt: Prompt
    turns: list[Json]
    pixels: Mapping[str, int]

    def body(self, question: Question, *, model: str) -> Json:
        """The request."""
        begun = question.begun.text
        turns = [*self.turns, *([{"role": "assistant", "content": begun}] if begun else [])]
        body: Json = {
            **_LIKELIEST,
            "model": model,
            "messages": turns,
            "add_generation_prompt": not begun,
            "continue_final_message": bool(begun),
            "max_completion_tokens": question.max_tokens,
            "return_token_ids": True,
        }
        if not self.pixels:
            body["chat_template_kwargs"] = {"enable_thinking": False}  # as in training
        if self.prompt.pages:
            body["mm_processor_kwargs"] = dict(self.pixels)
        if question.stops:
            body["stop_token_ids"] = list(question.stops)
        if question.looked_at:
            body["logprobs"] = True
            body["logprob_token_ids"] = list(question.looked_at)
            body["return_tokens_as_token_ids"] = True
        if question.schema is not None:
            schema = {"name": "answer", "schema": question.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if question.pattern is not None:
            body["structured_outputs"] = {"regex": question.pattern}
        return body

    def reply(self, question: Question, found: Json, *, url: str) -> Reply:
        """What a server said.

        Raises:
            ValueError: If it saw another prompt, or is no vLLM that can say what it saw.
            TryAgainError: If it is no reply at all.
        """
        try:
            choice = found["choices"][0]
            is_cut = choice["finish_reason"] == "length"
            tokens = choice.get("token_ids")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise TryAgainError("sent what is no reply") from None
        if tokens is None:
            raise too_old(url)
        self.require_same_prompt(question, found.get("prompt_token_ids"), url=url)
        shares = _log_shares(choice) if question.looked_at else {}
        if not shares.keys() >= set(question.looked_at):
            raise too_old(url)
        return Reply(tokens=tuple(tokens), is_cut=is_cut, log_shares=shares)

    def require_same_prompt(
        self, question: Question, saw: Sequence[int] | None, *, url: str
    ) -> None:
        """Check that the model saw what it would see in training.

        Raises:
            ValueError: If it did not, or the server does not tell.
        """
        if saw is None:
            raise too_old(url)
        expected = [*self.prompt.encoded.input_ids, *question.begun.tokens]
        if list(saw) != expected:
            unlike = f"{len(saw)} tokens" if len(saw) != len(expected) else "other tokens"
            raise ValueError(
                f"{url} made {unlike} of {self.prompt.example.id} than the {len(expected)} that "
                "training makes; start it with the checkpoint that trained, and without "
                "--chat-template"
            )


def open_chat(prompt: Prompt, pages: Sequence[Image.Image], processor: Processor) -> Chat:
    """A prompt and its drawn pages as messages."""
    turns, images = processor.turns(prompt.example), iter(pages)
    if processor.image_processor is None:
        return Chat(prompt, turns, {})
    for turn in turns:
        turn["content"] = [
            part if part["type"] == "text" else _image_part(next(images))
            for part in turn["content"]
        ]
    size = processor.image_processor.size
    pixels = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    return Chat(prompt, turns, pixels)


def too_old(url: str) -> ValueError:
    """The sentence about a server that does not tell enough."""
    return ValueError(
        f"engine.urls: {url} does not tell which tokens it saw or how likely others were; serve "
        "with vLLM 0.28 or newer"
    )


def _image_part(page: Image.Image) -> Json:
    stream = io.BytesIO()
    page.convert("RGB").save(stream, format="PNG", compress_level=1)
    content = base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}


def _log_shares(choice: Mapping[str, Any]) -> dict[int, float]:
    """Log-probabilities at the first place by token; none where there are none to be read."""
    try:
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        return {int(one["token"].removeprefix(_TOKEN)): float(one["logprob"]) for one in first}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return {}
