"""The connections that nobody works for: silent ones, those whose request still comes, and those that end."""

from __future__ import annotations

import selectors
import threading
from collections.abc import Iterator

from api.server.client import Client
from api.server.requests import Reading


class Waiting:
    """Each connection with what has come of its request; None for one whose answer was the last.

    By network, in the order in which they began to wait. Any thread may use ``add``, ``has_spoken`` and
    ``forget``; the rest is for the one that selects.

    The selector watches a connection also while it is worked for, until it sends something meanwhile. To tell
    the selector of each request would let go of Python's lock, which a thread gets back late when many run.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._watched: set[Client] = set()
        self._networks: dict[str, dict[Client, Reading | None]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Client, Reading | None]]:
        with self._lock:
            found = [one for network in self._networks.values() for one in network.items()]
        return iter(found)

    def add(self, client: Client, reading: Reading | None) -> None:
        """Raises OSError where the system can watch no more connections."""
        with self._lock:
            if client not in self._watched:
                self._selector.register(client, selectors.EVENT_READ)
                self._watched.add(client)
            self._networks.setdefault(client.network, {})[client] = reading
            self._count += 1

    def has_spoken(self, client: Client) -> bool:
        """Whether it sent something, or left, while it was worked for."""
        return client not in self._watched

    def awaits(self, client: Client) -> bool:
        """Whether it waits; if not, what it has sent is not told again before ``add``."""
        with self._lock:
            if client in self._networks.get(client.network, ()):
                return True
            self._unwatch(client)
            return False

    def reading(self, client: Client) -> Reading | None:
        """What ``add`` was told."""
        return self._networks[client.network][client]

    def remove(self, client: Client) -> None:
        """Somebody works for it now."""
        with self._lock:
            self._remove(client)

    def forget(self, client: Client) -> None:
        """It is to be closed, waiting or not."""
        with self._lock:
            self._unwatch(client)
            if client in self._networks.get(client.network, ()):
                self._remove(client)

    def longest_of_most(self) -> Client | None:
        """Of the network with the most connections, the one that has waited longest."""
        with self._lock:
            if not self._networks:
                return None
            most = max(self._networks, key=lambda network: len(self._networks[network]))
            return next(iter(self._networks[most]))

    def _remove(self, client: Client) -> None:
        network = self._networks[client.network]
        del network[client]
        self._count -= 1
        if not network:
            del self._networks[client.network]

    def _unwatch(self, client: Client) -> None:
        if client in self._watched:
            self._watched.remove(client)
            self._selector.unregister(client)
