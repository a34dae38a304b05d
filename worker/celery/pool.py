"""Celery's worker and its pool of threads, with a drain on SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker as CeleryWorker
from celery.concurrency.thread import TaskPool
from celery.worker import state

from worker.celery.bootsteps import Heartbeat, RemoteControl


class TicketPool(TaskPool):
    """Celery's pool of threads, which wakes the event loop when a thread becomes free.

    With prefetching disabled the loop asks for no ticket while all threads are taken. Unless it is woken, it
    looks again after its poll of a second.
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
    """The call wakes the loop; nothing else is to do."""


class TicketWorker(CeleryWorker):
    """Celery's worker, which drains: SIGTERM, SIGINT or ``celery control shutdown`` calls ``leave``.

    ``leave`` runs on a thread of its own and is given an event that the second signal sets: hurry. ``ready``
    is called once tickets are consumed.
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
        signals.worker_ready.connect(lambda **_: ready(), weak=False)
        app.steps["consumer"].update((Heartbeat, RemoteControl))
        super().__init__(
            app=app,
            pool=TicketPool,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
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

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Take no more tickets, wait for those that run, and end: jobs get ``leave``'s time for that."""
        self._begin_leaving()
        super().stop(in_sighandler=in_sighandler, exitcode=exitcode)

    def install_platform_tweaks(self, worker: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        if self._leaving:
            self._hurry.set()
            return
        self._begin_leaving()
        # Celery's event loop looks at this, calls ``stop``, and exits with this status
        state.should_stop = 0  # type: ignore[assignment]

    def _begin_leaving(self) -> None:
        if not self._leaving:
            self._leaving = True
            # in a thread of its own: a signal handler may not wait
            threading.Thread(target=self._leave, args=(self._hurry,), name="leaving", daemon=True).start()
