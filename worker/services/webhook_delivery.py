"""Sends webhooks, on threads of its own: a receiver that hangs holds up no job and few other receivers."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from shared.errors import Refused, Unavailable, Unreachable
from shared.outward import Limits, Outward
from shared.periodic_service import PeriodicService
from shared.webhooks import signing
from shared.webhooks.outbox import LEASE, Delivery, Outbox
from shared.webhooks.receivers import Receiver, SendLimits
from worker.health.awake_clock import awake_seconds

log = logging.getLogger(__name__)

#: tries at once in one process; those among them of one tenant to one host, and of one tenant, who leaves
#: some to others even where nobody else has any
SENDERS, SEND_LIMITS = 16, SendLimits(per_host=4, per_tenant=12)
#: seconds between two looks for what is due
_LOOK_EVERY = 1.0
#: seconds between two tries to write down how one went
_SETTLE_EVERY = 0.5
#: seconds that tries may take to end when the process is told to
_GRACE = 2.0
#: what a receiver gets to answer; its answer's body is not read
LIMITS = Limits(connect=5, read=15, total=20, bytes=0)
#: the longest that a receiver may ask us to wait, in seconds
_LONGEST_ASKED = 3600.0


class WebhookDelivery(PeriodicService):
    """Every worker has one; a lease on each delivery keeps them from sending the same one."""

    def __init__(self, outbox: Outbox, outward: Outward, limits: Limits = LIMITS) -> None:
        super().__init__("webhook delivery", _LOOK_EVERY)
        self._outbox = outbox
        self._outward = outward
        self._limits = limits
        self._busy: Counter[Receiver] = Counter()
        #: guards ``_busy``, and tells when a try ends
        self._changed = threading.Condition()

    def stop(self) -> None:
        """Start no more tries and give those on their way a moment. One that is cut off is made again."""
        super().stop()
        self.wait(_GRACE)

    def wait(self, seconds: float) -> bool:
        """Whether no try is on its way any more, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy.total(), seconds)

    def run_once(self) -> bool:
        """Begin to try what is due, as far as there is room; whether any was. Raises Unavailable."""
        with self._changed:
            busy = Counter(self._busy)
        if (room := SENDERS - busy.total()) <= 0:
            return False
        until = awake_seconds() + LEASE
        due = self._outbox.claim(room, busy, SEND_LIMITS)
        for delivery in due:
            with self._changed:
                self._busy[_receiver(delivery)] += 1
            # daemons: a try that hangs must not keep the process alive
            threading.Thread(target=self._try, args=(delivery, until), name=delivery.id, daemon=True).start()
        return bool(due)

    def _try(self, delivery: Delivery, until: float) -> None:
        """``until``: when the lease on the delivery runs out, by the clock of ``awake_seconds``."""
        try:
            if (settle := self._send(delivery, until)) is not None:
                _settle(settle, until)
        except Unavailable as error:
            log.warning("%s is sent again, nobody could be told how it went: %s", delivery.id, error)
        except Exception:
            log.exception("%s is sent again", delivery.id)
        finally:
            with self._changed:
                self._busy[_receiver(delivery)] -= 1
                self._busy += Counter()  # drops receivers without tries
                self._changed.notify_all()

    def _send(self, delivery: Delivery, until: float) -> Callable[[], None] | None:
        """Try once; what writes down how it went. None, and nothing is sent, where another worker may have
        the delivery before the try is over: this process was stopped for a while."""
        body = delivery.body.encode()
        secret = delivery.secret or self._outbox.secret(delivery.tenant)
        if awake_seconds() + self._limits.total > until:
            return None
        signed = signing.headers(secret, delivery.id, body, time.time())
        try:
            with self._outward.send(
                "POST", delivery.url, headers=signed, content=body, limits=self._limits
            ) as reply:
                status, asked = reply.status, reply.headers.get("retry-after", "")
        except Refused as error:
            return partial(self._outbox.failed, delivery, str(error))
        except Unreachable as error:
            return partial(self._unreached, delivery, str(error))
        return self._heard(delivery, status, asked)

    def _unreached(self, delivery: Delivery, error: str) -> None:
        self._outbox.failed(delivery, error)
        self._outbox.postpone(*_receiver(delivery), signing.wait_after(delivery.tries))

    def _heard(self, delivery: Delivery, status: int, asked: str) -> Callable[[], None]:
        """What settles a try that was answered. ``asked`` is the receiver's ``Retry-After``."""
        if 200 <= status < 300:
            return partial(self._outbox.delivered, delivery, status)
        if status == 410:
            wants_none = "the receiver answered 410: it wants no more"
            return partial(self._outbox.refused, delivery, wants_none, status=status)
        wait = min(float(asked), _LONGEST_ASKED) if asked.isascii() and asked.isdigit() else 0.0
        more = "; redirects are not followed, name the final URL" if 300 <= status < 400 else ""
        said = f"the receiver answered {status}{more}"
        return partial(self._outbox.failed, delivery, said, status=status, wait=wait)


def _settle(settle: Callable[[], None], until: float) -> None:
    """Write down how a try went; where the database is away, again until the lease runs out: an event that
    has arrived is not to be sent a second time for that. Raises Unavailable."""
    while True:
        try:
            return settle()
        except Unavailable:
            if awake_seconds() + _SETTLE_EVERY > until:
                raise
        time.sleep(_SETTLE_EVERY)


def _receiver(delivery: Delivery) -> Receiver:
    return delivery.tenant, delivery.host
