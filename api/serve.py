"""The server process: granian with one or more processes of the application."""

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
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import MPServer

from api.app import create_app
from api.desks import at_desks
from api.services import Services
from shared.database import Database
from shared.errors import ConfigurationError
from shared.jobs.keys import KeyStore
from shared.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: seconds that requests may take to end when the server is told to stop
_GRACE = 5
#: seconds that a thread computes while another wants to: a submission waits for its turn some twenty times,
#: after each of its calls of the database, while a large body is parsed
_GIVE_WAY = 0.001
#: files that a process has open besides its connections: the database's, outputs, libraries
_OTHER_FILES = 512

_LOG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"_granian": {"handlers": ["stderr"], "level": "ERROR", "propagate": False}},
}

log = logging.getLogger(__name__)


def serve(settings: Settings, workers: int = 1) -> None:
    """Answer requests until SIGTERM or SIGINT. Raises ConfigurationError when it cannot start.

    The parent holds one end of a pipe, its processes the other: when the parent is told to stop, or dies,
    they see the pipe close, and whoever waits for a job is answered at once.
    """
    address = check(settings)
    _allow_files(settings)
    alive, lifeline = multiprocessing.Pipe(duplex=False)
    server = _Server(
        "api.app:create_app",
        address=address[0],
        port=address[1],
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        workers=workers,
        # a stream has a thread that sleeps: that costs memory, and those who do not wait nothing at all
        blocking_threads=settings.api_threads + settings.api_streams,
        blocking_threads_idle_timeout=60,
        # connections beyond this wait in the kernel, not in memory
        backpressure=settings.api_threads + settings.api_streams,
        workers_kill_timeout=_GRACE,
        log_level=LogLevels.error,  # it takes this, whatever the configuration says
        log_dictconfig=_LOG,
        log_access=False,
    )
    server.lifeline = lifeline
    log.info("listening on http://%s:%d", *address)
    server.serve(target_loader=partial(_load, settings, alive, lifeline, os.getpid()), wrap_loader=False)


def _allow_files(settings: Settings) -> None:
    """Every connection is an open file, and the usual limit of 1,024 is for programs that have few."""
    wanted = settings.api_threads + settings.api_streams + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("%d open files are allowed, %d streams need %d", hard, settings.api_streams, wanted)


def check(settings: Settings) -> tuple[str, int]:
    """The address to listen on, once it is sure that the server can and may. Raises ConfigurationError."""
    database = Database(settings.database_url)
    try:
        database.check_migrated()
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


class _Server(MPServer):
    """Closes the lifeline as soon as a signal asks it to stop."""

    lifeline: Connection

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        self.lifeline.close()
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]


def _load(settings: Settings, alive: Connection, lifeline: Connection, parent: int) -> WSGIApplication:
    """The application, in a process of its own, which ends when ``parent`` is dead, even if it is by now."""
    lifeline.close()
    logging.getLogger().setLevel(settings.log_level)
    sys.setswitchinterval(_GIVE_WAY)
    app = create_app(settings)
    services: Services = app.extensions["qanvas"]
    Finalize(services, services.close, exitpriority=0)  # multiprocessing runs no atexit
    threading.Thread(
        target=_follow_parent, args=(services, alive, parent), name="lifeline", daemon=True
    ).start()
    gc.collect()
    gc.freeze()  # what is there now stays: it is not looked through for garbage again
    return at_desks(app, services.desks)


def _follow_parent(services: Services, alive: Connection, parent: int) -> None:
    alive.poll(None)  # returns when the parent closes its end, in the signal's handler or by dying
    services.stop_waiting()
    while os.getppid() == parent:  # a dying parent closes its pipe before it is gone
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)
