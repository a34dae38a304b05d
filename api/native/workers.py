"""Who works, and what waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flask import Response

from api.native import schemas, serialization
from api.routing.operations import Answer, Call, Group
from shared.jobs.workers import Worker

group = Group("workers")


@group.operation(
    "GET",
    "/v1/workers",
    summary="Live workers",
    answers={200: Answer("Those that gave a sign of life within the lease time.", schemas.WORKERS)},
)
def list_workers(call: Call) -> Response:
    services = call.services
    alive = services.registry.alive(within=services.settings.lease_seconds)
    names = {model.known_as: model.id for model in services.catalog.list(call.tenant)}
    if call.caller.is_admin:
        names = {model: model for worker in alive for model in _held(worker)} | names
        shown = [_named(worker, names) for worker in alive]
    else:
        shown = _own(call, [_named(worker, names) for worker in alive])
    return serialization.answer({"data": [serialization.worker(worker) for worker in shown]})


def _held(worker: Worker) -> Sequence[str]:
    return worker.models if worker.loading is None else (*worker.models, worker.loading)


def _named(worker: Worker, names: Mapping[str, str]) -> Worker:
    """The worker with those of its models that have a name here."""
    models = tuple(names[model] for model in worker.models if model in names)
    return replace(worker, models=models, loading=worker.loading and names.get(worker.loading))


def _own(call: Call, workers: Sequence[Worker]) -> list[Worker]:
    """The workers without the jobs of other tenants."""
    running = [job for worker in workers for job in worker.running]
    jobs = call.services.jobs.owned(running, tenant=call.tenant)
    return [
        replace(worker, running=tuple(job for job in worker.running if job in jobs)) for worker in workers
    ]


@group.operation(
    "GET",
    "/v1/queues",
    summary="Depth and oldest wait of each queue",
    answers={200: Answer("All queues.", schemas.QUEUES)},
)
def list_queues(call: Call) -> Response:
    services = call.services
    queues = serialization.queues(services.depths(), services.workers(), services.settings.queues)
    return serialization.answer({"data": queues})
