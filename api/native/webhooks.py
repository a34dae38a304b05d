"""What became of a job's webhooks, sending one again, and the secret that signs them."""

from __future__ import annotations

from flask import Response

from api.native import schemas, serialization
from api.native.jobs import own_job
from api.routing.operations import Answer, Call, Group
from shared.errors import NotFound
from shared.ids import is_id

group = Group("webhooks")

#: a job tells of each attempt at most twice
_MOST = 500


@group.operation(
    "GET",
    "/v1/jobs/{id}/webhooks",
    summary="A job's webhooks, the newest first",
    answers={200: Answer("Each with its tries and what the receiver said last.", schemas.DELIVERIES)},
)
def list_webhooks(call: Call, id: str) -> Response:
    job = own_job(call, id)
    found = call.services.outbox.of_job(job.id, limit=_MOST)
    return serialization.answer({"data": [serialization.delivery(one) for one in found]})


@group.operation(
    "POST",
    "/v1/webhooks/{id}/replay",
    summary="Deliver a webhook again",
    scope="submit",
    answers={202: Answer("It is sent soon, with the same id and body.", schemas.DELIVERY_OR_RECEIPT)},
)
def replay_webhook(call: Call, id: str) -> Response:
    if not is_id("evt", id):
        raise NotFound("webhook event", id[:100])
    shown = serialization.delivery(call.services.outbox.replay(id, tenant=call.tenant))
    if not call.caller.may_read:
        shown = {name: shown[name] for name in ("id", "object", "status")}
    return serialization.answer(shown, 202)


@group.operation(
    "GET",
    "/v1/webhooks/default/secret",
    summary="The secret that signs webhooks which name none of their own",
    scope="submit",
    answers={200: Answer("Made when it is first asked for.", schemas.WEBHOOK_SECRET)},
)
def get_webhook_secret(call: Call) -> Response:
    headers = {"Cache-Control": "private, no-store"}
    return serialization.answer({"key": call.services.outbox.secret(call.tenant)}, headers=headers)
