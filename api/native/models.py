"""The catalog."""

from __future__ import annotations

from flask import Response

from api.native import schemas, serialization
from api.routing.operations import Answer, Call, Group
from shared.catalog.entries.model import Model
from shared.errors import NotFound

group = Group("models")


def _present(call: Call, model: Model) -> dict[str, object]:
    loaded = any(model.known_as in worker.models for worker in call.services.workers())
    return serialization.model(model, "loaded" if loaded else call.services.catalog.state(model))


@group.operation(
    "GET",
    "/v1/models",
    summary="List models",
    query={
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000},
        "cursor": {**schemas.SHORT, "description": "`next_cursor` of the page before."},
    },
    answers={200: Answer("Those of the server, then one's own by id. Mostly all of them.", schemas.MODELS)},
)
def list_models(call: Call) -> Response:
    limit = call.query["limit"]
    found = call.services.catalog.page(call.tenant, after=call.query.get("cursor"), limit=limit + 1)
    shown = serialization.fitting(_present(call, model) for model in found[:limit])
    following = shown[-1]["id"] if len(shown) < len(found) else None
    return serialization.answer_list("data", shown, object="list", next_cursor=following)


@group.operation(
    "GET", "/v1/models/{id}", summary="One model", answers={200: Answer("The model.", schemas.MODEL)}
)
def get_model(call: Call, id: str) -> Response:
    if "\x00" in id or len(id) > 200:
        raise NotFound("model", id[:100])
    return serialization.answer(_present(call, call.services.catalog.get(id, call.tenant)))
