"""A vLLM server for tests: real HTTP, a real model, and the faults that one asks for.

It speaks what vLLM 0.33.0 speaks (``entrypoints/openai/chat_completion/protocol.py``), as far as it
is used: fields that vLLM does not know are refused, where vLLM would pass over them. What it makes
of a request it makes by itself: the chat template, the pages, the grammar.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from PIL import Image

from aes.data.processor import Processor
from aes.inference.grammar import grammar_tokenizer

_IN_USE = """
add_generation_prompt continue_final_message frequency_penalty logprob_token_ids logprobs
max_completion_tokens messages min_p mm_processor_kwargs model presence_penalty repetition_penalty
response_format return_token_ids return_tokens_as_token_ids stop_token_ids stream
structured_outputs temperature top_k top_p
"""
FIELDS = frozenset(_IN_USE.split())
"""Of a ChatCompletionRequest, those in use; all are in vLLM 0.33.0."""

Fault = Callable[["_Handler", dict[str, Any]], None]


class Words:
    """What a model would write: a batch of one, without a cache."""

    def __init__(self, model: Any, processor: Processor) -> None:
        self.model, self.processor = model, processor
        self._lock = threading.Lock()
        self._known: dict[Any, torch.Tensor] = {}
        self.grammar_words = grammar_tokenizer(processor)

    def logits(self, ids: Sequence[int], pages: Sequence[Image.Image]) -> torch.Tensor:
        """Behind the last token, ``[vocabulary]``."""
        key = (tuple(ids), tuple(hash(page.tobytes()) for page in pages))
        with self._lock:
            if key not in self._known:
                self._known[key] = self._forward(ids, pages)
            return self._known[key]

    def _forward(self, ids: Sequence[int], pages: Sequence[Image.Image]) -> torch.Tensor:
        batch: dict[str, Any] = {"input_ids": torch.tensor([list(ids)])}
        if pages:
            drawn = self.processor.image_processor(images=list(pages), return_tensors="pt")
            is_page = batch["input_ids"] == self.processor.image_token
            batch |= {**drawn, "mm_token_type_ids": is_page.int()}
        with torch.no_grad():
            out = self.model.eval()(**batch, logits_to_keep=1, use_cache=False)
        return out.logits[0, -1].float()


class Contrary(Words):
    """Wants whatever the others want least."""

    def _forward(self, ids: Sequence[int], pages: Sequence[Image.Image]) -> torch.Tensor:
        return -super()._forward(ids, pages)


class FakeVllm:
    """A server at ``url`` until ``close``.

    Args:
        models: By the name under which they are served; the first one is the base, and the
            others are adapters of it.
        max_model_len: Longest prompt with its answer.
        key: Wanted of every request; ``None``: none.

    Attributes:
        bodies: Requests for answers, as they came.
        faults: What happens instead of an answer, to one request each, in this order.
        most_under_way: Requests that were under way at once.
    """

    def __init__(
        self,
        models: dict[str, Words],
        *,
        max_model_len: int | None = 8192,
        key: str | None = None,
        delay_s: Callable[[int], float] = lambda number: 0.0,
    ) -> None:
        self.models, self.max_model_len, self.key, self.delay_s = (
            models,
            max_model_len,
            key,
            delay_s,
        )
        self.bodies: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.fake = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> FakeVllm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cards(self) -> list[dict[str, Any]]:
        base, *adapters = self.models
        found: list[dict[str, Any]] = [
            {"id": base, "object": "model", "root": "/base", "max_model_len": self.max_model_len}
        ]
        return found + [
            {"id": name, "object": "model", "root": "/adapter", "parent": base} for name in adapters
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def fake(self) -> FakeVllm:
        return self.server.fake  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self._is_known():
            self.send({"object": "list", "data": self.fake.cards()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_known():
            return
        with self.fake.lock:
            number = len(self.fake.bodies)
            self.fake.bodies.append(body)
            self.fake.under_way += 1
            self.fake.most_under_way = max(self.fake.most_under_way, self.fake.under_way)
            fault = self.fake.faults.pop(0) if self.fake.faults else None
        try:
            time.sleep(self.fake.delay_s(number))
            with suppress(ConnectionError):
                (fault or _Handler.answer)(self, body)
        finally:
            with self.fake.lock:
                self.fake.under_way -= 1

    def _is_known(self) -> bool:
        given = self.headers.get("Authorization")
        self.fake.keys.append(given)
        if self.fake.key is not None and given != f"Bearer {self.fake.key}":
            self.send({"error": {"message": "Unauthorized"}}, status=401)
            return False
        return True

    def answer(self, body: dict[str, Any]) -> None:
        if unknown := body.keys() - FIELDS:
            self.send({"error": {"message": f"unknown {unknown}"}}, status=400)
        elif body["model"] not in self.fake.models:
            self.send({"error": {"message": "no such model"}}, status=404)
        elif body.get("stream"):
            self.start_events()
            for event in _events(self.fake.models[body["model"]], body):
                self.send_event(json.dumps(event))
            self.send_event("[DONE]")
            self.send_chunk(b"")
        else:
            self.send(reply(self.fake.models[body["model"]], body))

    def send(
        self, content: Any, *, status: int = 200, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(data)

    def start_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_event(self, data: str) -> None:
        self.send_chunk(f"data: {data}\n\n".encode())

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def cut(self) -> None:
        """The connection is gone."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def status(code: int, *headers: tuple[str, str]) -> Fault:
    """A server that says what is wrong with it."""
    return lambda handler, _: handler.send(
        {"error": {"message": "essay text"}}, status=code, headers=headers
    )


