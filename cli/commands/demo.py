"""``qanvas demo``: a prompt becomes a picture, through the API, the queue and a worker."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click

from cli import options
from cli.extras import needs
from cli.outputs import save, slug
from cli.progress import watch
from cli.signals import stopping
from qanvas.client import Client
from qanvas.records import Model
from shared.errors import ConfigurationError

_PREFERRED = "starter-image"


@click.command()
@click.argument("prompt", default="a red apple")
@options.data
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out"), show_default=True
)
@click.option("--model", help=f"Any text-to-image model; {_PREFERRED} when not given.")
@needs("up")
def demo(prompt: str, data: Path | None, out: Path, model: str | None) -> None:
    """Start a server, make one picture, write it to ./out, and stop the server."""
    from cli.embedded.supervisor import Supervisor

    with contextlib.ExitStack() as stack:
        stack.enter_context(stopping())
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qanvas-demo-")))
        settings = options.settings_from(data=data, port=0, host="127.0.0.1")
        umask = options.keep_private(settings)
        click.echo("starting the API, Valkey and a worker …", err=True)
        server = stack.enter_context(Supervisor(settings))
        client = stack.enter_context(Client(server.url, settings.key, patience=0))
        chosen = model or _choose(list(client.models()))
        click.echo(f'{chosen}: "{prompt}"', err=True)
        job = client.submit(chosen, prompt=prompt)
        job = watch(client, job, meanwhile=server.tend)
        os.umask(umask)  # the picture is the user's own
        [path, *_] = save(job, out / f"{slug(prompt)}-{job.id[-6:].lower()}.png")
        click.echo(path)
    sys.stdout.flush()


def _choose(models: list[Model]) -> str:
    names = [model.id for model in models if model.state != "missing" and _draws(model)]
    if not names:
        raise ConfigurationError(
            "no model that draws is here; put one into a catalog and name that in QANVAS_CATALOG"
        )
    return _PREFERRED if _PREFERRED in names else names[0]


def _draws(model: Model) -> bool:
    """Whether it makes a picture of a prompt, and needs nothing else."""
    return model.output.startswith("image/") and model.input_schema.get("required") == ["prompt"]
