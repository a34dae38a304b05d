"""Tickets: "there is work on this queue". They name no job, so a lost or doubled one harms nothing."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shared.errors import Unavailable
from shared.messaging.client import connect, kombu_url
from shared.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

TICKET = "qanvas.ticket"
#: the key that ``Tickets.ping`` writes
_PROBE = "qanvas:writable"

log = logging.getLogger(__name__)

#: a queue keeps at most so many tickets, the newest: more than all workers together take between two rounds
#: of maintenance. It bounds the memory that tickets take in Redis
MAX_TICKETS = 10_000
#: tickets in one pipeline
_BATCH = 500
#: seconds between two sends: the first, so much more for each ticket just sent, and at most the last. A round
#: trip for each commit took a tenth of a submission. The first ticket after a pause is sent at once
_GATHER, _GATHER_EACH, _MAX_GATHER = 0.02, 0.005, 0.1
#: seconds Redis may take for one command before it counts as away
_TIMEOUT = 5.0
#: seconds that a readiness check waits for Redis
_PING_TIMEOUT = 0.5


def queue_name(queue: str) -> str:
    """The name that one of Qanvas's queues has in Celery, and as a key in Redis."""
    return f"qanvas.{queue}"


def make_celery(settings: Settings) -> Celery:
    """The Celery app, for senders and consumers of tickets and for Celery's own commands.

    * Without acknowledgement emulation Celery 5.7 survives a restart of Redis; with it, a worker whose slots
      are partly taken exits. A ticket can be lost that way: maintenance sends it again.
    * Queues are not declared. A ticket is published to a queue by its name, and a declaration writes a
      binding, which a Redis without free memory refuses: a worker that connects would exit.
    * Celery's step for remote control is left out: ``worker.celery.bootsteps`` has one.
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
        worker_enable_remote_control=False,
        worker_send_task_events=True,
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
    """Sends tickets from a thread of its own: a Redis that hangs must not delay a request."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings.redis_url, timeout=_TIMEOUT)
        self._probe = connect(settings.redis_url, timeout=_PING_TIMEOUT, retry=False)
        self._publisher = _Publisher(settings)
        self._pending: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._publish_forever, name="tickets", daemon=True)
        self._thread.start()

    def send(self, queue: str, count: int = 1) -> None:
        """Send so many tickets soon. Never blocks; while Redis is away, maintenance sends them later."""
        with self._changed:
            self._pending[queue] += count
            self._changed.notify()

    def waiting(self, queue: str) -> int:
        """How many tickets of a queue are in Redis. Raises Unavailable."""
        import redis

        try:
            return int(self._redis.llen(queue_name(queue)))
        except redis.RedisError as error:
            raise Unavailable("Redis does not answer", str(error)) from error

    def ping(self) -> None:
        """Raises Unavailable when Redis does not answer at once, or takes no writes: full, or a replica."""
        import redis

        try:
            self._probe.set(_PROBE, "", ex=60)
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
        self._probe.close()

    def _publish_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed.is_set())
                if not self._pending:
                    break
                pending, self._pending = self._pending, Counter()
            try:
                self._publisher.publish(pending)
                self._drop_oldest(pending)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows are safe: maintenance sends again
                log.warning("tickets not sent, maintenance will send them again: %s", error)
                self._publisher.close()
            self._closed.wait(min(max(_GATHER, _GATHER_EACH * pending.total()), _MAX_GATHER))
        self._publisher.close()

    def _drop_oldest(self, queues: Iterable[str]) -> None:
        """Keep the newest ``MAX_TICKETS`` of each queue. Raises RedisError."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.ltrim(queue_name(queue), 0, MAX_TICKETS - 1)
            pipeline.execute()


class _Publisher:
    """Publishes tickets in bulk with kombu's producer, over one connection. One thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: Celery | None = None
        self._connection: Any = None
        self._producer: Any = None
        #: by queue, the message whose copies, each with an id of its own, are its tickets
        self._messages: dict[str, Any] = {}

    def publish(self, counts: Counter[str]) -> None:
        """Publish so many tickets to each queue, in one pipeline for each ``_BATCH`` of them.

        Raises kombu's and Redis's errors; part of the tickets may have been published then."""
        app = self._app = self._app or make_celery(self._settings)
        if self._producer is None:
            self._connection = app.connection_for_write()
            # a channel of its own: ``default_channel`` tries for seconds to connect
            self._producer = app.amqp.Producer(self._connection.channel(), auto_declare=False)
        with self._producer.batch(_BATCH):
            for queue, count in counts.items():
                if (message := self._messages.get(queue)) is None:
                    kwargs = {"queue": queue}
                    message = self._messages[queue] = app.amqp.as_task_v2("", TICKET, kwargs=kwargs)
                for _ in range(count):
                    self._publish_one(queue_name(queue), message)

    def _publish_one(self, routing_key: str, message: Any) -> None:
        ticket_id = str(uuid.uuid4())
        self._producer.publish(
            message.body,
            exchange="",
            routing_key=routing_key,
            serializer="json",
            headers={**message.headers, "id": ticket_id, "root_id": ticket_id},
            correlation_id=ticket_id,
        )

    def close(self) -> None:
        """Close the connection; the next ``publish`` opens another."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.release()
