"""``qanvas up``: everything on this machine, until it is told to stop."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.extras import needs
from cli.signals import Stopped, stopping
from cli.streams import say

#: seconds between two looks at the children
_LOOK = 0.2


class _Workers(click.ParamType[int | None]):
    """A number of workers, or None for one on each device."""

    name = "workers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value == "auto" else click.IntRange(1).convert(value, param, ctx)


@click.command()
@options.host
@options.port
@options.data
@click.option(
    "--workers",
    type=_Workers(),
    default="1",
    show_default=True,
    metavar="NUMBER|auto",
    help="Worker processes; auto: one on each GPU.",
)
@needs("up")
def up(host: str | None, port: int | None, data: Path | None, workers: int | None) -> None:
    """Run the API, a database, Valkey and workers, all embedded.

    Prints `ready URL` when jobs can be submitted. Ctrl-C stops everything.
    """
    from cli.embedded.supervisor import Supervisor
    from cli.workers import ALL, devices

    settings = options.settings_from(host=host, port=port, data=data)
    logging.basicConfig(level=settings.log_level, format="qanvas: %(message)s")
    for chatty in ("httpx", "httpcore", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    say(f"qanvas: data and logs in {settings.data}", err=True)
    try:
        with stopping() as request:
            options.keep_private(settings)
            each = devices() if workers is None or settings.device == ALL else [settings.device] * workers
            with Supervisor(settings, each) as server:
                say(f"ready {server.url}")
                while not request.asked:
                    server.tend()
                    time.sleep(_LOOK)
    except Stopped:
        pass
    say("qanvas: stopped", err=True)
