"""A job as a person follows it: a progress bar with its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cli.client import Client
from shared.errors import QanvasError

_WAITING = {
    "behind-others": "waiting behind others",
    "tenant-limit": "waiting until the tenant has fewer jobs running",
    "no-worker-for-model": "waiting: no worker for this model",
    "loading-model": "loading the model",
    "depends-on": "waiting for another job",
    "scheduled": "waiting for its time",
    "retry-backoff": "waiting for the next attempt",
}


class Unsuccessful(QanvasError):
    """A job ended, but not well; the text says why."""

    def __init__(self, job: dict[str, Any]) -> None:
        error = job.get("error") or {}
        said = error.get("message") or error.get("type")
        super().__init__(f"job {job['id']} {job['status']}" + (f": {said}" if said else ""))


def watch(client: Client, job: dict[str, Any], meanwhile: Callable[[], None] | None = None) -> dict[str, Any]:
    """Show a bar on standard error until the job has succeeded, and return it. Raises Unsuccessful."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(job["status"], total=None, steps="")
        for job in client.follow(job, meanwhile):  # noqa: B020 - the same job, as it goes on
            _show(progress, bar, job)
    if job["status"] != "succeeded":
        raise Unsuccessful(job)
    return job


def _show(progress: Progress, bar: TaskID, job: dict[str, Any]) -> None:
    now = job.get("progress") or {}
    if job["status"] == "succeeded":
        # a job too quick to be seen running still had the steps it was asked for
        total = int(progress.tasks[bar].total or job["input"].get("steps") or 1)
        progress.update(
            bar, description="succeeded", total=total, completed=total, steps=_steps(total, total)
        )
    elif job["status"] in ("queued", "scheduled"):
        reason = str((job.get("waiting") or {}).get("reason"))
        progress.update(bar, description=_WAITING.get(reason, job["status"]))
    elif now.get("total"):
        stage = now.get("stage") or job["status"]
        step, total = now.get("step") or 0, now["total"]
        progress.update(bar, description=stage, total=total, completed=step, steps=_steps(step, total))
    else:
        progress.update(bar, description=now.get("stage") or job["status"])


def _steps(step: int, total: int) -> str:
    return f"{step}/{total} steps" if total > 1 else ""
