"""A real API and a real worker for the client's tests, and its two kinds behind one face."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qanvas import AsyncClient, Client
from shared.settings import Settings
from tests.servers import Qanvas, Valkey, drill_settings, free_port


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, valkey: Valkey
) -> Iterator[Settings]:
    """The settings of a running API and worker."""
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'qanvas.db')}"
    settings = drill_settings(folder, url, valkey.url).with_(port=free_port(), upkeep_seconds=0.3)
    processes = [Qanvas([name], settings, folder / f"{name}.out") for name in ("api", "worker")]
    with Client(f"http://127.0.0.1:{settings.port}", "") as client:
        client.queues()  # which waits until the server answers
    yield settings
    for process in processes:
        process.stop()
        process.clean()


class Face:
    """A client whose calls are made in this thread: the asynchronous one's through its event loop, and what
    it iterates over as a list."""

    def __init__(self, client: Client | AsyncClient, call: Callable[[Any], Any]) -> None:
        self.client, self._call = client, call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **more: self._call(getattr(self.client, name)(*arguments, **more))

    def of(self, thing: Any, method: str, *arguments: Any, **more: Any) -> Any:
        """What a method of a job or an output gives."""
        return self._call(getattr(thing, method)(*arguments, **more))


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Face]]:
    """``connect(url, key, patience=…) -> Face``, of each kind."""
    loop = asyncio.new_event_loop()
    opened: list[Any] = []

    async def collected(things: Any) -> list[Any]:
        return [one async for one in things]

    def call(result: Any) -> Any:
        if inspect.isasyncgen(result):
            return loop.run_until_complete(collected(result))
        if inspect.iscoroutine(result):
            return loop.run_until_complete(result)
        return list(result) if inspect.isgenerator(result) else result

    def connect(url: str, key: str = "", **more: Any) -> Face:
        client = (Client if request.param == "sync" else AsyncClient)(url, key, **more)
        opened.append(client)
        return Face(client, call)

    yield connect
    for client in opened:
        call(client.close())
    loop.close()


@pytest.fixture
def client(connect: Callable[..., Face], server: Settings) -> Face:
    return connect(f"http://127.0.0.1:{server.port}")
