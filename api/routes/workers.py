"""Who works, and what waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flask import Response

from api import present, schemas
from api.operations import Answer, Call, Group
from shared.jobs.records import Worker

group = Group("workers")


@group.operation(
    "GET",
    "/v1/workers",
    summary="Live workers",
    answers={200: Answer("Those that gave a sign of life within the lease time.", schemas.WORKERS)},
)
def list_workers(call: Call) -> Response:
    services = call.services
    alive = services.leases.workers(alive_within=services.settings.lease_seconds)
    shown = alive if call.caller.is_admin else _own(call, alive)
    return present.answer({"data": [present.worker(worker) for worker in shown]})


def _own(call: Call, workers: Sequence[Worker]) -> list[Worker]:
    """The workers without the jobs and the trained models of other tenants."""
    running = [job for worker in workers for job in worker.running]
    jobs = call.services.jobs.owned(running, tenant=call.tenant)
    models = {model.id for model in call.services.catalog.list(call.tenant)}
    return [
        replace(
            worker,
            running=tuple(job for job in worker.running if job in jobs),
            models=tuple(model for model in worker.models if model in models),
            loading=worker.loading if worker.loading in models else None,
        )
        for worker in workers
    ]


@group.operation(
    "GET",
    "/v1/queues",
    summary="Depth and oldest wait of each queue",
    answers={200: Answer("All queues.", schemas.QUEUES)},
)
def list_queues(call: Call) -> Response:
    services = call.services
    queues = present.queues(services.jobs.depths(), services.workers(), services.settings.queues)
    return present.answer({"data": queues})
