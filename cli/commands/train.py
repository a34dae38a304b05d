"""``qanvas train``: a folder of pictures or a text becomes a model of the catalog."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cli import options
from cli.inputs import inputs_from
from cli.progress import watch
from qanvas.client import Client


@click.command()
@click.argument("dataset", type=click.Path(exists=True, path_type=Path))
@click.argument("inputs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--name", required=True, help="The id the trained model gets.")
@click.option("--task", help="train-diffusion, train-gan or train-text; by the dataset when not given.")
@click.option("--wait", is_flag=True, help="Follow the training until it ends.")
@options.server
def train(
    dataset: Path,
    inputs: tuple[str, ...],
    name: str,
    task: str | None,
    wait: bool,
    url: str | None,
    key: str | None,
    data: Path | None,
) -> None:
    """Train a model: `qanvas train ./emoji --name my-emoji minutes=30`.

    DATASET is a folder or zip of images with a metadata.jsonl (file_name, text), or a .txt with an empty
    line between texts.
    """
    with options.client_from(url, key, data) as client:
        model = task or _trainer_for(client, "text" if dataset.suffix == ".txt" else "archive")
        given = inputs_from(client, model, inputs)
        with _as_file(dataset) as path:
            click.echo(f"sending {path.stat().st_size / 1e6:.1f} MB …", err=True)
            given |= {"dataset": client.upload(path, purpose="fine-tune").id, "name": name}
        job = client.submit(model, given)
        if not wait:
            click.echo(job.id)
            return
        try:
            watch(client, job)
        except KeyboardInterrupt:
            click.echo(f"the training goes on: qanvas jobs {job.id}", err=True)
            raise
        click.echo(name)


def _trainer_for(client: Client, kind: str) -> str:
    """The first model of the server that learns from a dataset of this kind."""
    for model in client.models():
        if model.input_schema.get("properties", {}).get("dataset", {}).get("x-file") == kind:
            return model.id
    raise click.UsageError(
        f"this server trains no model from a file of the kind {kind}; say which with --task"
    )


@contextmanager
def _as_file(dataset: Path) -> Iterator[Path]:
    """One file to send: a folder becomes a zip, its pictures stored as they are."""
    if not dataset.is_dir():
        yield dataset
        return
    if not (dataset / "metadata.jsonl").is_file():
        raise click.UsageError(
            f'{dataset} has no metadata.jsonl: one line {{"file_name": …, "text": …}} per image'
        )
    with tempfile.TemporaryDirectory(prefix="qanvas-train-") as folder:
        path = Path(folder) / "dataset.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(dataset.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(dataset))
        yield path
