"""One thread of a worker computes on several cores: seen by the CPU time of each of its threads.

Every thread with a team of OpenMP helpers slows down all the others' parallel regions, so there must be one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from cli.embedded import children
from tests.servers import wait_until
from tests.worker.conftest import Shop
from tests.worker.test_training import training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores"),
]

#: a worker that writes down the CPU time of its threads: whose they are, only it can tell
PROGRAM = """
import json, pathlib, sys, threading, time
import psutil
from shared.settings import Settings
from worker.app import run_worker

def watch(path):
    names, seconds, this = {}, {}, psutil.Process()
    while True:
        names |= {thread.native_id: thread.name for thread in threading.enumerate()}
        seconds |= {thread.id: thread.user_time + thread.system_time for thread in this.threads()}
        new = path.with_suffix(".new")
        new.write_text(json.dumps([[names.get(id), seconds[id]] for id in seconds]))
        new.replace(path)
        time.sleep(0.1)

threading.Thread(target=watch, args=[pathlib.Path(sys.argv[1])], daemon=True, name="watch").start()
sys.exit(run_worker(Settings.from_env()))
"""


class Thread(NamedTuple):
    #: None for those that Python did not start: OpenMP's helpers
    name: str | None
    #: of CPU
    seconds: float


def test_the_engine_thread_alone_has_helpers_whatever_is_loaded_and_computed(
    shop: Shop, tmp_path: Path
) -> None:
    report = tmp_path / "threads.json"
    environment = {name: text for name, text in os.environ.items() if not name.startswith("QANVAS_")}
    settings = shop.settings.with_(slots=3, lease_seconds=20.0)
    worker = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(report)],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env=environment | settings.as_env() | {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"},
        preexec_fn=children.die_with_parent(),  # noqa: PLW1509 - two system calls
    )
    try:
        jobs = [shop.draw(model="starter-image", steps=12, seed=seed) for seed in range(6)]
        jobs += [shop.draw(model="starter-gan", num_images=4), shop.draw(model="starter-text", max_tokens=60)]
        jobs.append(training(shop, "apples", 30))
        jobs += [shop.draw(model="starter-image", steps=12, seed=seed) for seed in range(6)]
        ended = shop.wait_all(jobs, 150)
        assert {job.status for job in ended} == {"succeeded"}, [job.error for job in ended]
        written = time.time()
        wait_until(lambda: report.stat().st_mtime > written, 30, what="the threads to be written down")
        threads = [Thread(*one) for one in json.loads(report.read_text())]
    finally:
        psutil.Process(worker.pid).kill()
        worker.wait()
    engine = max(thread.seconds for thread in threads if thread.name == "kiln")
    helpers = [thread.seconds for thread in threads if thread.name is None and thread.seconds > 0.1]
    # two cores: one helper, which computes half of what is computed in parallel
    assert len(helpers) == 1, threads
    assert helpers[0] > 0.2 * engine, threads
    others = [thread.seconds for thread in threads if (thread.name or "").startswith("job-")]
    assert sum(others) < engine, threads
