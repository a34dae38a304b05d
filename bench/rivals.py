"""Plain Celery doing the same work, and a route that does nothing: what Qanvas is measured against.

``python -m bench.rivals worker REDIS_URL FOLDER`` and ``python -m bench.rivals api REDIS_URL FOLDER PORT``.
"""

from __future__ import annotations

import socket
import sys
import time
from functools import cache
from pathlib import Path
from typing import TextIO

from celery import Celery
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from api.server.server import Server
from shared.ids import new_id

THREADS = 8  #: of Celery's worker; Qanvas's worker has as many slots in the same run
DONE = "done.log"  #: a line for each finished task: its id, and the time in seconds since 1970


def make_celery(redis_url: str, folder: Path) -> Celery:
    """One task: draw 8 x 8 pixels, write them as a PNG, and note the time."""
    app = Celery("rivals", broker=redis_url)
    app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)

    @app.task(name="draw")
    def draw(job_id: str, prompt: str, seed: int) -> None:
        from worker.engines.contract.engine import Image
        from worker.media.png import encode_png

        png = encode_png(Image(pixels=_pixels(seed)), {"prompt": prompt, "seed": str(seed), "job": job_id})
        (folder / f"{job_id}.png").write_bytes(png)
        print(job_id, time.time(), file=_done(folder))

    return app


def _pixels(seed: int):  # type: ignore[no-untyped-def]  # numpy is the worker's alone
    import numpy as np

    above, below = np.random.default_rng(seed).integers(0, 256, (2, 3))
    return np.repeat(np.linspace(above, below, 8).astype(np.uint8)[:, None, :], 8, axis=1)


@cache
def _done(folder: Path) -> TextIO:
    return (folder / DONE).open("a", buffering=1)


def make_app(redis_url: str, folder: Path) -> Flask:
    """``POST /noop`` does nothing, ``POST /draw`` sends the task."""
    app, draw = Flask("rivals"), make_celery(redis_url, folder).tasks["draw"]

    @app.post("/noop")
    def noop() -> ResponseReturnValue:
        return jsonify(id="noop", status="done")

    @app.post("/draw")
    def submit() -> ResponseReturnValue:
        job_id, given = new_id("job"), request.get_json()["input"]
        draw.apply_async((job_id, given["prompt"], given["seed"]))
        return jsonify(id=job_id, status="queued"), 202

    return app


def serve(redis_url: str, folder: Path, port: int) -> None:
    """The same server with the same threads as Qanvas's API."""
    app = make_app(redis_url, folder)
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = Server(
            listener, app, urgent_app=app, urgent=(), threads=64, slow=64, connections=1024, patience=30.0
        )
        server.run(grace=1.0)


def main(role: str, redis_url: str, folder: str, port: str = "0") -> None:
    if role == "api":
        serve(redis_url, Path(folder), int(port))
    else:
        options = ["--pool=threads", f"--concurrency={THREADS}", "--loglevel=WARNING"]
        make_celery(redis_url, Path(folder)).worker_main(["worker", *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
