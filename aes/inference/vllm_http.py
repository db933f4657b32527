"""One HTTP request to one server: its JSON, or its events as they come.

Of a failure only its kind is ever told, since bodies hold what pupils wrote. Knows nothing of what
is asked, and tries nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from aes.inference.vllm_questions import NoAnswerError

if TYPE_CHECKING:
    import httpx

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may mend."""

Json = dict[str, Any]


class TryAgainError(Exception):
    """A request failed in a way that another try may mend.

    Args:
        reason: One clause, to follow a server's address.
        wait_s: How long the server asks to be left alone; ``None``: it does not say.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class HttpClient:
    """Sends requests; to be used within one event loop, from open to close.

    Args:
        key: Sent as bearer token; ``None``: none.
        timeout_s: Longest wait for a connection, and for any part of a reply.
        trust_environment: Whether proxies of the environment may be used.
    """

    def __init__(self, *, key: str | None, timeout_s: float, trust_environment: bool) -> None:
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s = timeout_s
        self._trust_environment = trust_environment
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Get ready; connections are made when they are needed."""
        import httpx

        self._client = httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(self._timeout_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=self._trust_environment,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def read(self, method: str, url: str, content: bytes | None = None) -> Json:
        """A JSON object.

        Raises:
            TryAgainError: If there is none, but may be at another time.
            NoAnswerError: If the server refuses for good.
        """
        async with self._request(method, url, content) as response:
            body = await response.aread()
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TryAgainError("sent what is not JSON")
        return found

    async def events(self, url: str, content: bytes) -> AsyncGenerator[Json, None]:
        """JSON objects of server-sent events.

        Raises:
            TryAgainError: If there are none, or they break off.
            NoAnswerError: If the server refuses for good.
        """
        async with self._request("POST", url, content) as response:
            async for line in response.aiter_lines():
                name, _, data = line.partition(":")
                if name != "data":
                    continue
                if data.strip() == "[DONE]":
                    return
                try:
                    event = json.loads(data)
                except ValueError:
                    event = None
                if not isinstance(event, dict) or "error" in event:
                    raise TryAgainError("sent an error instead of an event")
                yield event
        raise TryAgainError("ended its reply too early")

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, content: bytes | None
    ) -> AsyncIterator[httpx.Response]:
        """A reply that says OK."""
        import httpx

        assert self._client is not None, "a client is used between open and close"
        try:
            async with self._client.stream(method, url, content=content) as response:
                status = response.status_code
                if status in _AGAIN:
                    raise TryAgainError(
                        f"answered {status}", _seconds(response.headers.get("Retry-After"))
                    )
                if status != httpx.codes.OK:
                    raise NoAnswerError(f"{url} answered {status}{_hint(status)}")
                yield response
        except httpx.TimeoutException:
            raise TryAgainError(f"was silent for {self._timeout_s:g} s") from None
        except httpx.ConnectError:
            raise TryAgainError("refuses connections") from None
        except httpx.TransportError:
            raise TryAgainError("cut the connection") from None
        except httpx.DecodingError:
            raise TryAgainError("sent what cannot be decoded") from None


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _hint(status: int) -> str:
    return {
        400: ": it does not take this request",
        401: ": it wants a key; name the variable that holds it with engine.api_key_env",
        403: ": the key is not enough",
        404: ": it has no such path or model",
        413: ": the pages are too large for it",
    }.get(status, "")
