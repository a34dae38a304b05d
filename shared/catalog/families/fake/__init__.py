"""A model for drills and load tests: it draws without a model, and fails on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import resources

from shared.catalog.entries.family import Family
from shared.catalog.entries.model import Builtin, Model
from shared.catalog.tasks import read


def _fakes() -> Iterator[Model]:
    """``fake``, and the same with a fault that lies in the model, not in a job."""
    schema = read(resources.files(__name__) / "input.json")
    fake = Model(
        id="fake",
        task="text-to-image",
        engine="fake",
        source=Builtin(),
        input_schema=schema,
        output="image/png",
        license="Apache-2.0",
        description=schema["description"],
    )
    yield fake
    yield replace(
        fake,
        id="fake-hanging",
        options={"load_hangs": True},
        description="For drills: loading it never ends.",
    )


FAMILY = Family(name="fake", engines={"fake": "worker.engines.fake.engine:FakeEngine"}, fakes=_fakes)
