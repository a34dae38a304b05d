"""The loop that accepts connections and reads requests until they are complete.

A connection takes no thread before its request's head, and a short body, are there. Until then it may be
closed: when its time is up, or when connections run out. Then the network with the most of them loses the one
that has waited longest. So silent clients, however many, keep nobody else out.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection

from api.server.answers import refusal
from api.server.client import Client
from api.server.fair_slots import FairSlots
from api.server.requests import Reading, Refused
from api.server.waiting import Waiting

log = logging.getLogger(__name__)

_CHUNK = 1 << 15
#: connections that are accepted in a row before others are read again
_MOST_AT_ONCE = 64
#: seconds between two looks at whose time is up, and for which none is accepted where there is no room
_TICK = 0.5
#: seconds that a client may go on sending after its last answer, so that it is still there to read it
_LINGER = 2.0
#: seconds between two lines in the log about connections that were closed or refused
_SAY_EVERY = 10.0
#: files that are left to the rest of the process where the system opens no more
_SPARE = 32
_NO_MORE_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Hands each complete request to ``work``, which calls ``release`` or ``drop`` in the end.

    ``most`` connections are open at once. Half of them may be worked for, and one network gets half of these.
    A request beyond that is refused with 503. Requests for ``urgent`` paths go to ``hurry``, and a quarter of
    all connections is theirs alone.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        most: int,
        patience: float,
        slow: FairSlots,
        work: Callable[[Client, Reading], None],
        hurry: Callable[[Client, Reading], None],
        urgent: Collection[bytes],
    ) -> None:
        listener.setblocking(False)
        self._listener, self._patience, self._slow = listener, patience, slow
        self._most = self._wanted = most
        self._work, self._hurry, self._urgent = work, hurry, urgent
        self._worked_for = FairSlots(max(1, most // 2))
        self._hurried = FairSlots(max(1, most // 4))
        self._selector = selectors.DefaultSelector()
        self._waiting = Waiting(self._selector)
        self._stopped = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._paused = False
        self._said, self._closed, self._refused = 0.0, 0, 0

    def run(self, grace: float) -> None:
        """Serve until ``stop``, and then for at most ``grace`` seconds those who are being answered."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        tick = 0.0
        while not self._stopped.is_set():
            try:
                for key, _ in self._selector.select(_TICK):
                    if isinstance(key.fileobj, Client):
                        self._read(key.fileobj)
                    elif key.fileobj is self._listener:
                        self._accept()
                if (now := time.monotonic()) >= tick:
                    tick = now + _TICK
                    self._look_at_clock(now)
            except Exception:
                log.exception("the loop of connections failed, and goes on")
        self._listener.close()
        for client, _ in self._waiting:
            self._close(client)
        until = time.monotonic() + grace
        while (self._worked_for or self._hurried) and time.monotonic() < until:
            time.sleep(0.02)

    def stop(self) -> None:
        """Accept nothing more; for signal handlers and other threads."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def release(self, client: Client, reading: Reading, *, may_go_on: bool) -> None:
        """The answer was sent: take the connection back, for another request or to let it end."""
        client.release()
        self._load(reading).give_back(client.network)
        if self._stopped.is_set():
            self._close(client)
        elif not may_go_on:
            self._linger(client)
        elif (data := reading.take_rest() or self._sent_meanwhile(client)) is None:
            self._close(client)
        else:
            self._begin(client, data)

    def _sent_meanwhile(self, client: Client) -> bytes | None:
        """What it sent while it was worked for, as ``_received`` has it."""
        return self._received(client) if self._waiting.has_spoken(client) else b""

    @staticmethod
    def _received(client: Client) -> bytes | None:
        """What has come, empty where nothing has; None where the client sends no more."""
        try:
            return client.socket.recv(_CHUNK) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def drop(self, client: Client, reading: Reading) -> None:
        """It could not be answered, or not to the end: close the connection at once."""
        self._close(client)
        self._load(reading).give_back(client.network)

    def _load(self, reading: Reading) -> FairSlots:
        return self._hurried if reading.path in self._urgent else self._worked_for

    def _accept(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            if self._open >= self._most and not self._make_room():
                self._pause()
                return
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_MORE_FILES:
                    self._have_fewer(error)
                    return
                continue  # whoever it was has gone again
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = Client(connection, peer, self._patience, self._slow)
            except OSError:
                connection.close()
            else:
                self._begin(client)

    @property
    def _open(self) -> int:
        return len(self._waiting) + len(self._worked_for) + len(self._hurried)

    def _have_fewer(self, error: OSError) -> None:
        """The system opens no more files: leave some to those who answer requests."""
        log.warning("fewer connections are kept open: %s", error.strerror)
        self._most = max(1, self._open - _SPARE)
        while self._open > self._most:
            if not self._make_room():
                self._pause()
                return

    def _make_room(self) -> bool:
        """Close a connection that nobody works for; False where there is none."""
        client = self._waiting.longest_of_most()
        if client is None:
            return False
        self._closed += 1
        self._close(client)
        return True

    def _pause(self) -> None:
        self._selector.unregister(self._listener)
        self._paused = True

    def _begin(self, client: Client, data: bytes = b"") -> None:
        """Wait for a request, of which ``data`` has come already."""
        reading = Reading()
        if data:
            try:
                if reading.complete(data):
                    self._pass_on(client, reading)
                    return
            except Refused as error:
                self._refuse(client, error.status, str(error))
                return
        self._await(client, reading, self._patience)

    def _read(self, client: Client) -> None:
        if not self._waiting.awaits(client):
            return  # it is worked for, or was closed since the selector saw it
        reading = self._waiting.reading(client)
        data = self._received(client)
        if data is None:
            self._close(client)
        elif data and reading is not None:
            self._go_on(client, reading, data)

    def _go_on(self, client: Client, reading: Reading, data: bytes) -> None:
        had = reading.has_begun, reading.has_head
        try:
            complete = reading.complete(data)
        except Refused as error:
            self._waiting.remove(client)
            self._refuse(client, error.status, str(error))
            return
        if complete:
            self._waiting.remove(client)
            self._pass_on(client, reading)
        elif had != (reading.has_begun, reading.has_head):  # each part of a request has time of its own
            client.deadline = time.monotonic() + self._patience

    def _pass_on(self, client: Client, reading: Reading) -> None:
        urgent = reading.path in self._urgent
        if not self._load(reading).take(client.network):
            self._refused += 1
            self._refuse(client, 503, "the server works on too many requests; ask again", retry_after=1)
        elif urgent:
            self._hurry(client, reading)
        else:
            self._work(client, reading)

    def _refuse(self, client: Client, status: int, detail: str, *, retry_after: int | None = None) -> None:
        client.try_to_send(refusal(status, detail, retry_after=retry_after))
        self._linger(client)

    def _linger(self, client: Client) -> None:
        """A connection that is closed while its client still sends may break before the answer is read."""
        client.end_answer()
        self._await(client, None, _LINGER)

    def _await(self, client: Client, reading: Reading | None, seconds: float) -> None:
        client.deadline = time.monotonic() + seconds
        try:
            self._waiting.add(client, reading)  # from here on the loop may close it
        except OSError as error:
            log.warning("a connection cannot be waited for: %s", error.strerror)
            client.close()

    def _close(self, client: Client) -> None:
        self._waiting.forget(client)
        client.close()

    def _look_at_clock(self, now: float) -> None:
        self._most = min(self._most + 1, self._wanted)
        if self._paused:
            self._paused = False
            self._selector.register(self._listener, selectors.EVENT_READ)
        for client, reading in self._waiting:
            if client.deadline <= now:
                self._end_waiting(client, reading)
        if (self._closed or self._refused) and now - self._said >= _SAY_EVERY:
            log.warning(
                "too many connections: %d that waited were closed, %d requests were refused",
                self._closed,
                self._refused,
            )
            self._said, self._closed, self._refused = now, 0, 0

    def _end_waiting(self, client: Client, reading: Reading | None) -> None:
        if reading is None or not reading.has_begun:
            self._close(client)
            return
        self._waiting.remove(client)
        what = "body" if reading.has_head else "head"
        self._refuse(client, 408, f"the {what} of the request did not come within {self._patience:g} seconds")
