"""Clients of Redis or Valkey, from the one URL the settings give."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import ConfigurationError

_SOCKET = "redis+socket://"


def connect(url: str, *, timeout: float | None, retry: bool = True) -> Any:
    """A ``redis.Redis`` that answers bytes; it connects on first use.

    ``timeout`` in seconds bounds every command; without ``retry``, a lost connection is told at once. Typed
    Any, as its own types mix sync and async answers.
    """
    address = url.replace(_SOCKET, "unix://", 1) if url.startswith(_SOCKET) else url
    try:
        return redis.Redis.from_url(
            address,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            **({} if retry else {"retry": Retry(NoBackoff(), 0)}),
        )
    except ValueError:
        # neither the URL nor the library's words, which quote parts of it: it may hold a password
        raise ConfigurationError(
            "QANVAS_REDIS_URL is no URL of a Redis; expected redis://, rediss:// or redis+socket://, with "
            "special characters of the password percent-encoded"
        ) from None


def kombu_url(url: str) -> str:
    """The same address as kombu spells it."""
    return url.replace("unix://", _SOCKET, 1) if url.startswith("unix://") else url
