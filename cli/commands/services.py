"""``qanvas api | worker | migrate``: one part of the service each, for deployments of several machines."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from cli import options
from cli.extras import needs
from shared.errors import Unavailable
from shared.settings import Settings


@click.command()
@options.host
@options.port
@click.option("--workers", "processes", type=click.IntRange(1), help="Processes (QANVAS_API_PROCESSES, 1).")
@needs("api")
def api(host: str | None, port: int | None, processes: int | None) -> None:
    """Serve the REST API."""
    settings = options.settings_from(host=host, port=port, api_processes=processes)
    from api.serve import serve

    options.keep_private(settings)
    serve(settings, settings.api_processes)


@click.command()
@click.option("--queues", help="Queues to serve, separated by commas (QANVAS_QUEUES, default,training).")
@click.option(
    "--device",
    help="Where models compute: auto, cpu, cuda:1, mps, or all: a worker on each GPU (QANVAS_DEVICE, auto).",
)
@click.option("--slots", type=click.IntRange(1), help="Jobs held at once (QANVAS_SLOTS, 12).")
@click.option(
    "--check", is_flag=True, help="Only say whether a worker lives on this machine; for health checks."
)
@needs("worker")
def worker(queues: str | None, device: str | None, slots: int | None, check: bool) -> None:
    """Run jobs on one device of this machine, or on all of them."""
    settings = options.settings_from(queues=queues, device=device, slots=slots)
    if check:
        _check(settings)
        return
    from cli.workers import ALL, devices, run_each

    options.keep_private(settings)
    if settings.device == ALL:
        names = devices()
        if len(names) > 1:
            run_each(settings, names)
            return
        settings = settings.with_(device=names[0])
    from worker.app import run_worker

    run_worker(settings)


@click.command()
@options.data
@needs("server")
def migrate(data: Path | None) -> None:
    """Bring the database to what this version needs. Stop the API and all workers first."""
    from shared.db.upgrading import refuse_beside_workers

    settings = options.settings_from(data=data)
    database = options.open_database(settings)
    refuse_beside_workers(database, settings.lease_seconds)
    database.migrate()
    click.echo(f"{database.url.render_as_string(hide_password=True)} is up to date", err=True)


def _check(settings: Settings) -> None:
    from shared.db.revisions import usable
    from shared.jobs.workers import WorkerRegistry

    lease, database = settings.lease_seconds, options.open_database(settings)
    with usable(database.url):
        alive = WorkerRegistry(database).alive(within=lease)
    here = [one for one in alive if one.host == socket.gethostname()]
    if not here:
        raise Unavailable(f"no worker on this machine gave a sign of life in the last {lease:g} s")
    for one in here:
        trouble = f"; takes no jobs: {one.trouble}" if one.trouble else ""
        click.echo(f"{one.id} on {one.device}: {len(one.running)} jobs, {one.slots} slots{trouble}")
