"""Tasks of a decoder that misbehave as a file can make a decoder misbehave; named by tests alone."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.media.tasks import TASKS as REAL
from worker.media.wire import Files, Report, Task, Undecodable


def fine(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    """Which process forked this one."""
    return str(os.getppid()).encode()


def segfault(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    ctypes.string_at(0)
    return b""


def abort(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    os.abort()


def sleep(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    _say_who(files)
    time.sleep(600)
    return b""


def compute(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    _say_who(files)
    while True:
        pass


def _say_who(files: Files) -> None:
    files.targets[0].write(str(os.getpid()).encode())
    files.targets[0].flush()


def allocate(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    held = []
    while True:
        held.append(b"x" * 2**24)


def write(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    while True:
        files.targets[0].write(b"x" * 2**16)


def raise_(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    known = {"KeyError": KeyError, "Recursion": RecursionError, "Refused": Undecodable}
    raise known[arguments["what"]]("a\nb")


def report(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    for _ in range(20_000):
        report(3, 10)
    return b""


def answer_without_end(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    for descriptor in range(3, 64):
        try:
            line = socket.socket(fileno=descriptor)
        except OSError:
            continue
        while True:
            line.sendall(b"\xff" * 2**16)
    return b""


def look_around(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    """What the process could reach: descriptors, variables, and whether it can start another."""
    links = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the name is all that there is
        try:
            links[name] = str(Path(f"/proc/self/fd/{name}").readlink())
        except OSError:
            continue
    found = {
        "descriptors": links,
        "environment": dict(os.environ),
        "group": os.getpgid(0),
        "ended for memory": int(Path("/proc/self/oom_score_adj").read_text()),
    }
    files.targets[0].write(json.dumps(found).encode())
    return b""


def picture(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    """The real task, but for files that say which of the others they are to stand for."""
    said = files.sources[0].read(16).strip().decode("latin-1")
    files.sources[0].seek(0)
    return TASKS.get(said, REAL["picture"])(files, arguments, report)


TASKS: Mapping[str, Task] = {
    **REAL,
    "picture": picture,
    "fine": fine,
    "segfault": segfault,
    "abort": abort,
    "sleep": sleep,
    "compute": compute,
    "allocate": allocate,
    "write": write,
    "raise": raise_,
    "answer without end": answer_without_end,
    "look around": look_around,
    "report": report,
}
