"""Jobs to put into a store under test."""

from __future__ import annotations

from typing import Any

from shared.jobs.entities import Job, NewJob, NewOutput, Submitted
from shared.jobs.store import JobStore


def new_job(**changes: Any) -> NewJob:
    known: dict[str, Any] = {
        "tenant": "default",
        "task": "text-to-image",
        "model": "fake",
        "queue": "default",
        "input": {"prompt": "a red apple", "seed": 1},
    }
    return NewJob(**known | changes)


def submit(store: JobStore, **changes: Any) -> Job:
    [submitted] = store.submit([new_job(**changes)])
    assert isinstance(submitted, Submitted)
    return submitted.job


def new_output(index: int = 0) -> NewOutput:
    return NewOutput(
        index=index,
        media_type="image/png",
        bytes=10,
        sha256="0" * 64,
        key=f"outputs/x/{index}.png",
        width=8,
        height=8,
    )
