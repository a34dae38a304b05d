"""A job as a person follows it: a progress bar with its steps."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cli.following import follow
from qanvas.client import Client, Job
from qanvas.errors import JobFailed
from qanvas.records import Progress

_WAITING = {
    "behind-others": "waiting behind others",
    "tenant-limit": "waiting until the tenant has fewer jobs running",
    "no-worker-for-model": "waiting: no worker for this model",
    "loading-model": "loading the model",
    "depends-on": "waiting for another job",
    "scheduled": "waiting for its time",
    "retry-backoff": "waiting for the next attempt",
}


def watch(client: Client, job: Job, meanwhile: Callable[[], None] | None = None) -> Job:
    """Show a bar on standard error until the job has succeeded, and return it. Raises JobFailed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(job.status, total=None, steps="")
        for job in follow(client, job, meanwhile):  # noqa: B020 - the same job, as it goes on
            _show(progress, bar, job)
    if job.status != "succeeded":
        raise JobFailed(job)
    return job


def _show(progress: Bars, bar: TaskID, job: Job) -> None:
    now = job.progress or Progress()
    if job.status == "succeeded":
        # a job too quick to be seen running still had the steps it was asked for
        total = int(progress.tasks[bar].total or job.input.get("steps") or 1)
        progress.update(
            bar, description="succeeded", total=total, completed=total, steps=_steps(total, total)
        )
    elif job.status in ("queued", "scheduled"):
        reason = job.waiting.reason if job.waiting else ""
        progress.update(bar, description=_WAITING.get(reason, job.status))
    elif now.total:
        stage = now.stage or job.status
        step, total = now.step or 0, now.total
        progress.update(bar, description=stage, total=total, completed=step, steps=_steps(step, total))
    else:
        progress.update(bar, description=now.stage or job.status)


def _steps(step: int, total: int) -> str:
    return f"{step}/{total} steps" if total > 1 else ""
