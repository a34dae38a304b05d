"""The native API, the first of the dialects."""

from __future__ import annotations

from api.native import (
    dead_letters,
    files,
    groups,
    health,
    jobs,
    models,
    outputs,
    problem_documents,
    schemas,
    webhooks,
    workers,
)
from api.routing.dialect import Dialect

DIALECT = Dialect(
    name="native",
    groups=(
        jobs.group,
        dead_letters.group,
        groups.group,
        files.group,
        outputs.group,
        webhooks.group,
        models.group,
        workers.group,
        health.group,
    ),
    render=problem_documents.render,
    error_media_type=problem_documents.MEDIA_TYPE,
    error_schema=schemas.PROBLEM,
    security={
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `qanvas keys create`. While there is none, loopback needs none.",
    },
    schemas=schemas.NAMED,
)
