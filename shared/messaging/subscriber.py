"""One subscription to a channel of Redis, for a whole process: a thread that hears, and comes back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

from shared.messaging.client import connect

log = logging.getLogger(__name__)

#: seconds Redis may take for one command before it counts as away
_TIMEOUT = 5.0
#: seconds between two tries while Redis is away, and between two looks whether to stop
_AGAIN = 1.0
#: seconds of silence after which Redis is asked whether it is there
_ASK_AFTER = 2.0


class Subscriber:
    """Calls ``heard`` with every message. Its thread starts with ``start``; call it as often as you like.

    A subscription misses what is said while Redis is away: ``changed`` is called with True when it holds,
    first and again, and with False when it was lost, so that whoever listens looks at the truth instead.
    """

    def __init__(
        self,
        redis_url: str,
        channel: bytes,
        heard: Callable[[bytes], None],
        changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._url = redis_url
        self._channel = channel
        self._heard = heard
        self._changed = changed
        self._closed = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.connected = False

    def start(self) -> None:
        """Begin to listen, if nobody has."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    name = self._channel.decode()
                    self._thread = threading.Thread(target=self._listen_forever, name=name, daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Stop, within a second; does not wait for it."""
        self._closed.set()

    def _listen_forever(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except redis.RedisError as error:
                log.warning("not hearing %s, Redis does not answer: %s", self._channel.decode(), error)
            except Exception:
                log.exception("not hearing %s", self._channel.decode())
            self._set(False)
            self._closed.wait(_AGAIN)

    def _listen(self) -> None:
        """Until closed. Raises RedisError when the connection is lost, or Redis hangs."""
        with connect(self._url, timeout=_TIMEOUT, retry=False) as client, client.pubsub() as pubsub:
            pubsub.subscribe(self._channel)
            spoke = asked = time.monotonic()
            while not self._closed.is_set():
                message = pubsub.get_message(timeout=_AGAIN)
                now = time.monotonic()
                if message is not None:
                    spoke = now
                    if message["type"] == "subscribe":
                        self._set(True)
                    elif message["type"] == "message":
                        self._heard(message["data"])
                elif now - spoke > _TIMEOUT:
                    raise redis.TimeoutError(f"silent for {now - spoke:.0f} s")
                elif now - max(spoke, asked) > _ASK_AFTER:
                    asked = now
                    pubsub.ping()

    def _set(self, connected: bool) -> None:
        if connected or self.connected:
            self.connected = connected
            self._changed(connected)