def cut_in_body(handler: _Handler, body: dict[str, Any]) -> None:
    """A reply that ends in the middle."""
    handler.send_response(200)
    handler.send_header("Content-Length", "10000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.cut()


def cut_in_stream(num_events: int) -> Fault:
    """Events that end in the middle."""

    def fault(handler: _Handler, body: dict[str, Any]) -> None:
        handler.start_events()
        events = _events(handler.fake.models[body["model"]], body)
        for _, event in zip(range(num_events), events, strict=False):
            handler.send_event(json.dumps(event))
        handler.cut()

    return fault


def no_json(handler: _Handler, body: dict[str, Any]) -> None:
    """A proxy's page, say."""
    handler.send(b"<html>")


def no_reply(handler: _Handler, body: dict[str, Any]) -> None:
    """JSON, but of something else."""
    handler.send({"choices": []})


def silence(seconds: float) -> Fault:
    """Nothing, for a while."""

    def fault(handler: _Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        handler.answer(body)

    return fault


def changed(change: Callable[[dict[str, Any]], None]) -> Fault:
    """A reply that is not what it should be."""

    def fault(handler: _Handler, body: dict[str, Any]) -> None:
        found = reply(handler.fake.models[body["model"]], body)
        change(found)
        handler.send(found)

    return fault


def _read(words: Words, body: dict[str, Any]) -> tuple[list[int], list[Image.Image]]:
    """The prompt as tokens, and its pages."""
    pages: list[Image.Image] = []
    turns = []
    for message in body["messages"]:
        parts = message["content"]
        for part in parts if isinstance(parts, list) else ():
            if part["type"] == "image_url":
                kind, _, content = part["image_url"]["url"].partition(",")
                assert kind == "data:image/png;base64"
                pages.append(Image.open(io.BytesIO(base64.b64decode(content))))
        if isinstance(parts, list):
            parts = [{"type": "image"} if p["type"] == "image_url" else p for p in parts]
        turns.append({"role": message["role"], "content": parts})
    tokenizer = words.processor.tokenizer
    text = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=body["add_generation_prompt"],
        continue_final_message=body["continue_final_message"],
    )
    counts = iter(page.width * page.height // 1024 for page in pages)
    ids: list[int] = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        ids += [token] * (next(counts) if token == words.processor.image_token else 1)
    return ids, pages


def guided_by(words: Words, *, schema: Any = None, regex: str | None = None) -> Any:
    """What holds an answer to its form; ``None`` without one."""
    if schema is not None:
        # As vLLM's guidance backend has it unless it is started otherwise.
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(schema), defaults={"whitespace_flexible": True}
        )
    elif regex is not None:
        grammar = LLMatcher.grammar_from_regex(regex)
    else:
        return None
    return LLMatcher(words.grammar_words, grammar)


def write_tokens(
    words: Words,
    ids: list[int],
    pages: Sequence[Image.Image],
    matcher: Any,
    *,
    max_tokens: int,
    stops: Sequence[int],
) -> Iterator[tuple[int, torch.Tensor, bool]]:
    """Tokens, the logits that they were chosen from, and whether each ends the answer."""
    ends = {words.processor.end_token, *stops}
    for _ in range(max_tokens):
        found = words.logits(ids, pages)
        if matcher is None:
            token = int(found[: len(words.processor.tokenizer)].argmax())
        elif matcher.is_stopped():
            token = words.processor.end_token
        else:
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            bits = torch.from_numpy(np.unpackbits(mask, bitorder="little").astype(bool))
            bits = bits[: len(found)]
            token = int(found[: len(bits)].masked_fill(~bits, -torch.inf).argmax())
            matcher.consume_token(token)
        ids.append(token)
        yield token, found, token in ends
        if token in ends:
            return


def _write(words: Words, body: dict[str, Any]) -> Iterator[tuple[int, torch.Tensor, bool]]:
    ids, pages = _read(words, body)
    form = body.get("response_format", {"type": "json_schema", "json_schema": {"schema": None}})
    assert form["type"] == "json_schema"
    matcher = guided_by(
        words,
        schema=form["json_schema"]["schema"],
        regex=body.get("structured_outputs", {}).get("regex"),
    )
    yield from write_tokens(
        words,
        ids,
        pages,
        matcher,
        max_tokens=body["max_completion_tokens"],
        stops=body.get("stop_token_ids", ()),
    )


def reply(words: Words, body: dict[str, Any]) -> dict[str, Any]:
    """A ChatCompletionResponse."""
    assert body["temperature"] == 0 and body["return_token_ids"]
    written = list(_write(words, body))
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": "..."},
        "finish_reason": "stop" if written[-1][2] else "length",
        "token_ids": [token for token, _, _ in written],
    }
    if body.get("logprobs"):
        assert body["return_tokens_as_token_ids"]
        content = []
        for token, found, _ in written:
            shares = found.log_softmax(0)
            top = [
                {"token": f"token_id:{t}", "logprob": max(float(shares[t]), -9999.0)}
                for t in dict.fromkeys((token, *body["logprob_token_ids"]))
            ]
            content.append({**top[0], "top_logprobs": top})
        choice["logprobs"] = {"content": content}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [choice],
        "prompt_token_ids": _read(words, body)[0],
    }


def _events(words: Words, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """ChatCompletionStreamResponses."""
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    yield {"choices": [role], "prompt_token_ids": _read(words, body)[0]}
    for token, _, is_last in _write(words, body):
        choice = {"index": 0, "delta": {"content": "."}, "token_ids": [token]}
        yield {"choices": [{**choice, "finish_reason": "stop" if is_last else None}]}
    if not is_last:
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
