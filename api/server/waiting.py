"""The connections that nobody works for: silent ones, those whose request still comes, and those that end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from api.server.client import Client
from api.server.requests import Reading


class Waiting:
    """Each connection with what has come of its request; None for one whose answer was the last.

    By network, in the order in which they began to wait. Threads may add while another looks."""

    def __init__(self) -> None:
        self._networks: dict[str, dict[Client, Reading | None]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, client: Client) -> bool:
        return client in self._networks.get(client.network, ())

    def __iter__(self) -> Iterator[tuple[Client, Reading | None]]:
        with self._lock:
            found = [one for network in self._networks.values() for one in network.items()]
        return iter(found)

    def add(self, client: Client, reading: Reading | None) -> None:
        with self._lock:
            self._networks.setdefault(client.network, {})[client] = reading
            self._count += 1

    def reading(self, client: Client) -> Reading | None:
        """What ``add`` was told."""
        return self._networks[client.network][client]

    def remove(self, client: Client) -> None:
        with self._lock:
            network = self._networks[client.network]
            del network[client]
            self._count -= 1
            if not network:
                del self._networks[client.network]

    def longest_of_most(self) -> Client | None:
        """Of the network with the most connections, the one that has waited longest."""
        with self._lock:
            if not self._networks:
                return None
            most = max(self._networks, key=lambda network: len(self._networks[network]))
            return next(iter(self._networks[most]))
