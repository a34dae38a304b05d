"""Bootsteps of a worker's consumer: remote control and heartbeats, instead of Celery's own.

Celery's remote control writes a binding when it starts; where a Redis without free memory refuses that, the
worker exits. Celery's heartbeat is retried until Redis answers; the event loop sees no signal meanwhile.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.worker.heartbeat import Heart
from celery.worker.pidbox import Pidbox

log = logging.getLogger(__name__)

#: seconds between two tries to listen for commands
_RETRY_SECONDS = 5.0


class RemoteControl(bootsteps.StartStopStep):
    """Answers ``celery status``, ``celery inspect`` and ``celery control``."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._mailbox: Any = Pidbox(consumer)
        self._retry: Any = None
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Listen for commands, now or as soon as Redis lets it. Raises when the connection is lost."""
        self._retry = None
        try:
            self._mailbox.start(consumer)
        except consumer.channel_errors as error:
            log.warning("no remote control, Redis refuses it: %s", error)
            self._retry = consumer.timer.call_after(_RETRY_SECONDS, self.start, (consumer,))

    def stop(self, consumer: Any) -> None:
        self._forget_retry()
        self._mailbox.stop(consumer)

    def shutdown(self, consumer: Any) -> None:
        self._forget_retry()
        self._mailbox.shutdown(consumer)

    def _forget_retry(self) -> None:
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()


class Heartbeat(bootsteps.StartStopStep):
    """Sends the events by which Flower and ``celery events`` see that a worker lives."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        consumer.heart = _Heart(consumer.timer, consumer.event_dispatcher)
        consumer.heart.start()

    def stop(self, consumer: Any) -> None:
        heart, consumer.heart = consumer.heart, None
        if heart is not None:
            heart.stop()

    shutdown = stop


class _Heart(Heart):
    """Tries each heartbeat once."""

    def _send(self, event: str, retry: bool = False) -> Any:
        return super()._send(event, retry=False)  # type: ignore[misc]
