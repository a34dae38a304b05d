"""What a client wants to be told of a job, and where: the ``webhook`` of a submission. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import InvalidInput, Refused
from shared.outward.addresses import check_url
from shared.states import Status
from shared.webhooks.signing import key_of

#: the type of the event that each status is told as; a job in another status sends no event
EVENTS: Mapping[Status, str] = {
    status: f"job.{status.value}"
    for status in (Status.RUNNING, Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED)
}
#: the types that a client receives when it names none: every end of a job
ENDINGS = tuple(name for status, name in EVENTS.items() if status is not Status.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """The URL that the events of a job are sent to, and the types that are sent, as ``job.succeeded``."""

    url: str
    events: tuple[str, ...]
    #: None for the tenant's default secret
    secret: str | None = field(default=None, repr=False)


def read(given: Mapping[str, Any] | None, *, allow_private: bool) -> Webhook | None:
    """The ``webhook`` of a submission that fits its schema. Raises InvalidInput."""
    if given is None:
        return None
    try:
        check_url(given["url"], allow_private=allow_private)
    except Refused as error:
        raise InvalidInput.at("/webhook/url", str(error)) from None
    if (secret := given.get("secret")) is not None:
        key_of(secret)
    return Webhook(url=given["url"], events=tuple(given.get("events", ENDINGS)), secret=secret)
