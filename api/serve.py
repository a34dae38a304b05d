"""``qanvas api``: a parent process that starts, watches and stops the processes that serve."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from types import FrameType

from api.app import create_app
from api.http.concurrency import limited
from api.server.server import Server
from api.usecases.services import Services
from shared.accounts.keys import KeyStore
from shared.catalog.catalog import Catalog
from shared.db.engine import Database
from shared.errors import ConfigurationError
from shared.settings import Settings

#: seconds that requests may take to end when the server is told to stop
_GRACE = 5
#: seconds that a thread computes while another wants to: a submission waits for its turn some twenty times,
#: after each of its calls of the database, while a large body is parsed
_GIVE_WAY = 0.001
#: files that a process has open besides its connections: the database's, outputs, libraries
_OTHER_FILES = 512
#: connections of a process for which few threads are set
_FEWEST = 1024
#: connections that wait in the kernel to be accepted
_BACKLOG = 1024
#: paths that are answered whatever else the server is busy with
_URGENT = frozenset({b"/healthz", b"/readyz"})

log = logging.getLogger(__name__)


def serve(settings: Settings, workers: int = 1) -> None:
    """Answer requests until SIGTERM or SIGINT. Raises ConfigurationError when it cannot start.

    The parent holds one end of a pipe, its processes the other: when the parent is told to stop, or dies,
    they see the pipe close, and whoever waits for a job is answered at once. One that ends by itself ends the
    others, too, with status 1: whoever started the server starts it again.
    """
    host, port = check(settings)
    connections = _allow_connections(settings)
    listeners = _listeners(host, port, workers)
    alive, lifeline = multiprocessing.Pipe(duplex=False)
    told = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        told.set()
        lifeline.close()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # a fork shares what is imported by now; elsewhere than on Linux, system libraries do not survive one
    multiprocessing.set_start_method("fork" if sys.platform == "linux" else "spawn", force=True)
    processes = [
        multiprocessing.Process(
            name=f"api-{index}",
            target=_serve_here,
            args=(settings, listeners, index, connections, alive, lifeline),
        )
        for index in range(workers)
    ]
    for process in processes:
        process.start()
    for listener in listeners:
        listener.close()
    log.info("listening on http://%s:%d", host, port)
    sentinels = [process.sentinel for process in processes]
    while not told.is_set() and not wait_for(sentinels, timeout=1.0):
        pass
    _end(processes, lifeline)
    if not told.is_set():
        sys.exit("qanvas: a process of the API ended by itself; its own lines say why")


def _end(processes: Sequence[BaseProcess], lifeline: Connection) -> None:
    lifeline.close()
    until = time.monotonic() + _GRACE + 1
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _allow_connections(settings: Settings) -> int:
    """How many connections each process may have; each is an open file, of which the system allows so many.

    Requests that are worked on or wait may have half of them; twice as many as there are threads for, so that
    what comes at once waits its turn and is not refused. The other half is for clients that are silent."""
    wanted = max(_FEWEST, 4 * (settings.api_threads + settings.api_streams))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < files:
        files = hard
        wanted = max(files - _OTHER_FILES, files // 2)
        log.warning(
            "%d open files are allowed, so that each process of the API has %d connections at once; "
            "raise the hard limit (ulimit -Hn)",
            hard,
            wanted,
        )
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return wanted


def check(settings: Settings) -> tuple[str, int]:
    """The address to listen on, once it is sure that the server can and may. Raises ConfigurationError."""
    database = Database(settings.database_url)
    try:
        database.check_migrated()
        Catalog(settings, database)  # its faults are one line here, and a traceback of each process later
        if not settings.is_loopback and not KeyStore(database).any():
            raise ConfigurationError(
                f"{settings.host} can be reached from other machines and there is no key yet; "
                "make one with: qanvas keys create NAME"
            )
    finally:
        database.dispose()
    return _free(settings.host.strip("[]"), settings.port)


def _free(host: str, port: int) -> tuple[str, int]:
    """The numeric address; refused when another server has it, which several could share unnoticed."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return str(address[0]), int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port or QANVAS_PORT"
        ) from None


def _listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """A listening socket for each process. Linux spreads connections evenly over several of one address;
    elsewhere the processes share one socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    own = sys.platform == "linux"
    made = [
        socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, reuse_port=own, dualstack_ipv6=both
        )
        for _ in range(count if own else 1)
    ]
    return made if own else made * count


def _serve_here(
    settings: Settings,
    listeners: Sequence[socket.socket],
    index: int,
    connections: int,
    alive: Connection,
    lifeline: Connection,
) -> None:
    """Serve on one listener, in a process of its own; until the parent closes ``lifeline``, or dies."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the parent does then is not for its children
    lifeline.close()
    listener = listeners[index]
    for other in {*listeners} - {listener}:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(_GIVE_WAY)
    app = create_app(settings)
    services: Services = app.extensions["qanvas"]
    server = Server(
        listener,
        limited(app, services.active),
        urgent_app=app,
        urgent=_URGENT,
        threads=settings.api_threads + settings.api_streams,
        slow=settings.api_streams,
        connections=connections,
        patience=settings.api_client_seconds,
    )

    def stop(*_: object) -> None:
        services.stop_waiting()
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_follow_parent, args=(alive, stop), name="lifeline", daemon=True).start()
    gc.collect()
    gc.freeze()  # what is there now stays: it is not looked through for garbage again
    server.run(_GRACE)
    services.close()


def _follow_parent(alive: Connection, stop: Callable[[], None]) -> None:
    alive.poll(None)  # returns when the parent closes its end, in the signal's handler or by dying
    stop()
    time.sleep(2 * _GRACE)
    os._exit(1)  # what hangs must not outlive the parent
