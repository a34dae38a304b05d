"""``qanvas keys``: who may use the API."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from rich.table import Table

from cli import options
from cli.outputs import console

if TYPE_CHECKING:
    from shared.jobs.keys import KeyStore, Scope


@click.group()
def keys() -> None:
    """Make, list and revoke API keys, in the database itself."""


@keys.command()
@click.argument("name")
@click.option("--tenant", default="default", show_default=True, help="Whose jobs it may see.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("submit", "read"),
    show_default=True,
    help="What it may do: submit, read, or admin, which is all of it. May be given more than once.",
)
@options.data
def create(name: str, tenant: str, scopes: tuple[str, ...], data: Path | None) -> None:
    """Make a key and print its secret, which cannot be had again."""
    store = _store(data)
    given = cast("tuple[Scope, ...]", scopes)  # the store checks them
    key, secret = store.create(name, tenant=tenant, scopes=given)
    click.echo(
        f"{key.id} for tenant {tenant}: {', '.join(key.scopes)}; keep the secret, it is shown once", err=True
    )
    click.echo(secret)


@keys.command("list")
@options.data
def list_(data: Path | None) -> None:
    """Every key, without secrets."""
    table = Table("id", "name", "tenant", "scopes", "created", "last used", "revoked", box=None)
    for key in _store(data).list():
        times = map(_day, (key.created_at, key.last_used_at, key.revoked_at))
        table.add_row(key.id, key.name, key.tenant, ",".join(key.scopes), *times)
    console().print(table)


@keys.command()
@click.argument("key_id")
@options.data
def revoke(key_id: str, data: Path | None) -> None:
    """Let a key hold no more."""
    _store(data).revoke(key_id)
    click.echo(f"{key_id} holds no more", err=True)


def _store(data: Path | None) -> KeyStore:
    from shared.database import Database
    from shared.jobs.keys import KeyStore

    database = Database(options.settings_from(data=data).database_url)
    database.check_migrated()
    return KeyStore(database)


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
