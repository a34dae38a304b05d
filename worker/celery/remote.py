"""Remote control and heartbeats, by which Celery's tools see a worker.

Celery's own bootsteps for both end a worker whose Redis takes no writes, as when its memory is full. Such a
worker runs jobs all the same: tools see it again once Redis takes writes.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks
from celery.worker.heartbeat import Heart
from celery.worker.pidbox import Pidbox
from kombu.common import ignore_errors
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

#: seconds after which it is tried again
_RETRY = 5.0


class _Mailbox(Pidbox):
    """Where commands arrive. Replies that cannot be sent are dropped."""

    def reset(self) -> None:
        try:
            super().reset()
        except Exception as error:  # noqa: BLE001 - the driver's own; a lost connection is found by the consumer
            log.warning("a command of Celery's tools was not answered: %s", error)


#: it has no types
_CeleryHeart: Any = Heart


class _Heart(_CeleryHeart):  # type: ignore[misc]
    """Never waits for a Redis that is away: tools notice a worker whose heartbeats are missing."""

    def _send(self, event: str, retry: bool = False) -> Any:
        return super()._send(event, retry=False)

    def stop(self) -> None:
        if self.tref is not None:
            self.timer.cancel(self.tref)
            self.tref = None


class Remote(bootsteps.StartStopStep):
    """Starts after tickets are consumed, and again with each new connection."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._mailbox = _Mailbox(consumer)
        self._heart: _Heart | None = None
        self._again: Any = None
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        self._again = None
        try:
            self._mailbox.start(consumer)
            consumer.event_dispatcher = consumer.app.events.Dispatcher(
                consumer.connection_for_write(),
                hostname=consumer.hostname,
                groups=["worker"],  # those of tasks are sent once a tool asks for them
                buffer_group=["task"],
                on_send_buffered=consumer.on_send_event_buffered,
            )
            consumer.update_strategies()  # which look at the dispatcher
            self._heart = _Heart(consumer.timer, consumer.event_dispatcher)
            self._heart.start()
        except consumer.connection_errors:
            raise  # the consumer connects again, and starts this step again
        except (RedisError, KombuError) as error:
            log.warning("Celery's tools do not see this worker until Redis takes writes: %s", error)
            self.stop(consumer)
            self._again = consumer.timer.call_after(_RETRY, self.start, (consumer,))

    def stop(self, consumer: Any) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        heart, self._heart = self._heart, None
        dispatcher, consumer.event_dispatcher = consumer.event_dispatcher, None
        if heart is not None:
            heart.stop()
        if dispatcher is not None:
            ignore_errors(consumer, dispatcher.close)
            ignore_errors(consumer, dispatcher.connection.close)
        self._mailbox.stop(consumer)

    def shutdown(self, consumer: Any) -> None:
        self.stop(consumer)
