"""Runs the flows of ``qanvas.protocol`` over httpx: once with threads' sleep, once with asyncio's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from qanvas import errors
from qanvas.protocol import Flow, Patience, Request, T
from qanvas.records import Event
from qanvas.sse import EventStream


def _options(url: str, key: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url, "headers": headers, "follow_redirects": True}


@contextmanager
def _arguments(request: Request, url: str) -> Iterator[dict[str, Any]]:
    """What httpx is called with. The file of an upload is open meanwhile."""
    with ExitStack() as stack:
        found: dict[str, Any] = {
            "method": request.method,
            "url": request.path,
            "params": dict(request.params),
            "headers": dict(request.headers),
            "timeout": httpx.Timeout(30.0, connect=5.0, read=request.timeout),
        }
        if request.json is not None:
            found["json"] = request.json
        if (upload := request.upload) is not None:
            source = upload.source
            file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            found |= {"files": {"file": (upload.filename, file)}, "data": {"purpose": upload.purpose}}
        try:
            yield found
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise errors.InvalidAddress(f"{url!r} is no address: {error}") from None


class Transport:
    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = httpx.Client(**_options(url, key))

    def close(self) -> None:
        self._http.close()

    def run(self, flow: Flow[T]) -> T:
        """Send what the flow asks for until it returns."""
        try:
            request = next(flow)
            while True:
                time.sleep(request.delay)
                try:
                    with _arguments(request, self.url) as arguments:
                        response = self._http.request(**arguments)
                except httpx.TransportError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def events(self, stream: EventStream) -> Iterator[Event]:
        while not stream.has_ended():
            try:
                with self._opened(stream.request()) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if response.is_error:
                        response.read()
                        delay = stream.refused(response)
                    else:
                        for chunk in response.iter_bytes():
                            yield from stream.received(chunk)
                        delay = 0.0 if stream.has_ended() else stream.broken(None)
            except httpx.TransportError as error:
                delay = stream.broken(error)
            time.sleep(delay)

    def download(self, request: Request, into: Path, patience: Patience) -> None:
        """Write an answer to a file, which appears only when it is whole."""
        part = _part(into)
        try:
            with self._opened(request) as response, part.open("wb") as target:
                if response.is_error:
                    response.read()
                    raise errors.from_response(response)
                for chunk in response.iter_bytes():
                    target.write(chunk)
            part.replace(into)
        except httpx.TransportError as error:
            raise errors.from_transport(error, patience.url) from error
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _opened(self, request: Request) -> Iterator[httpx.Response]:
        with _arguments(request, self.url) as arguments, self._http.stream(**arguments) as response:
            yield response


class AsyncTransport:
    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = httpx.AsyncClient(**_options(url, key))

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Send what the flow asks for until it returns."""
        try:
            request = next(flow)
            while True:
                await asyncio.sleep(request.delay)
                try:
                    with _arguments(request, self.url) as arguments:
                        response = await self._http.request(**arguments)
                except httpx.TransportError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def events(self, stream: EventStream) -> AsyncIterator[Event]:
        while not stream.has_ended():
            try:
                async with self._opened(stream.request()) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if response.is_error:
                        await response.aread()
                        delay = stream.refused(response)
                    else:
                        async for chunk in response.aiter_bytes():
                            for event in stream.received(chunk):
                                yield event
                        delay = 0.0 if stream.has_ended() else stream.broken(None)
            except httpx.TransportError as error:
                delay = stream.broken(error)
            await asyncio.sleep(delay)

    async def download(self, request: Request, into: Path, patience: Patience) -> None:
        """Write an answer to a file, which appears only when it is whole."""
        part = _part(into)
        try:
            async with self._opened(request) as response:
                with part.open("wb") as target:
                    if response.is_error:
                        await response.aread()
                        raise errors.from_response(response)
                    async for chunk in response.aiter_bytes():
                        target.write(chunk)
            part.replace(into)
        except httpx.TransportError as error:
            raise errors.from_transport(error, patience.url) from error
        finally:
            part.unlink(missing_ok=True)

    @asynccontextmanager
    async def _opened(self, request: Request) -> AsyncIterator[httpx.Response]:
        with _arguments(request, self.url) as arguments:
            async with self._http.stream(**arguments) as response:
                yield response


def _part(into: Path) -> Path:
    return into.with_name(f".{into.name}.part")
