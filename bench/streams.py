"""What open event streams cost one API process: ``python -m bench.streams`` writes bench/results/streams.md.

Memory for each stream; how long a lone client's submission takes with no stream open and with a thousand,
in turn, in one run; and how long an event of every job takes to reach all the streams.
"""

from __future__ import annotations

import argparse
import selectors
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import load, report
from bench.subjects import QanvasSubject
from tests.servers import Valkey, wait_until


@dataclass(frozen=True, slots=True)
class Round:
    """Times in milliseconds, memory in bytes; ``idle`` with no stream open, ``open`` with all of them."""

    idle: Sequence[float]
    open: Sequence[float]
    memory: float  #: for each stream
    reach: float  #: until one event of each job had reached its stream


def measure(subject: QanvasSubject, ids: Sequence[str], submits: int) -> Round:
    """One round, with a stream for each of these jobs."""
    api = psutil.Process(subject.processes[-1])
    idle = _submit(subject, submits)
    before, threads = _memory(api), _threads(api)
    with _streams(subject.settings.port, ids) as lines:
        memory = (_memory(api) - before) / len(ids)
        opened = _submit(subject, submits)
        reach = _reach(subject, ids, lines)
    # a stream ends when the server next writes to it: wait, so that the next round begins as this one did
    wait_until(lambda: _threads(api) < threads + len(ids) // 10, 120, what="the streams' threads to end")
    return Round(idle, opened, memory, reach)


def _submit(subject: QanvasSubject, count: int) -> list[float]:
    """From one client with one connection, one after the other."""
    samples = load.as_fast_as_possible(subject.settings.port, subject.request, count, connections=1)
    return [1000 * (one.answered - one.due) for one in load.expect(samples, 202)]


def _memory(api: psutil.Process) -> int:
    """What would be free if the API ended."""
    return sum(int(one.memory_full_info().uss) for one in (api, *api.children(recursive=True)))


def _threads(api: psutil.Process) -> int:
    return sum(one.num_threads() for one in (api, *api.children(recursive=True)))


@contextmanager
def _streams(port: int, ids: Sequence[str]) -> Iterator[dict[socket.socket, bytes]]:
    """Open streams, each past its first event."""
    lines: dict[socket.socket, bytes] = {}
    try:
        for job_id in ids:
            line = socket.create_connection(("127.0.0.1", port), timeout=60)
            line.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            lines[line] = b""
        _until_all_said(lines, b"event: status")
        yield lines
    finally:
        for line in lines:
            line.close()


def _until_all_said(lines: dict[socket.socket, bytes], word: bytes) -> None:
    with selectors.DefaultSelector() as poll:
        for line in lines:
            poll.register(line, selectors.EVENT_READ)
        missing = set(lines)
        while missing:
            if not (ready := poll.select(60)):
                raise RuntimeError(f"{len(missing)} streams said nothing")
            for key, _ in ready:
                ours = key.fileobj
                assert isinstance(ours, socket.socket)
                if not (chunk := ours.recv(1 << 16)):
                    raise RuntimeError(f"a stream ended: {lines[ours]!r}")
                lines[ours] += chunk
                if word in lines[ours]:
                    missing.discard(ours)
                    poll.unregister(ours)


def _reach(subject: QanvasSubject, ids: Sequence[str], lines: dict[socket.socket, bytes]) -> float:
    began = time.monotonic()
    for job_id in ids:
        subject.events.publish(job_id, "token", {"text": "now"})
    _until_all_said(lines, b"event: token")
    return 1000 * (time.monotonic() - began)


def run(streams: int, rounds: int, submits: int) -> list[Round]:
    """Over SQLite and a Valkey; no worker, so that no job ends."""
    folder = Path(tempfile.mkdtemp(prefix="qanvas-streams-"))
    (folder / "valkey").mkdir()
    valkey = Valkey(folder / "valkey").start()
    try:
        assert valkey.process is not None
        url = f"sqlite:///{folder / 'qanvas.db'}"
        subject = QanvasSubject("Qanvas", folder, url, valkey.url, [valkey.process.pid])
        subject.settings = subject.settings.with_(api_streams=2 * streams)  # one client gets half of them
        with subject.server():
            ids = [sample.id for sample in subject.submit(streams)]
            return [measure(subject, ids, submits) for _ in range(rounds)]
    finally:
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)


def table(streams: int, found: Sequence[Round], machine: str) -> str:
    """Markdown: the median of the rounds."""

    def middle(name: str, percent: int) -> float:
        cut: list[float] = [
            statistics.quantiles(getattr(one, name), n=100, method="inclusive")[percent - 1] for one in found
        ]
        return statistics.median(cut)

    p50, p99 = (middle("idle", 50), middle("open", 50)), (middle("idle", 99), middle("open", 99))
    memory = statistics.median(one.memory for one in found)
    reach = statistics.median(one.reach for one in found)
    said = (
        f"Memory for each stream: {memory / 1024:.0f} KiB. An event of each of the {streams:,} jobs, "
        f"published at once, had reached every stream after {reach:.0f} ms."
    )
    rows = [
        "| one client submits | p50 ms | p99 ms |",
        "| --- | ---: | ---: |",
        f"| no stream open | {p50[0]:.2f} | {p99[0]:.2f} |",
        f"| {streams:,} streams open | {p50[1]:.2f} | {p99[1]:.2f} |",
        f"| ratio | {p50[1] / p50[0]:.2f} | {p99[1] / p99[0]:.2f} |",
    ]
    return "\n".join([machine, "", *rows, "", said])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--submits", type=int, default=1000, help="submissions for each figure")
    parser.add_argument("--quick", action="store_true", help="a short look; writes nothing")
    options = parser.parse_args()
    machine = report.machine()
    rounds, submits = (1, 200) if options.quick else (options.rounds, options.submits)
    text = table(options.streams, run(options.streams, rounds, submits), machine)
    print(text)
    if not options.quick:
        report.write_result("streams", text)


if __name__ == "__main__":
    main()
