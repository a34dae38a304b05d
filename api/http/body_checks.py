"""What a body may be: JSON in the strict sense of RFC 8259, of text that everything behind can hold."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from flask import Request

from api.http import large_json
from api.http.large_json import MAX_DEPTH, Scan
from api.http.problems import BadRequest, UnsupportedMediaType
from shared.errors import FieldError, InvalidInput
from shared.schema.messages import escape

_CHUNK = 1 << 16
#: how much of a refused body is read and thrown away, so that the client is still there for the answer
_DRAIN_BYTES, _DRAIN_SECONDS = 256 << 20, 10.0


def refuse_encoding(request: Request) -> None:
    """Raises UnsupportedMediaType for a compressed body."""
    if (encoding := request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower()) != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is"
        )


def drain(request: Request) -> None:
    """Read and forget the rest of the body, within reason.

    A server that answers and closes while the client still sends makes many clients see a broken connection
    instead of the answer.
    """
    deadline, left = time.monotonic() + _DRAIN_SECONDS, _DRAIN_BYTES
    while left > 0 and time.monotonic() < deadline and (chunk := request.stream.read(_CHUNK)):
        left -= len(chunk)


def parse(body: bytes) -> Any:
    """A small body as JSON, in one step. Raises BadRequest, and InvalidInput as ``check_text`` does."""
    with _refusing():
        value = _DECODER.decode(body.decode())
    # without escapes there is neither NUL, which JSON has no other way to write, nor half a surrogate pair
    if b"\\u" in body or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        check_text(value)
    return value


def parse_large(text: str, scan: Scan) -> Any:
    """A large body as JSON, in many steps; ``scan`` has seen its bytes. Raises as ``parse`` does."""
    with _refusing():
        value = _LARGE_DECODER.decode(text)
    if scan.has_code_points or scan.containers > MAX_DEPTH:
        check_text(value)
    return value


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a body, in our words."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None
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


def not_utf8(error: UnicodeDecodeError, before: int = 0) -> BadRequest:
    """``before``: bytes of the body before those that the error counts."""
    return BadRequest(f"the body is not UTF-8: {error.reason} at byte {before + error.start}")


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
        raise _Refused(f"the name {_first_repeated(pairs)[:100]!r} is there twice in one object")
    return members


def _first_repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no name is there twice")


_HOOKS: dict[str, Any] = {
    "parse_constant": _no_constant,
    "parse_float": _finite,
    "object_pairs_hook": _object,
}
_DECODER = json.JSONDecoder(**_HOOKS)
_LARGE_DECODER = large_json.decoder(**_HOOKS)


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
