"""A disk that is full or read-only: the worker's trouble, which says nothing of the job that met it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

#: no space, no quota, mounted read-only
_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TEXTS = tuple(os.strerror(number) for number in _ERRNOS)


def no_room(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that nothing more can be written.

    Of errors that carry no number of the system, only those of safetensors are read: it passes on the
    system's words, while others may hold words that a user chose."""
    return any(_says_so(one) for one in _chain(error))


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _ERRNOS
    return type(error).__name__ == "SafetensorError" and any(text in str(error) for text in _TEXTS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
