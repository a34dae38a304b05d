"""Tickets: "there is work on this queue". They name no job, so a lost or doubled one harms nothing."""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shared.chunks import in_chunks
from shared.errors import Unavailable
from shared.messaging.client import connect, kombu_url
from shared.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

TICKET = "qanvas.ticket"
#: the key that ``ping`` writes
_PROBE = "qanvas:writable"

log = logging.getLogger(__name__)

#: tickets that a queue needs at most: more than all workers together take until upkeep looks again
MOST_TICKETS = 10_000
#: tickets in one round trip
_BATCH = 500
#: seconds for which tickets gather after some were sent, so many for each of them: a round trip for each
#: commit took a tenth of a submission. The first after a pause does not wait; where many come there is work
#: enough
_GATHER, _GATHER_EACH, _GATHER_MOST = 0.02, 0.005, 0.1
#: seconds Redis may take for one command before it counts as away
_TIMEOUT = 5.0
#: and for tickets that a worker takes by itself, which others of its jobs may wait behind
_TAKE_TIMEOUT = 0.5


def queue_name(queue: str) -> str:
    """The name in Redis of one of Qanvas's queues."""
    return f"qanvas.{queue}"


def make_celery(settings: Settings) -> Celery:
    """The Celery app, for the side that sends tickets and the side that takes them.

    Without ack emulation Celery 5.7 outlives a restart of Redis (with it, a partly loaded worker exits).
    A ticket can be lost that way; leases and upkeep in the database make that harmless. Queues are not
    declared: tickets are pushed to a queue by its name, and a Redis without memory would refuse the binding
    that a declaration writes, and so end a worker that connects.
    """
    from celery import Celery
    from kombu import Exchange, Queue

    app = Celery("qanvas", broker=kombu_url(settings.redis_url))
    app.conf.update(
        task_queues=[
            Queue(queue_name(name), Exchange(""), routing_key=queue_name(name), no_declare=True)
            for name in settings.queues
        ],
        task_default_queue=queue_name(settings.queues[0]),
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,  # worker.celery.remote does that
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "ack_emulation": False,
            "socket_timeout": _TIMEOUT,
            "socket_connect_timeout": _TIMEOUT,
        },
    )
    return app


class Tickets:
    """Sends tickets from a thread of its own: a Redis that hangs must not hold up a request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url, timeout=_TIMEOUT)
        self._taking = connect(settings.redis_url, timeout=_TAKE_TIMEOUT, retry=False)
        self._pending: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._publish_forever, name="tickets", daemon=True)
        self._thread.start()

    def send(self, queue: str, count: int = 1) -> None:
        """Send so many tickets soon. Never blocks; where Redis is away, upkeep sends them later."""
        with self._changed:
            self._pending[queue] += count
            self._changed.notify()

    def take(self, queue: str, most: int = 1) -> int:
        """Take tickets as Celery would; how many, none where Redis does not answer at once."""
        import redis

        try:
            return len(self._taking.rpop(queue_name(queue), most) or ())
        except redis.RedisError:
            return 0

    def waiting(self, queue: str) -> int:
        """How many tickets lie in Redis for a queue. Raises Unavailable."""
        import redis

        try:
            return int(self._redis.llen(queue_name(queue)))
        except redis.RedisError as error:
            raise Unavailable("Redis does not answer", str(error)) from error

    def ping(self) -> None:
        """Raises Unavailable when Redis does not answer at once, or takes no writes: full, or a replica."""
        import redis

        try:
            self._taking.set(_PROBE, "", ex=60)
        except redis.ResponseError as error:
            raise Unavailable("Redis takes no writes", str(error)) from error
        except redis.RedisError as error:
            raise Unavailable("Redis does not answer", str(error)) from error

    def close(self) -> None:
        """Send what is pending and stop."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        self._thread.join(timeout=_TIMEOUT)
        self._redis.close()
        self._taking.close()

    def _publish_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed.is_set())
                if not self._pending:
                    return
                pending, self._pending = self._pending, Counter()
            try:
                self._publish(pending)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows are safe and upkeep will send again
                log.warning("tickets not sent, upkeep will send them again: %s", error)
            self._closed.wait(min(max(_GATHER, _GATHER_EACH * pending.total()), _GATHER_MOST))

    def _publish(self, pending: Counter[str]) -> None:
        for queue, count in pending.items():
            ticket = _ticket(self._settings, queue)
            for some in in_chunks(ticket.copies(count), _BATCH):
                if self._redis.lpush(queue_name(queue), *some) > MOST_TICKETS:
                    self._redis.ltrim(queue_name(queue), 0, MOST_TICKETS - 1)


class _Ticket:
    """A message as kombu makes it, made once: making one for each ticket took a third of a submission."""

    def __init__(self, channel: Any, queue: str, message: Any) -> None:
        from kombu.serialization import dumps

        content_type, encoding, body = dumps(message.body, "json")
        made = channel.prepare_message(
            body, None, content_type, encoding, message.headers, dict(message.properties)
        )
        channel.basic_publish(made, "", queue_name(queue), _publish_batch=self)
        #: unique; what follows it tells the copies apart
        self._tag: str = made["properties"]["delivery_tag"]
        self._id: str = message.properties["correlation_id"]
        self._numbers = itertools.count()

    def add(self, _command: str, _key: str, payload: str) -> None:
        """Kombu hands over what it would send."""
        self._payload = payload

    def copies(self, count: int) -> Iterator[str]:
        """Each has an id and a delivery tag of its own."""
        for number in itertools.islice(self._numbers, count):
            own = self._payload.replace(self._tag, f"{self._tag}-{number}")
            yield own.replace(self._id, f"{self._id}-{number}")


@lru_cache(maxsize=4)
def _celery(settings: Settings) -> Celery:
    return make_celery(settings)


@lru_cache(maxsize=256)
def _ticket(settings: Settings, queue: str) -> _Ticket:
    app = _celery(settings)
    with app.connection_for_write() as connection:
        message = app.amqp.as_task_v2(f"ticket-{uuid.uuid4().hex}", TICKET, kwargs={"queue": queue})
        return _Ticket(connection.default_channel, queue, message)
