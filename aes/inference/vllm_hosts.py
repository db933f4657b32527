"""Requests to several servers that are alike: retries, waits, and work that moves on to another.

Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from aes.inference.vllm_http import HttpClient, Json, TryAgainError
from aes.inference.vllm_questions import NoAnswerError

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""Between tries of a request: doubled each time, and no longer than this whoever asks for it."""

T = TypeVar("T")


@dataclass(eq=False)
class Host:
    """One server.

    Attributes:
        url: Up to and with ``/v1``.
        num_under_way: Requests that it is working on.
        rests_until: Nothing is sent before that, on the clock of ``time.monotonic``.
    """

    url: str
    num_under_way: int = 0
    rests_until: float = 0.0


class Hosts:
    """Servers that work is spread over. To be used within one event loop, from open to close.

    Args:
        urls: Of the servers, up to and with ``/v1``.
        client: Sends the requests.
        num_retries: Further tries of a request that fails.
        max_under_way: Most requests under way at once, over all servers.
    """

    def __init__(
        self, urls: Sequence[str], client: HttpClient, *, num_retries: int, max_under_way: int
    ) -> None:
        self.hosts = [Host(url.rstrip("/")) for url in urls]
        self._client = client
        self._num_tries = num_retries + 1
        self._max_under_way = max_under_way

    async def open(self) -> None:
        """Get ready."""
        await self._client.open()
        self._room = asyncio.Semaphore(self._max_under_way)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def least_busy(self) -> Host:
        """The server to begin with."""
        now = time.monotonic()
        return min(self.hosts, key=lambda h: (max(0.0, h.rests_until - now), h.num_under_way))

    async def get(self, host: Host, path: str) -> Json:
        """The reply of one server.

        Raises:
            NoAnswerError: If it gives none.
        """
        return await self._try(lambda h: self._client.read("GET", f"{h.url}{path}"), [host])

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        preferred: Host,
        read: Callable[[Host, Json], T],
    ) -> T:
        """The reply of the preferred server, or of another one if it fails.

        Args:
            read: Makes what is wanted of a reply; a ``TryAgainError`` has it asked for again.

        Raises:
            NoAnswerError: If none gives any.
        """
        content = json.dumps(body).encode()

        async def request(host: Host) -> T:
            return read(host, await self._client.read("POST", f"{host.url}{path}", content))

        return await self._try(request, [preferred, *self.hosts])

    async def stream(
        self, path: str, body: Mapping[str, Any], *, preferred: Host
    ) -> AsyncGenerator[tuple[Host, Json], None]:
        """Events of one reply, each as it comes; once there was one, nothing is tried again.

        Raises:
            NoAnswerError: If no server begins to reply, or a reply breaks off.
        """
        content = json.dumps(body).encode()

        async def begin(host: Host) -> tuple[Host, Json, AsyncGenerator[Json, None]]:
            events = self._client.events(f"{host.url}{path}", content)
            try:
                return host, await anext(events), events
            except StopAsyncIteration:
                raise TryAgainError("ended its reply too early") from None

        host, first, events = await self._try(begin, [preferred, *self.hosts])
        async with aclosing(events):
            yield host, first
            try:
                async for event in events:
                    yield host, event
            except TryAgainError as reason:
                raise NoAnswerError(f"{host.url} broke off its reply: it {reason}") from None

    async def _try(self, request: Callable[[Host], Awaitable[T]], hosts: Sequence[Host]) -> T:
        wait_s, reason = FIRST_WAIT_S, ""
        for _ in range(self._num_tries):
            host = await _awake(hosts)
            host.num_under_way += 1
            try:
                async with self._room:
                    return await request(host)
            except TryAgainError as failure:
                reason = f"{host.url} {failure}"
                rest_s = min(wait_s if failure.wait_s is None else failure.wait_s, LONGEST_WAIT_S)
                host.rests_until = max(host.rests_until, time.monotonic() + rest_s)
                wait_s *= 2
            finally:
                host.num_under_way -= 1
        times = f" ({self._num_tries} tries)" if self._num_tries > 1 else ""
        raise NoAnswerError(f"{reason}{times}")


async def _awake(hosts: Sequence[Host]) -> Host:
    """The first one if it does not rest, else the least busy; when all rest, after a wait."""
    while True:
        now = time.monotonic()
        awake = [host for host in hosts if host.rests_until <= now]
        if awake and awake[0] is hosts[0]:
            return awake[0]
        if awake:
            return min(awake, key=lambda host: host.num_under_way)
        await asyncio.sleep(min(host.rests_until for host in hosts) - now)
