"""Celery's pool of threads as it serves us; the worker that it belongs to is tested as a process."""

from __future__ import annotations

import threading

from celery import Celery
from kombu.asynchronous import Hub

from worker.celery.pool import TicketPool


def test_the_loop_is_woken_as_soon_as_a_thread_is_free() -> None:
    """Unwoken, it looks for the next ticket only after its poll of a second."""
    woken = threading.Event()
    busy = threading.Event()

    class Woken(Hub):
        def call_soon(self, *given: object) -> None:
            woken.set()

    pool = TicketPool(1, app=Celery())
    pool.start()
    try:
        pool.register_with_event_loop(Woken())
        pool.on_apply(busy.wait, (30,))
        assert not woken.is_set()
        busy.set()
        assert woken.wait(30)
    finally:
        pool.stop()
