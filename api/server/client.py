"""One client's connection: whatever is awaited of it has a time limit."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from ipaddress import IPv6Address, ip_address
from typing import Any

from api.server.fair_slots import FairSlots
from shared.errors import QanvasError

#: bytes a second that a client must send of a body, and take of an answer, once its patience is used up
LEAST_RATE = 1024
#: bytes that are given to the kernel at once
_PIECE = 1 << 16


class TooSlow(QanvasError):
    """The client kept the server waiting for longer than it may."""


class Crowded(QanvasError):
    """The client would have to be waited for, as too many of its requests are already."""

    retry_after = 5


class Gone(Exception):
    """The connection is of no use any more: nothing can be answered."""


class Pace:
    """How long a client may be waited for: it must not be silent for longer than ``patience`` seconds, nor
    move less than ``LEAST_RATE`` bytes a second after the first ``patience`` seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._until = time.monotonic() + patience

    def moved(self, count: int) -> None:
        """So many bytes came, or were taken."""
        self._until += count / LEAST_RATE

    def left(self) -> float:
        """Seconds that it may be silent for from now on."""
        return min(self._patience, self._until - time.monotonic())


class Client:
    """A connected socket, which never blocks, and who is waited for over it.

    ``receive`` and ``send`` are for threads that may wait. When they do, the client takes a place among the
    slow ones, and has it until ``leave_place`` or ``release``; one that gets none is not waited for.
    """

    def __init__(self, connection: socket.socket, peer: Any, patience: float, slow: FairSlots) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.address, self.port = str(peer[0]), str(peer[1])
        #: whom its connections count for: the address, or the network that IPv6 gives to one customer
        self.network = _network(self.address)
        #: whom its waiting counts for; all that show no valid key are one
        self.holder = ""
        self.patience = patience
        #: when it is not waited for any more, by ``time.monotonic``; for the acceptor
        self.deadline = time.monotonic() + patience
        self._slow = slow
        self._held: str | None = None

    def fileno(self) -> int:
        return self.socket.fileno()

    def receive(self, size: int, pace: Pace) -> bytes:
        """What has come, or comes next, at most ``size`` bytes; empty where the client sends no more. The
        caller tells ``pace`` how much of it counts.

        Raises TooSlow, Crowded, Gone."""
        while True:
            try:
                data = self.socket.recv(size)
            except BlockingIOError:
                self._wait(select.POLLIN, pace)
            except OSError as error:
                raise Gone from error
            else:
                return data

    def send(self, data: bytes) -> None:
        """Give all of it to the client. Raises TooSlow, Crowded, Gone; then a part of it may be sent."""
        if (sent := self._send_now(data)) == len(data):
            return  # the kernel takes most answers whole
        left, pace = memoryview(data)[sent:], Pace(self.patience)
        while left:
            self._wait(select.POLLOUT, pace)
            sent = self._send_now(left[:_PIECE])
            pace.moved(sent)
            left = left[sent:]

    def _send_now(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Gone from error

    def try_to_send(self, data: bytes) -> bool:
        """Whether the kernel took all of it at once."""
        try:
            return self._send_now(data) == len(data)
        except Gone:
            return False

    def has_left(self) -> bool:
        """Whether it sends nothing more; for somebody who has nothing to tell it and would wait on."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end_answer(self) -> None:
        """Say that nothing more comes; the client may still be sending."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Nobody waits for it any more in the name of this request."""
        self.leave_place()
        self.holder = ""

    def leave_place(self) -> None:
        """Nobody waits for it for now."""
        if self._held is not None:
            self._slow.give_back(self._held)
            self._held = None

    def close(self) -> None:
        self.release()
        with contextlib.suppress(OSError):
            self.socket.close()

    def _wait(self, for_what: int, pace: Pace) -> None:
        if self._held is None:
            if not self._slow.take(self.holder):
                raise Crowded("too many requests are waited for already; send it again, and faster")
            self._held = self.holder
        seconds = pace.left()
        poll = select.poll()
        poll.register(self.socket, for_what)
        if seconds <= 0 or not poll.poll(1000 * seconds):
            raise TooSlow(
                f"the request came too slowly: no pause may be longer than {self.patience:g} seconds, "
                f"and after that {LEAST_RATE} bytes must come each second on average"
            )


def _network(address: str) -> str:
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
