"""Who works, and what waits."""

from __future__ import annotations

from flask import Response

from api import present, schemas
from api.operations import Answer, Call, Group

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
    return present.answer({"data": [present.worker(worker) for worker in alive]})


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
