"""What a key and its tenant may use: rates are counted in Redis, storage in the database.

Where Redis is away rates are not enforced, with a line in the log: a queue that persists jobs without Redis
shall not refuse them for want of a counter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from shared.errors import OverLimit
from shared.messaging.client import connect

if TYPE_CHECKING:
    from api.auth.caller import Caller
    from shared.accounts.tenants import Tenants

log = logging.getLogger(__name__)

#: seconds that Redis may take to count, and for which it is left alone when it did not
_PATIENCE, _PAUSE = 0.25, 1.0
#: seconds for which a tenant's storage is believed
_STORAGE_FRESH = 10.0
#: seconds after which somebody may have deleted something
_STORAGE_AGAIN = 60

Rate = Literal["requests", "submissions"]
_SAYS: dict[Rate, str] = {
    "requests": "this key made too many requests in the last minute",
    "submissions": "this key submitted too many jobs in the last minute",
}


class Rates:
    """A moving window of a minute for each key and rate, exact to the entry, shared by all API processes."""

    def __init__(self, redis_url: str) -> None:
        pool = connect(redis_url, timeout=_PATIENCE).connection_pool
        storage = RedisStorage(
            "redis://", connection_pool=pool, key_prefix="qanvas:rate", wrap_exceptions=True
        )
        self._limiter = MovingWindowRateLimiter(storage)
        self._away_until: float | None = None

    def spend(self, rate: Rate, who: str, most: int, cost: int = 1) -> None:
        """Count ``cost`` against the ``most`` that ``who`` may have in a minute; 0 is no limit.

        Raises OverLimit; then nothing was counted."""
        if not most or (self._away_until is not None and time.monotonic() < self._away_until):
            return
        window = RateLimitItemPerMinute(most)
        try:
            if self._limiter.hit(window, rate, who, cost=cost):
                self._back()
                return
            again = self._limiter.get_window_stats(window, rate, who).reset_time - time.time()
        except StorageError as error:
            self._away(error)
            return
        more = f" and asks for {cost} more" if cost > 1 else ""
        raise OverLimit(f"{rate}-per-minute", most, f"{_SAYS[rate]}{more}", retry_after=int(again) + 1)

    def _away(self, error: StorageError) -> None:
        if self._away_until is None:
            log.warning("rates are not enforced while Redis does not count: %s", error.storage_error)
        self._away_until = time.monotonic() + _PAUSE

    def _back(self) -> None:
        if self._away_until is not None:
            self._away_until = None
            log.warning("Redis counts again, rates are enforced")


class Quotas:
    """The bytes that tenants keep: summed up at times, and what this process adds meanwhile."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._lock = threading.Lock()
        self._used: dict[str, tuple[float, int]] = {}
        #: bytes that are on their way into the storage
        self._reserved: Counter[str] = Counter()

    def check(self, tenant: str, adding: int = 1) -> None:
        """Raises OverLimit when so many bytes more are too many."""
        with self.reserve(tenant) as room:
            room.grow(adding)

    def reserve(self, tenant: str) -> Reservation:
        """Room for what is about to be stored, to be used as a context: what is not kept is given back."""
        return Reservation(self, tenant)

    def move(self, tenant: str, *, reserved: int = 0, used: int = 0) -> None:
        """Count so many bytes more as reserved, and as used; fewer where negative."""
        with self._lock:
            self._move(tenant, reserved, used)

    def _move(self, tenant: str, reserved: int, used: int) -> None:
        self._reserved[tenant] += reserved
        if not self._reserved[tenant]:
            del self._reserved[tenant]
        if (known := self._used.get(tenant)) is not None:
            self._used[tenant] = (known[0], known[1] + used)

    def take(self, tenant: str, count: int) -> None:
        """Reserve so many bytes more. Raises OverLimit."""
        most = self._tenants.limits(tenant).storage_bytes
        if not most:
            self.move(tenant, reserved=count)
            return
        used = self._sum(tenant)
        with self._lock:
            reserved = self._reserved[tenant]
            if used + reserved + count <= most:
                self._move(tenant, count, 0)
                return
        coming = f", and {reserved} more are on their way" if reserved else ""
        raise OverLimit(
            "storage-bytes",
            most,
            f"tenant {tenant} keeps {used} bytes of jobs, files and outputs{coming}; delete some first",
            retry_after=_STORAGE_AGAIN,
        )

    def forget(self, tenant: str) -> None:
        """Something was deleted: sum up again when it next matters."""
        with self._lock:
            self._used.pop(tenant, None)

    def _sum(self, tenant: str) -> int:
        known = self._used.get(tenant)
        if known is None or known[0] < time.monotonic():
            used = self._tenants.stored_bytes(tenant)
            with self._lock:
                known = self._used[tenant] = (time.monotonic() + _STORAGE_FRESH, used)
        return known[1]


class Reservation:
    """Bytes of a tenant's quota that a request takes while what it sends comes in."""

    def __init__(self, quotas: Quotas, tenant: str) -> None:
        self._quotas, self._tenant = quotas, tenant
        self._reserved = 0

    def grow(self, count: int) -> None:
        """Take so many bytes more. Raises OverLimit when they are too many."""
        self._quotas.take(self._tenant, count)
        self._reserved += count

    def keep(self) -> None:
        """All of it is stored now."""
        self._quotas.move(self._tenant, reserved=-self._reserved, used=self._reserved)
        self._reserved = 0

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reserved:
            self._quotas.move(self._tenant, reserved=-self._reserved)
            self._reserved = 0


class Limits:
    """Everything that a request may run into."""

    def __init__(self, tenants: Tenants, redis_url: str) -> None:
        self._tenants = tenants
        self._rates = Rates(redis_url)
        self.storage = Quotas(tenants)

    def request(self, caller: Caller) -> None:
        """Raises OverLimit when the key made too many requests."""
        self._rates.spend("requests", caller.counted_as, self._tenants.limits(caller.tenant).requests)

    def submission(self, caller: Caller, jobs: int = 1) -> None:
        """Raises OverLimit when the key submitted too many jobs, or its tenant's storage is full."""
        limits = self._tenants.limits(caller.tenant)
        self._rates.spend("submissions", caller.counted_as, limits.submissions, jobs)
        self.storage.check(caller.tenant)
