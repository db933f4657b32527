"""Questions to vLLM servers, spread over all that are named.

All requests about one essay go to one server, whose prefix cache knows it, unless that one fails.

Source: vLLM 0.33.0, ``entrypoints/openai/models``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from PIL import Image

from aes.data.processor import Processor
from aes.inference.prompts import Prompt
from aes.inference.vllm_chat import Chat, open_chat, too_old
from aes.inference.vllm_hosts import Host, Hosts
from aes.inference.vllm_http import Json
from aes.inference.vllm_questions import Ask, NoAnswerError, Question, Reply

_CHAT = "/chat/completions"


class ServerBackend:
    """vLLM behind HTTP; see ``Backend``.

    Args:
        hosts: The servers.
        processor: Gives turns and limits of pages.
        adapter: Name under which they offer what was trained.
        base_model: Name of the base; ``None``: what they call the adapter's parent.
    """

    is_elsewhere = True

    def __init__(
        self, hosts: Hosts, *, processor: Processor, adapter: str, base_model: str | None
    ) -> None:
        self.hosts = hosts
        self.with_adapter = True
        self._processor = processor
        self._adapter = adapter
        self._base_model = base_model
        self._max_tokens: int | None = None
        self._is_known = False

    async def open(self) -> None:
        """Connect; the first time, see what the servers offer.

        Raises:
            ValueError: If none of them can be reached, or one lacks what was trained.
        """
        await self.hosts.open()
        if not self._is_known:
            await self._look_around()
            self._is_known = True

    async def close(self) -> None:
        """Disconnect."""
        await self.hosts.close()

    def require_base(self) -> None:
        """See ``Backend``.

        Raises:
            ValueError: If the servers name no base.
        """
        if self._base_model is None:
            raise ValueError(
                f"the servers offer {self._adapter} as a model of its own, so there is no base to "
                "compare it with; name it with engine.base_model, or leave this out"
            )

    def asker(self, prompt: Prompt, pages: Sequence[Image.Image]) -> Ask:
        """See ``Backend``."""
        chat, preferred = open_chat(prompt, pages, self._processor), self.hosts.least_busy()

        async def ask(question: Question) -> Reply:
            self._require_room(chat, question)
            return await self.hosts.post(
                _CHAT,
                chat.body(question, model=self._model),
                preferred=preferred,
                read=lambda host, found: chat.reply(question, found, url=host.url),
            )

        return ask

    async def stream(
        self, prompt: Prompt, pages: Sequence[Image.Image], question: Question
    ) -> AsyncGenerator[Sequence[int], None]:
        """See ``Backend``."""
        chat, is_checked = open_chat(prompt, pages, self._processor), False
        self._require_room(chat, question)
        body = chat.body(question, model=self._model) | {"stream": True}
        preferred = self.hosts.least_busy()
        async for host, event in self.hosts.stream(_CHAT, body, preferred=preferred):
            if event.get("prompt_token_ids") is not None:
                chat.require_same_prompt(question, event["prompt_token_ids"], url=host.url)
                is_checked = True
            for choice in event.get("choices") or ():
                tokens = choice.get("token_ids") or ()
                if not is_checked and (tokens or choice.get("finish_reason")):
                    raise too_old(host.url)
                yield tokens

    @property
    def _model(self) -> str:
        name = self._adapter if self.with_adapter else self._base_model
        assert name is not None, "require_base comes before"
        return name

    async def _look_around(self) -> None:
        """Keep the servers that answer; learn the base's name and the longest prompt."""
        reached, reasons = [], []
        for host in self.hosts.hosts:
            try:
                cards = _cards(await self.hosts.get(host, "/models"), host)
            except NoAnswerError as reason:
                reasons.append(str(reason))
                continue
            self._learn(host, cards)
            reached.append(host)
        if not reached:
            raise ValueError(
                f"engine.urls: no server answers ({'; '.join(reasons)}); start it, or correct "
                "engine.urls"
            )
        self.hosts.hosts = reached

    def _learn(self, host: Host, cards: Mapping[str, Json]) -> None:
        for key, name in (("adapter", self._adapter), ("base_model", self._base_model)):
            if name is not None and name not in cards:
                raise ValueError(
                    f"{host.url} offers {', '.join(cards) or 'nothing'}, but no {name}; start it "
                    f"with --enable-lora --lora-modules {self._adapter}=RUN_DIR/adapter, or set "
                    f"engine.{key} to the name that it uses"
                )
        card = cards[self._adapter]
        parent = cards.get(str(card.get("parent")))
        if self._base_model is None and parent is not None:
            self._base_model = str(parent["id"])
        # An adapter's card has no length of its own.
        length = card.get("max_model_len") or (parent or {}).get("max_model_len")
        if isinstance(length, int):
            self._max_tokens = min(length, self._max_tokens or length)

    def _require_room(self, chat: Chat, question: Question) -> None:
        needed = chat.prompt.num_tokens + len(question.begun.tokens) + question.max_tokens
        if self._max_tokens is not None and needed > self._max_tokens:
            raise NoAnswerError(
                f"it takes {needed} tokens with its answer, but the server {self._max_tokens}: "
                "start that with a greater --max-model-len"
            )


def _cards(found: Json, host: Host) -> dict[str, Json]:
    """What a server offers, by name."""
    try:
        return {str(card["id"]): dict(card) for card in found["data"]}
    except (KeyError, TypeError, ValueError) as error:
        raise NoAnswerError(f"{host.url}/models is no list of models") from error
