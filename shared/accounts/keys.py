"""API keys: shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Row

from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import keys, marks
from shared.errors import InvalidInput, NotFound
from shared.ids import new_id

Scope = Literal["submit", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

#: seconds between two notes of when a key was last used: a write for each request would be too many
_NOTE_EVERY = 60.0

#: the mark of a database in which a key was made
_KEYED = "keyed"

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: float
    last_used_at: float | None
    revoked_at: float | None


class KeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, *, tenant: str = "default", scopes: Sequence[Scope] = SCOPES
    ) -> tuple[Key, str]:
        """A new key and its secret, which cannot be had again.

        Raises InvalidInput for unknown scopes, and for names that are none.
        """
        check_tenant(tenant)
        if not (name.isprintable() and 0 < len(name) <= 200):
            raise InvalidInput.at("/name", "must be 1 to 200 printable characters")
        if unknown := [scope for scope in scopes if scope not in SCOPES]:
            raise InvalidInput.at("/scopes", f"unknown scope {unknown[0]!r}; allowed are {', '.join(SCOPES)}")
        secret = f"qk_{secrets.token_urlsafe(32)}"
        row: dict[str, Any] = {
            "id": new_id("key"),
            "tenant": tenant,
            "name": name,
            "hash": _hash(secret),
            "scopes": list(scopes),
        }
        with self._database.write() as connection:
            row["created_at"] = self._database.now(connection)
            connection.execute(sa.insert(keys), row)
            dialects.insert_if_missing(connection, marks, {"name": _KEYED, "since": row["created_at"]})
            made = connection.execute(sa.select(keys).where(keys.c.id == row["id"])).one()
        return _record(made), secret

    def list(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        with self._database.read() as connection:
            return list(map(_record, connection.execute(sa.select(keys).order_by(keys.c.id))))

    def revoke(self, key_id: str) -> None:
        """The key holds no more. Raises NotFound."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            moved = connection.execute(
                sa.update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now)
            ).rowcount
        if not moved:
            raise NotFound("key", key_id)

    def verify(self, secret: str) -> Key | None:
        """The key this secret belongs to, or None when there is none or it was revoked."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            query = sa.select(keys).where(keys.c.hash == _hash(secret), keys.c.revoked_at.is_(None))
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.last_used_at is None or row.last_used_at < now - _NOTE_EVERY:
            with self._database.write() as connection:
                connection.execute(sa.update(keys).where(keys.c.id == row.id).values(last_used_at=now))
        return _record(row)

    def is_keyed(self) -> bool:
        """Whether a key was ever made, and nobody has opened the server since: then it answers to keys alone,
        though the last of them was revoked."""
        with self._database.read() as connection:
            query = sa.select(marks.c.name).where(marks.c.name == _KEYED)
            return connection.execute(query).first() is not None

    def open(self) -> int:
        """Revoke every key and let a server on loopback answer without one, until the next key is made; how
        many keys held until now."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            holding = sa.update(keys).where(keys.c.revoked_at.is_(None))
            revoked = connection.execute(holding.values(revoked_at=now)).rowcount
            connection.execute(sa.delete(marks).where(marks.c.name == _KEYED))
        return revoked

    def any(self) -> bool:
        """Whether there is a key that holds."""
        with self._database.read() as connection:
            query = sa.select(keys.c.id).where(keys.c.revoked_at.is_(None)).limit(1)
            return connection.execute(query).first() is not None


def check_tenant(tenant: str) -> None:
    """Raises InvalidInput."""
    if _TENANT.fullmatch(tenant) is None:
        raise InvalidInput.at("/tenant", "must be a name of 1 to 100 letters, digits and . _ -")


def _hash(secret: str) -> str:
    # 256 random bits need no slow hash
    return hashlib.sha256(secret.encode()).hexdigest()


def _record(row: Row[Any]) -> Key:
    known = {name: value for name, value in row._mapping.items() if name != "hash"}
    return Key(**known | {"scopes": tuple(row.scopes)})
