"""Celery's worker, as it serves us: threads that take tickets, and signals that let jobs end well."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker as CeleryWorker
from celery.concurrency.thread import TaskPool
from celery.worker import state

from worker.celery.remote import Remote


class TicketPool(TaskPool):
    """Celery's pool of threads, which tells the event loop when a thread is free again.

    With prefetching disabled the loop asks for no ticket while all threads are taken; unwoken, it would look
    again only after its poll of a second.
    """

    _hub: Any = None

    def register_with_event_loop(self, loop: Any) -> None:
        self._hub = loop

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(self._wake)
        return result

    def _wake(self, _: object) -> None:
        if self._hub is not None:
            self._hub.call_soon(_nothing)


def _nothing() -> None:
    """Waking the loop is all."""


class TicketWorker(CeleryWorker):
    """Celery's worker with our signals: the first one calls ``leave``, the second sets its ``hurry``.

    ``ready`` is called once tickets are consumed.
    """

    def __init__(
        self,
        app: Celery,
        *,
        ready: Callable[[], None],
        leave: Callable[[threading.Event], None],
        **options: Any,
    ) -> None:
        self._leave = leave
        self._hurry = threading.Event()
        self._leaving = False
        app.steps["consumer"].add(Remote)
        signals.worker_ready.connect(lambda **_: ready(), weak=False)
        super().__init__(
            app=app,
            pool=TicketPool,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,  # see ``Remote``
            task_events=False,
            redirect_stdouts=False,
            quiet=True,
            **options,
        )

    def retire(self) -> None:
        """Take no more tickets, and go on with those that were taken. Any thread."""
        consumer: Any = getattr(self, "consumer", None)  # Celery sets it when it starts
        if consumer is None:
            return
        for queue in list(self.app.amqp.queues):
            consumer.call_soon(consumer.cancel_task_queue, queue)

    def install_platform_tweaks(self, worker: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        if self._leaving:
            self._hurry.set()
            return
        self._leaving = True
        # Celery takes no more tickets, waits for those that run, and exits with this status
        state.should_stop = 0  # type: ignore[assignment]
        # in a thread of its own: a signal's handler may not wait
        threading.Thread(target=self._leave, args=(self._hurry,), name="leaving", daemon=True).start()
