"""Makes a starter again, as a job of Qanvas: ``python -m starters.make image|image-more|gan|text``.

Start a server first (``qanvas up``). The data is drawn or written here, uploaded, and trained on by the
server's worker; the trained model comes back as ``model.zip`` and replaces the weights in ``starters/``.
``image-more`` does not begin anew: it trains the server's ``starter-image`` further, on the same data.
Should this program end while the job runs, call it again with ``--job`` and the job's id.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.following import follow as changes
from qanvas.client import Client, Job
from qanvas.errors import QanvasError

HERE = Path(__file__).parent
#: written by people, kept when the weights are replaced
KEPT = {"README.md", "qanvas.json"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one starter is trained; ``write`` puts its data into the file it is given."""

    #: the folder of ``starters`` whose weights are replaced
    folder: str
    task: str
    data: str
    write: Callable[[Path], object]
    input: Mapping[str, Any]


def _emoji(target: Path) -> None:
    from starters.emoji import draw_all, write_archive

    write_archive(draw_all(), target)


def _faces(target: Path) -> None:
    from starters.gan_faces import write_archive

    write_archive(target)


def _glosses(target: Path) -> None:
    from starters.glosses import write_corpus

    write_corpus(target)


RECIPES = {
    "image": Recipe(
        "image",
        "train-diffusion",
        "emoji.zip",
        _emoji,
        {
            "seed": 0,
            "channels": [96, 160, 192],
            "text_layers": 3,
            "batch_size": 64,
            "steps": 5400,
            "autoencoder_steps": 6500,
            "autoencoder_batch_size": 16,
        },
    ),
    "image-more": Recipe(
        "image",
        "train-diffusion",
        "emoji.zip",
        _emoji,
        {"base_model": "starter-image", "seed": 2, "batch_size": 64, "steps": 2200, "learning_rate": 0.001},
    ),
    "gan": Recipe(
        "gan",
        "train-gan",
        "faces.zip",
        _faces,
        {"seed": 1, "minutes": 26, "image_size": 32, "width": 32},
    ),
    "text": Recipe(
        "text",
        "train-text",
        "glosses.txt",
        _glosses,
        {"seed": 1, "minutes": 24, "vocabulary": 2048, "learning_rate": 0.003},
    ),
}


def submit(client: Client, name: str, recipe: Recipe) -> Job:
    """Upload the data and queue the training; the job."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / recipe.data
        recipe.write(data)
        dataset = client.upload(data, purpose="fine-tune").id
    given = {**recipe.input, "dataset": dataset, "name": f"{name}-again"}
    return client.submit(None, given, options={"task": recipe.task})


def follow(client: Client, job: Job) -> Job:
    """Show how far the job is until it has ended. Raises SystemExit when it ended badly."""
    shown = None
    for now in changes(client, job):
        job, progress = now, (now.raw["progress"] or {})
        line = f"{job.status} {progress.get('stage', '')} {progress.get('step', '')}".strip()
        if line != shown:
            print(f"\r{line:<60}", end="", file=sys.stderr, flush=True)
            shown = line
    print(file=sys.stderr)
    if job.status != "succeeded":
        raise SystemExit(f"the job {job.id} is {job.status}: {job.error.message if job.error else ''}")
    return job


def fetch(job: Job, folder: Path) -> None:
    """Replace the weights in ``folder`` by the job's model, and lay its other outputs beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        for output in job.outputs:
            if output.media_type == "application/zip":
                archive = Path(scratch) / "model.zip"
                output.save(archive)
                for old in folder.iterdir() if folder.is_dir() else ():
                    if old.name not in KEPT:
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(folder)
    for output in job.outputs:
        if output.media_type == "image/png":
            output.save(folder / f"samples-{output.index}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a starter again, as a job of a running Qanvas.")
    parser.add_argument(
        "name",
        choices=sorted(RECIPES),
        help="what to train; image-more trains the server's starter-image "
        f"{RECIPES['image-more'].input['steps']:,} steps further and replaces the weights of image, it does "
        "not make them from nothing",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    parser.add_argument("--key", default="", help="an API key, where the server wants one")
    parser.add_argument("--job", help="fetch this job's model instead of training a new one")
    parser.add_argument("--folder", type=Path, help="where the model goes (default: the starter's own)")
    given = parser.parse_args()
    with Client(given.url, given.key) as client:
        try:
            job = client.job(given.job) if given.job else submit(client, given.name, RECIPES[given.name])
            print(job.id)
            fetch(follow(client, job), given.folder or HERE / RECIPES[given.name].folder)
        except QanvasError as error:
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
