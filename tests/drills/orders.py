"""What a drill submits: jobs that must succeed, fail, be tried again, and wait for each other."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: what webhooks are signed with
SECRET = "whsec_" + base64.b64encode(b"a secret for drills alone").decode()
#: orders after which the pattern begins anew
_PATTERN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job to submit, and how it may end."""

    key: str
    body: dict[str, Any]
    endings: set[str] = field(default_factory=lambda: {"succeeded"})
    cancel: bool = False
    #: a client reads its event stream to the end, coming back with Last-Event-ID as often as need be
    follow: bool = False
    #: keys of the orders that it depends on, and of the one whose output it draws upon
    needs: tuple[str, ...] = ()
    reads: str | None = None

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The keys of all that must have succeeded before it runs."""
        return self.needs if self.reads is None else (*self.needs, self.reads)

    @property
    def failing(self) -> int:
        """How many of its attempts fail in a way that is worth another one."""
        return int(self.body["input"].get("fail_attempts", 0))

    def submission(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """The body of its request; ``ids`` are those of the jobs that it waits for, by key."""
        body = dict(self.body)
        if self.needs:
            body["depends_on"] = [ids[key] for key in self.needs]
        if self.reads is not None:
            body["input"] = {**body["input"], "image": {"job": ids[self.reads], "output": 0}}
        return body


def orders(count: int, seed: int, hooks: str | None = None) -> list[Order]:
    """Mostly pictures that must succeed; some long enough to be handed on, some that fail, some canceled;
    chains, a fan that opens and closes, and pictures drawn upon those of other jobs.

    Every third has a webhook at the URL ``hooks``, with its key as the path."""
    dice = random.Random(seed)
    made: list[Order] = []
    for number in range(count):
        order = _order(number, f"drill-{seed}-", dice)
        if hooks is not None and number % 3 == 0:
            order.body["webhook"] = {"url": f"{hooks}/{order.key}", "secret": SECRET}
        made.append(order)
    return made


def _order(number: int, prefix: str, dice: random.Random) -> Order:
    given: dict[str, Any] = {
        "prompt": f"drill {number}",
        "seed": dice.randrange(1 << 31),
        "width": 16,
        "height": 16,
        "steps": dice.randint(1, 6),
        "step_seconds": round(dice.uniform(0.0, 0.08), 3),
    }
    body: dict[str, Any] = {"model": "fake", "input": given, "max_attempts": 50}
    said = _trouble(number, body, dice) | _place(number, prefix)
    return Order(key=f"{prefix}{number}", body=body, follow=number % 10 == 1, **said)


def _trouble(number: int, body: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Make the job long, or fail; how it may end then, where that is not well."""
    given = body["input"]
    match number % _PATTERN:
        case 3 | 21:  # survives several faults, from checkpoint to checkpoint
            given |= {"steps": 40, "step_seconds": 0.06}
        case 5 | 17 | 35:  # is tried again after a wait, and then succeeds
            given["fail_attempts"] = dice.randint(1, 3)
        case 7:
            given["fail_at_step"] = given["steps"]
            return {"endings": {"failed"}}
        case 13:
            given |= {"steps": 60, "step_seconds": 0.05}
            return {"endings": {"canceled", "succeeded"}, "cancel": True}
        case 19:  # runs out of attempts
            given["fail_attempts"], body["max_attempts"] = 9, 2
            return {"endings": {"failed"}}
        case 20 if number % (4 * _PATTERN) == 20:  # kills two workers, then is given up
            given["crash_at_step"], body["max_attempts"] = 1, 2
            return {"endings": {"failed"}}
        case 20 if number % (4 * _PATTERN) == _PATTERN + 20:  # hangs a worker, past its time-out
            given["hang_at_step"], body["timeout"] = 1, 1.0
            return {"endings": {"failed"}}
    return {}


def _place(number: int, prefix: str) -> dict[str, Any]:
    """What the job waits for, and how it may end where that may end badly."""

    def before(*distances: int) -> tuple[str, ...]:
        return tuple(f"{prefix}{number - distance}" for distance in distances)

    match number % _PATTERN:
        case 6 | 22 | 23 | 24 | 36:  # chains, on one that is tried again, and on a long one
            return {"needs": before(1)}
        case 8 | 9:  # a chain on one that fails
            return {"needs": before(1), "endings": {"failed"}}
        case 14:  # goes the way of one that is canceled, or is too late to be
            return {"needs": before(1), "endings": {"failed", "succeeded"}}
        case 26 | 38:  # upon the picture of the end of a chain
            return {"reads": before(2)[0]}
        case 28 | 29 | 30 | 31 as place:  # a fan from 27 …
            return {"needs": before(place - 27)}
        case 32:  # … and back
            return {"needs": before(1, 2, 3), "reads": before(4)[0]}
        case 33:  # upon the picture of one that waited itself
            return {"reads": before(1)[0]}
    return {}
