"""Every error that Qanvas raises on purpose.

* QanvasError
  - ConfigurationError         the operator's settings cannot work; the message tells the cure
    · MissingExtra             an optional dependency is not installed
  - InvalidInput               well-formed but invalid, with one ``FieldError`` for each fault
    · IdempotencyMismatch      another body under a key that was used before
  - Unauthorized               no key, or a key that does not hold
  - Forbidden                  the key lacks a scope
  - NotFound                   unknown, or another tenant's
  - Conflict                   not possible in this state
    · InvalidTransition        the job's status does not allow it
  - TooLarge                   more bytes than the operator allows
  - OverLimit                  more than the tenant's limits allow now
  - Unavailable                the database or Redis does not answer now
  - Refused                    a URL, or where it leads, that no user may send this server to
  - Unreachable                who a user's URL names does not answer, or not within the limits
  - DeviceFault                the worker's device computes nothing more in this process
  - LeaseLost                  this worker no longer owns the job: write nothing
  - JobError                   how an attempt ended badly, as the job's ``error`` shows it
    · OutOfMemory
    · ModelUnavailable
    · DeadlineExceeded

Foreign errors are translated at one border each: the database's in ``shared.db.driver_errors``, torch's in
``worker.engines``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

ErrorType = Literal[
    "out-of-memory",
    "invalid-input",
    "model-unavailable",
    "worker-lost",
    "deadline",
    "canceled",
    "dependency-failed",
    "internal",
]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of one field: a JSON pointer into the request body and what is allowed there."""

    pointer: str
    detail: str


class QanvasError(Exception):
    """The root: everything below is ours, everything else is a bug."""


class ConfigurationError(QanvasError):
    pass


class MissingExtra(ConfigurationError):
    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; install it with: pip install 'qanvas[{extra}]'")


class InvalidInput(QanvasError):
    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.pointer or '/'}: {e.detail}" for e in self.errors))

    @classmethod
    def at(cls, pointer: str, detail: str) -> InvalidInput:
        return cls([FieldError(pointer, detail)])


class IdempotencyMismatch(InvalidInput):
    def __init__(self, key: str) -> None:
        super().__init__(
            [FieldError("", f"Idempotency-Key {key!r} was used with another request; use a new key")]
        )


class Unauthorized(QanvasError):
    pass


class Forbidden(QanvasError):
    pass


class NotFound(QanvasError):
    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        super().__init__(f"no {kind} {key!r}")


class Conflict(QanvasError):
    pass


class InvalidTransition(Conflict):
    def __init__(self, job_id: str, status: str, wanted: str) -> None:
        super().__init__(f"job {job_id} is {status}; it cannot be {wanted}")


class TooLarge(QanvasError):
    pass


class OverLimit(QanvasError):
    """``name`` and ``size`` say which limit; after ``retry_after`` seconds it may be worth trying again."""

    def __init__(self, name: str, size: int, detail: str, *, retry_after: int) -> None:
        self.name, self.size, self.retry_after = name, size, max(1, retry_after)
        super().__init__(f"{detail}; the limit is {size}, which the operator sets with: qanvas tenants set")


class Unavailable(QanvasError):
    """``message`` is what everybody may read. ``detail`` is for the operator's log, which shows both: where
    something lies, and what a driver or a library said. ``retry_after`` is in seconds."""

    retry_after: ClassVar[int] = 2

    def __init__(self, message: str, detail: str = "") -> None:
        self.message, self.detail = message, detail
        super().__init__(f"{message}: {detail}" if detail else message)

    @property
    def public(self) -> str:
        """The message for those who ask from outside, without the detail."""
        return f"{self.message}; the server's log says why" if self.detail else self.message


class Refused(QanvasError):
    pass


class Unreachable(QanvasError):
    """``temporary``: another time may be better."""

    def __init__(self, message: str, *, temporary: bool = True) -> None:
        super().__init__(message)
        self.temporary = temporary


class DeviceFault(QanvasError):
    """``said``: the words by which it is known. It says nothing of the job in which it shows."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(f"the device failed for good ({said}); only a new process can use it again")


class LeaseLost(QanvasError):
    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of job {job_id} is no longer this worker's")


class JobError(QanvasError):
    """An attempt's failure in the words of the contract's ``error`` object."""

    type: ErrorType = "internal"
    retryable: bool = False

    def __init__(self, message: str, *, type: ErrorType | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if type is not None:
            self.type = type
        if retryable is not None:
            self.retryable = retryable


class OutOfMemory(JobError):
    type: ErrorType = "out-of-memory"
    retryable = True


class ModelUnavailable(JobError):
    type: ErrorType = "model-unavailable"
    retryable = True


class DeadlineExceeded(JobError):
    type: ErrorType = "deadline"
    retryable = False
