"""``qanvas submit | jobs | models``: what curl can do as well, in fewer words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cli import options
from cli.console import console
from cli.inputs import inputs_from
from cli.outputs import save
from cli.progress import watch
from qanvas.calls import Options


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, metavar="KEY=VALUE...")
@click.option("--task", help="One of the model's tasks; its own where it is left out.")
@click.option("--wait", is_flag=True, help="Follow the job until it ends.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write its output here; waits.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 is the most urgent, 5 the default.")
@options.server
def submit(
    model: str,
    inputs: tuple[str, ...],
    task: str | None,
    wait: bool,
    out: Path | None,
    priority: int | None,
    url: str | None,
    key: str | None,
    data: Path | None,
) -> None:
    """Submit a job: `qanvas submit starter-image prompt="a red apple" --out apple.png`.

    KEY=@PATH sends a file. Prints the job's id, or with --wait and --out what came of it.
    """
    with options.client_from(url, key, data) as client:
        settings: Options = {}
        if task is not None:
            settings["task"] = task
        if priority is not None:
            settings["priority"] = priority
        job = client.submit(model, inputs_from(client, model, inputs, task), options=settings)
        if not (wait or out):
            click.echo(job.id)
            return
        try:
            job = watch(client, job)
        except KeyboardInterrupt:
            click.echo(f"the job goes on: qanvas jobs {job.id}", err=True)
            raise
        if job.result is not None:
            click.echo(_text(job.result))
        for path in save(job, out) if out else ():
            click.echo(path)
        if not out:
            for output in job.outputs:
                click.echo(output.url)


@click.command()
@click.argument("job_id", required=False)
@click.option("--status", help="Only those in this status.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="As the server says it.")
@options.server
def jobs(
    job_id: str | None,
    status: str | None,
    limit: int,
    as_json: bool,
    url: str | None,
    key: str | None,
    data: Path | None,
) -> None:
    """List the newest jobs, or show one."""
    with options.client_from(url, key, data) as client:
        if job_id:
            click.echo(json.dumps(client.job(job_id).raw, indent=2, ensure_ascii=False))
            return
        which = {} if status is None else {"status": status}
        found = client.call("GET", "/v1/jobs", params={**which, "limit": limit})
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table("id", "model", "status", "progress", "created", box=None)
    for job in found["data"]:
        progress = job["progress"] or {}
        steps = f"{progress['step']}/{progress['total']}" if progress.get("total") else ""
        table.add_row(job["id"], job["model"], job["status"], steps, job["created_at"])
    console().print(table)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As the server says it, with input schemas.")
@options.server
def models(as_json: bool, url: str | None, key: str | None, data: Path | None) -> None:
    """List the models there are."""
    with options.client_from(url, key, data) as client:
        found = list(client.models())
    if as_json:
        click.echo(json.dumps([model.raw for model in found], indent=2, ensure_ascii=False))
        return
    table = Table("id", "task", "state", "inputs", box=None)
    for model in found:
        for task, schema in model.input_schemas.items():
            required = schema.get("required", ())
            names = [name if name in required else f"[{name}]" for name in schema.get("properties", ())]
            table.add_row(model.id, task, model.state, " ".join(names).replace("[", r"\["))
    console().print(table)


def _text(result: Any) -> str:
    if isinstance(result, dict) and isinstance(result.get("text"), str):
        return str(result["text"])
    return json.dumps(result, indent=2, ensure_ascii=False)
