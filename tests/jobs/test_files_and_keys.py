"""Rows of uploaded files and of API keys, on every database."""

from __future__ import annotations

import pytest

from shared.accounts.keys import KeyStore
from shared.db.engine import Database
from shared.db.tables import keys
from shared.errors import InvalidInput, NotFound
from shared.files.job_inputs import references
from shared.files.store import FileStore, NewFile
from shared.ids import new_id


def new_file(tenant: str = "default", purpose: str = "dataset") -> NewFile:
    return NewFile(
        tenant=tenant,
        filename="a.zip",
        purpose=purpose,
        media_type="application/zip",
        bytes=3,
        sha256="0" * 64,
        key="files/x",
    )


def test_a_file_is_its_tenants_alone(database: Database) -> None:
    store = FileStore(database)
    file = store.add(new_file("ann"))
    assert store.get(file.id, tenant="ann") == file
    with pytest.raises(NotFound):
        store.get(file.id, tenant="bob")
    with pytest.raises(NotFound):
        store.delete(file.id, tenant="bob")
    assert store.delete(file.id, tenant="ann") == "files/x"
    with pytest.raises(NotFound):
        store.get(file.id)


def test_files_are_listed_newest_first_in_pages(database: Database) -> None:
    store = FileStore(database)
    made = [store.add(new_file(purpose="vision" if n == 1 else "dataset")).id for n in range(3)]
    assert [file.id for file in store.list("default")] == made[::-1]
    assert [file.id for file in store.list("default", after=made[2], limit=1)] == [made[1]]
    assert [file.id for file in store.list("default", purpose="vision")] == [made[1]]


def test_a_key_holds_until_it_is_revoked_and_its_secret_is_not_kept(database: Database) -> None:
    store = KeyStore(database)
    assert not store.any()
    key, secret = store.create("laptop", tenant="ann", scopes=["read"])
    assert secret.startswith("qk_")
    found = store.verify(secret)
    assert found is not None
    assert (found.id, found.tenant, found.scopes) == (key.id, "ann", ("read",))
    with database.read() as connection:
        assert secret not in str(connection.execute(keys.select()).all())
    assert store.verify(secret + "x") is None
    [listed] = store.list()
    assert listed.last_used_at is not None
    store.revoke(key.id)
    assert store.verify(secret) is None
    assert not store.any()
    with pytest.raises(NotFound):
        store.revoke(key.id)


def test_an_unknown_scope_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput, match="submit, read, admin"):
        KeyStore(database).create("x", scopes=["everything"])  # type: ignore[list-item]


def test_references_are_found_wherever_they_stand() -> None:
    file, out, job = new_id("file"), new_id("out"), new_id("job")
    given = {"a": file, "b": [{"c": out}, 3, None], "d": {"job": job, "output": 0}, "e": "file_1", "f": True}
    assert references(given) == {file, out, job}
