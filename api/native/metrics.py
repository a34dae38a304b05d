"""What Prometheus reads: requests of this process, and jobs and queues as the database has them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared.jobs.workers import Worker
from shared.states import Status

if TYPE_CHECKING:
    from api.usecases.services import Services

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: where a request's environment keeps when it came
_BEGAN = "qanvas.began"


class Metrics:
    """One registry for each app, so that two apps in a process do not meet."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "qanvas_requests",
            "Requests answered by this process.",
            ["operation", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "qanvas_request_seconds",
            "Time until the answer began, by operation.",
            ["operation"],
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 60),
            registry=self.registry,
        )
        self.registry.register(self)

    def install(self, app: Flask) -> None:
        """Count every request of the app."""

        @app.before_request
        def start() -> None:
            request.environ[_BEGAN] = time.perf_counter()

        @app.after_request
        def count(response: Response) -> Response:
            operation = request.endpoint or "none"
            self._requests.labels(operation, str(response.status_code)).inc()
            if (began := request.environ.get(_BEGAN)) is not None:
                self._seconds.labels(operation).observe(time.perf_counter() - began)
            return response

    def text(self) -> bytes:
        """Everything in Prometheus's text format. Raises Unavailable."""
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Nothing: registering asks for names, and those of ``collect`` would need the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The database's own figures, read when asked."""
        counts = self._services.jobs.counts()
        jobs = GaugeMetricFamily("qanvas_jobs", "Jobs in each status.", labels=["status"])
        for status in Status:
            jobs.add_metric([status.value], counts.get(status.value, 0))
        yield jobs
        depth = GaugeMetricFamily("qanvas_queue_depth", "Jobs that a worker may take now.", labels=["queue"])
        held = GaugeMetricFamily(
            "qanvas_queue_held_back",
            "Jobs queued that wait until their tenant has less running.",
            labels=["queue"],
        )
        oldest = GaugeMetricFamily(
            "qanvas_queue_oldest_seconds", "How long the oldest waits.", labels=["queue"]
        )
        for queue in self._services.depths():
            depth.add_metric([queue.queue], queue.queued)
            held.add_metric([queue.queue], queue.held_back)
            oldest.add_metric([queue.queue], queue.oldest_seconds or 0.0)
        yield from (depth, held, oldest)
        hooks = GaugeMetricFamily(
            "qanvas_webhook_deliveries", "Webhooks on their way, and given up.", labels=["status"]
        )
        for state, count in self._services.outbox.backlog().items():
            hooks.add_metric([state], count)
        yield hooks
        alive = self._services.workers()
        workers = GaugeMetricFamily("qanvas_workers", "Live workers.")
        workers.add_metric([], len(alive))
        yield workers
        yield from _forwards(alive)


def _forwards(workers: Sequence[Worker]) -> Iterator[Metric]:
    """What the workers' kilns computed, each since it started."""
    told = {
        "calls": "Calls of models that jobs made.",
        "forwards": "Forwards that were computed for them.",
        "shared": "Forwards that computed calls of several jobs.",
        "rows": "Rows in all forwards.",
        "splits": "Forwards that ran out of memory and were halved.",
    }
    for name, meaning in told.items():
        family = CounterMetricFamily(f"qanvas_kiln_{name}", meaning, labels=["worker"])
        for worker in workers:
            family.add_metric([worker.id], worker.forwards.get(name, 0))
        yield family
    alone = CounterMetricFamily(
        "qanvas_kiln_alone", "Calls that could not share, and why.", labels=["worker", "reason"]
    )
    for worker in workers:
        for name, count in worker.forwards.items():
            if name.startswith("alone/"):
                alone.add_metric([worker.id, name.removeprefix("alone/")], count)
    yield alone
