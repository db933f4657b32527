"""Addresses of servers: pupils' essays go to private networks alone, unless that was asked for."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit


def require_addresses(urls: Sequence[str], *, allow_remote: bool) -> None:
    """Check that essays may be sent to all of these.

    Raises:
        ValueError: If one is no address of a server, or lies outside private networks and
            ``allow_remote`` is not set.
    """
    for url in urls:
        parts = _split(url)
        if parts.username or parts.password:
            raise ValueError(
                "engine.urls: an address must not hold a user or a password; put the key into a "
                "variable and name it with engine.api_key_env"
            )
        if not allow_remote and not _is_private(url, parts.hostname or ""):
            raise ValueError(
                f"engine.urls: {url} lies outside this machine and private networks, so pupils' "
                "essays would leave them; set engine.allow_remote=true if they may"
            )


def read_key(variable: str | None) -> str | None:
    """The servers' key.

    Raises:
        ValueError: If the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"engine.api_key_env={variable}: this variable is not set; export it, or leave the "
            "setting out for servers without a key"
        )
    return key


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.query or parts.fragment:
        raise ValueError(
            f"engine.urls: {url} is no address of a server; write it as http://HOST:8000/v1"
        )
    return parts


def _is_private(url: str, host: str) -> bool:
    """Whether all addresses of a host lie on this machine or in private networks."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ValueError(
            f"engine.urls: {url}: nobody here knows the host {host}; correct it, or give its number"
        ) from error
    return all(_is_private_address(str(address).partition("%")[0]) for address in found)


def _is_private_address(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_private)
