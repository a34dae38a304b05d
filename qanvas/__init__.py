"""The Python client of a Qanvas server. It imports nothing of the server's packages.

import qanvas

qanvas.run("starter-image", prompt="a red apple").outputs[0].save("apple.png")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qanvas.async_client import AsyncClient, AsyncJob, AsyncOutput
from qanvas.calls import Options, Webhook
from qanvas.client import Client, Job, Output
from qanvas.errors import (
    APIError,
    BadRequest,
    Conflict,
    FieldError,
    Forbidden,
    InvalidAddress,
    InvalidInput,
    JobFailed,
    NoAnswer,
    NotFound,
    OverLimit,
    QanvasError,
    ServerError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    WaitTimeout,
)
from qanvas.records import (
    Attempt,
    DeadLetter,
    Event,
    File,
    Group,
    JobError,
    JobRecord,
    Model,
    OutputRecord,
    Progress,
    Queue,
    Retried,
    Waiting,
    Worker,
)

__all__ = [
    "APIError", "AsyncClient", "AsyncJob", "AsyncOutput", "Attempt", "BadRequest", "Client", "Conflict",
    "DeadLetter", "Event", "FieldError", "File", "Forbidden", "Group", "InvalidAddress", "InvalidInput",
    "Job", "JobError", "JobFailed", "JobRecord", "Model", "NoAnswer", "NotFound", "Options", "Output",
    "OutputRecord", "OverLimit", "Progress", "QanvasError", "Queue", "Retried", "ServerError",
    "TooLarge", "Unauthorized", "Unavailable", "UnsupportedMediaType", "WaitTimeout", "Waiting",
    "Webhook", "Worker", "run",
]  # fmt: skip


def run(
    model: str | None,
    input: Mapping[str, Any] | None = None,
    /,
    *,
    options: Options | None = None,
    **inputs: Any,
) -> Job:
    """Submit a job to the server that ``QANVAS_URL`` names, and wait for its success. Raises JobFailed."""
    # the job's outputs are fetched through this client, which closes when nothing refers to it any more
    return Client().run(model, input, options=options, **inputs)
