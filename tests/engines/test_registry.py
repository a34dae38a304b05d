"""Engines are imported when jobs first need them, on whichever threads these run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_AT_ONCE = """
import sys, threading
from shared.catalog.families import engines
from worker.engines.registry import engine_named

names = sorted(engines()) * 2
barrier, found = threading.Barrier(len(names)), []

def ask(name):
    barrier.wait()
    try:
        found.append((name, id(engine_named(name))))
    except Exception as error:
        found.append((name, repr(error)))

threads = [threading.Thread(target=ask, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == len(names), found
assert len(set(found)) == len(engines()), found
"""


@pytest.mark.slow
def test_jobs_that_need_different_engines_for_the_first_time_at_once_all_get_them() -> None:
    """diffusers and transformers import each other's parts lazily: a thread may find one half imported."""
    ended = subprocess.run(
        [sys.executable, "-c", _AT_ONCE],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
