"""Reading a request's body within its limit, and JSON from it that everything behind can hold."""

from __future__ import annotations

import json
import math
import time
from typing import Any, NoReturn

from flask import Request

from api.problems import BadRequest, UnsupportedMediaType
from shared.catalog.wording import escape
from shared.errors import FieldError, InvalidInput, TooLarge

#: levels of arrays and objects inside each other; jobs need four or five
MAX_DEPTH = 64

_CHUNK = 1 << 16
#: how much of a refused body is read and thrown away, so that the client is still there for the answer
_DRAIN_BYTES, _DRAIN_SECONDS = 256 << 20, 10.0


def read_json(request: Request, limit: int) -> Any:
    """The body as JSON. ``limit`` is in bytes.

    Raises UnsupportedMediaType, TooLarge, BadRequest (not JSON), InvalidInput (text no database can hold).
    """
    media_type = request.mimetype
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body must be JSON: send Content-Type: application/json, not {media_type or 'none'}"
        )
    refuse_encoding(request)
    return parse(read(request, limit))


def refuse_encoding(request: Request) -> None:
    """Raises UnsupportedMediaType for a compressed body."""
    if (encoding := request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower()) != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding!r} is not supported; send the body as it is")


def read(request: Request, limit: int) -> bytes:
    """All of the body. Raises TooLarge, and BadRequest when it ends before its Content-Length."""
    announced = request.content_length
    if announced is not None and announced > limit:
        drain(request)
        raise _too_large(limit)
    # Werkzeug's stream finds the end of any body, which takes longer than to parse that of a submission
    source = request.stream if announced is None else request.environ["wsgi.input"]
    chunks: list[bytes] = []
    size = 0
    while size != announced and (chunk := source.read(_CHUNK if announced is None else announced - size)):
        size += len(chunk)
        if size > limit:
            drain(request)
            raise _too_large(limit)
        chunks.append(chunk)
    if announced is not None and size < announced:
        raise BadRequest(f"the body ended after {size} of {announced} bytes")
    return b"".join(chunks)


def drain(request: Request) -> None:
    """Read and forget the rest of the body, within reason.

    A server that answers and closes while the client still sends makes many clients see a broken connection
    instead of the answer.
    """
    deadline, left = time.monotonic() + _DRAIN_SECONDS, _DRAIN_BYTES
    while left > 0 and time.monotonic() < deadline and (chunk := request.stream.read(_CHUNK)):
        left -= len(chunk)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limit} bytes; send large files with POST /v1/files and give their ids"
    )


def parse(body: bytes) -> Any:
    """JSON in the strict sense of RFC 8259. Raises BadRequest, and InvalidInput as ``check_text`` does."""
    try:
        text = body.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except _Refused as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise BadRequest("the body is not JSON that can be read: a number has too many digits") from None
    # without escapes there is neither NUL, which JSON has no other way to write, nor half a surrogate pair
    if "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:
        check_text(value)
    return value


class _Refused(ValueError):
    """Something that Python's parser would let through."""


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise _Refused(f"the number {text[:40]} is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise _Refused(f"the name {twice[:100]!r} is there twice in one object")
    return members


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_object)


def check_text(value: Any) -> None:
    """Raises InvalidInput for NUL characters and lone surrogates, BadRequest for too many levels."""
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(value, ())]
    while stack:
        item, path = stack.pop()
        if isinstance(item, str):
            _check_string(item, path)
        elif isinstance(item, dict | list):
            if len(path) >= MAX_DEPTH:
                raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
            if isinstance(item, dict):
                for name in item:
                    _check_string(name, path)
                stack.extend((member, (*path, name)) for name, member in item.items())
            else:
                stack.extend((member, (*path, index)) for index, member in enumerate(item))


def _check_string(text: str, path: tuple[str | int, ...]) -> None:
    if "\x00" in text:
        fault = "must not contain the character U+0000"
    elif text.isascii():
        return
    else:
        try:
            text.encode()
            return
        except UnicodeEncodeError:
            fault = "must be valid Unicode: it contains half of a surrogate pair"
    raise InvalidInput([FieldError(pointer(path), fault)])


def pointer(path: tuple[str | int, ...]) -> str:
    """A JSON pointer (RFC 6901) from the steps of a path."""
    return "".join(f"/{escape(step)}" for step in path).encode("utf-8", "replace").decode()
