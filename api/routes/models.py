"""The catalog."""

from __future__ import annotations

from flask import Response

from api import present, schemas
from api.operations import Answer, Call, Group
from shared.catalog.models import Model
from shared.errors import NotFound

group = Group("models")


def _present(call: Call, model: Model) -> dict[str, object]:
    loaded = any(model.known_as in worker.models for worker in call.services.workers())
    return present.model(model, "loaded" if loaded else call.services.catalog.state(model))


@group.operation(
    "GET", "/v1/models", summary="List models", answers={200: Answer("All models.", schemas.MODELS)}
)
def list_models(call: Call) -> Response:
    found = call.services.catalog.list(call.tenant)
    return present.answer({"object": "list", "data": [_present(call, model) for model in found]})


@group.operation(
    "GET", "/v1/models/{id}", summary="One model", answers={200: Answer("The model.", schemas.MODEL)}
)
def get_model(call: Call, id: str) -> Response:
    if "\x00" in id or len(id) > 200:
        raise NotFound("model", id[:100])
    return present.answer(_present(call, call.services.catalog.get(id, call.tenant)))
