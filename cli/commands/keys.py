"""``qanvas keys``: who may use the API."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from rich.table import Table

from cli import options
from cli.console import console
from cli.extras import needs

if TYPE_CHECKING:
    from shared.accounts.keys import KeyStore, Scope


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
    """Let a key hold no more. A server whose last key was revoked answers nobody until one is made."""
    store = _store(data)
    store.revoke(key_id)
    click.echo(f"{key_id} holds no more", err=True)
    if not store.any():
        click.echo(
            "it was the last one: make another with: qanvas keys create NAME, or let everybody on this "
            "machine in with: qanvas keys open",
            err=True,
        )


@keys.command("open")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.data
def open_(yes: bool, data: Path | None) -> None:
    """Revoke every key and need none any more: whoever reaches a server on loopback is its admin.

    That lasts until the next key is made. A server on another address goes on refusing all without a key.
    """
    store = _store(data)
    if not yes:
        click.confirm("Every key stops working, and everybody on this machine is admin. Go on?", abort=True)
    revoked = store.open()
    click.echo(f"{revoked} keys hold no more; on loopback the server answers without one", err=True)


@needs("server")
def _store(data: Path | None) -> KeyStore:
    from shared.accounts.keys import KeyStore

    database = options.open_database(options.settings_from(data=data))
    database.check_migrated()
    return KeyStore(database)


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
