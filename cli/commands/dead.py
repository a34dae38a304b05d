"""``qanvas dead list | retry``: jobs that have failed for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cli import options
from cli.console import console


@click.group()
def dead() -> None:
    """Look at jobs that have failed, and try them again."""


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which letters."""
    for name, text in (
        ("--since", "Failed at this time or later, as in 2030-01-31T12:00:00Z."),
        ("--group", "Only those of this group."),
        ("--error-type", "Only those with this error, say out-of-memory."),
        ("--model", "Only those of this model."),
        ("--task", "Only those of this task."),
    ):
        command = click.option(name, help=text)(command)
    return command


@dead.command("list")
@_which
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="As the server says it, with every attempt.")
@options.server
def list_letters(
    limit: int, as_json: bool, url: str | None, key: str | None, data: Path | None, **which: str | None
) -> None:
    """List jobs that have failed, newest first."""
    with options.client_from(url, key, data) as client:
        known = {name: value for name, value in which.items() if value is not None}
        found = client.call("GET", "/v1/dead-letters", params={**known, "limit": limit})
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table("id", "model", "attempts", "error", "message", "retried as", box=None)
    for letter in found["data"]:
        job, error = letter["job"], letter["job"]["error"]
        attempts = f"{job['attempts']}/{job['max_attempts']}"
        said = error["message"].replace("[", r"\[")
        table.add_row(job["id"], job["model"], attempts, error["type"], said, letter["retried_as"])
    console().print(table)


@dead.command("retry")
@click.argument("job_id", required=False)
@_which
@click.option("--all", "everything", is_flag=True, help="All there are, where nothing says which.")
@options.server
def retry_letters(
    job_id: str | None,
    everything: bool,
    url: str | None,
    key: str | None,
    data: Path | None,
    **which: str | None,
) -> None:
    """Try one job again, or all that fit and were not tried again yet; prints their ids and the new ones."""
    chosen = {name: value for name, value in which.items() if value is not None}
    if bool(job_id) + bool(chosen) + everything != 1:
        raise click.UsageError("name one job, or say which (see --help), or --all")
    with options.client_from(url, key, data) as client:
        if job_id:
            click.echo(f"{job_id} {client.retry(job_id).id}")
            return
        for one in client.retry_dead_letters(**chosen):
            if one.retried_as:
                click.echo(f"{one.job} {one.retried_as}")
            else:
                click.echo(f"left alone: {one.detail}", err=True)
