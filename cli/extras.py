"""Commands that need more packages than the client: which extra brings them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from shared.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")

#: packages of this project: that one of these is missing is a bug, and no extra brings it
_OURS = ("api", "cli", "qanvas", "shared", "worker")


def needs(extra: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function whose imports fail for want of a package name the extra. Raises ConfigurationError."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            try:
                return function(*arguments, **named)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] in _OURS:
                    raise
                message = f'this command needs more packages: pip install "qanvas[{extra}]"'
                raise ConfigurationError(message) from error

        return call

    return decorate
