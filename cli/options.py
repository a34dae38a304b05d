"""Options that several commands share, and settings with options laid over the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qanvas.client import Client
from shared.settings import PREFIX, Settings

if TYPE_CHECKING:
    from shared.db.engine import Database

Command = TypeVar("Command", bound=Callable[..., Any])

data = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="The data folder (QANVAS_DATA, ./data)."
)
host = click.option("--host", help="Address to listen on (QANVAS_HOST, 127.0.0.1).")
port = click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for any (QANVAS_PORT, 8000)."
)


def server(command: Command) -> Command:
    """``--url`` and ``--key`` of the commands that talk to a server."""
    url = click.option("--url", help="Where the server is (QANVAS_URL; else the one on the data folder).")
    key = click.option("--key", help="Key to show (QANVAS_KEY).")
    return url(key(data(command)))


def settings_from(**options: object) -> Settings:
    """Settings from the environment, and over them every option that was given."""
    given = {PREFIX + name.upper(): str(value) for name, value in options.items() if value is not None}
    return Settings.from_env({**os.environ, **given})


def keep_private(settings: Settings) -> int:
    """Let nobody else read what this process writes; returns the umask of before."""
    from shared.storage import private_files

    return private_files.keep_private(settings)


def open_database(settings: Settings) -> Database:
    """The database, for commands that use nothing else of the data folder."""
    from shared.db.engine import Database

    if settings.database_url.startswith("sqlite"):
        keep_private(settings)
    return Database(settings.database_url)


def _server_on(data: Path) -> str | None:
    """The URL of the server that runs on a data folder of this machine."""
    try:
        from cli.embedded.folder import DataFolder
    except ModuleNotFoundError:  # the client alone is installed, which runs no server
        return None
    return DataFolder(data).server_url()


def client_from(url: str | None, key: str | None, data: Path | None) -> Client:
    """A client of the server that is named, or runs on the data folder, or listens where the settings say."""
    settings = settings_from(url=url, key=key, data=data)
    where = settings.url or _server_on(settings.data) or f"http://{settings.host}:{settings.port}"
    # who types a command wants to know at once that no server answers
    return Client(where, settings.key, patience=0)
