"""A real worker that can keep one model loaded, and a queue in which two take turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog.builtin import starter_folder
from shared.catalog.catalog import Catalog
from shared.jobs.entities import NewJob
from shared.states import Status
from tests.worker.conftest import Shop

#: jobs for each of the two models
EACH = 6


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_models_are_not_loaded_anew_for_each_job(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    weights = starter_folder("gan")
    assert weights is not None
    tables = [
        f'[models.{name}]\ntask = "unconditional-image-generation"\nfolder = "{weights}"\n'
        for name in ("one", "other")
    ]
    catalog = tmp_path / "catalog.toml"
    catalog.write_text("\n".join(tables))
    # no two models fit into one byte: loading one evicts the other
    settings = shop.settings.with_(catalog=catalog, memory_bytes=1, lease_seconds=20.0, slots=1)
    entry = Catalog(settings, shop.database)
    new = [
        NewJob(
            tenant="default",
            task="unconditional-image-generation",
            model=name,
            queue="default",
            input=entry.check_input(entry.get(name), {"seed": seed}),
        )
        for seed in range(EACH)
        for name in ("one", "other")
    ]
    ids = shop.submit(new, tickets=False)
    shop.tickets.send("default", len(ids))
    shop.worker(catalog=catalog, memory_bytes=1, lease_seconds=20.0, slots=1)
    jobs = shop.wait_all(ids, 150)
    assert {job.status for job in jobs} == {Status.SUCCEEDED}, [job.error for job in jobs]
    loads = [job.model for job in jobs if job.load_seconds]
    # in turn it would be one for each job
    assert 2 <= len(loads) <= 4, loads
