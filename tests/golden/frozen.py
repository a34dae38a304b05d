"""What users see of Qanvas, as text: ``python -m tests.golden.frozen`` writes the files of this folder.

A change of these files is a change of what is promised. Where it is meant, write them anew and say so in the
changelog.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from api.app import create_app
from api.native.serialization import model as as_json
from cli.main import qanvas as command_line
from cli.settings_page import page
from shared.catalog.catalog import Catalog
from shared.db.engine import Database
from shared.settings import Settings

FOLDER = Path(__file__).parent


def openapi() -> str:
    """The OpenAPI document. Redis is not asked for it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(folder)
        database = Database(settings.database_url)
        database.migrate()
        app = create_app(settings)
        try:
            return _json(app.test_client().get("/openapi.json").json)
        finally:
            app.extensions["qanvas"].close()


def model_schemas() -> str:
    """Of each model that there is without an operator's file: its tasks, and the input of each."""
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(folder)
        database = Database(settings.database_url)
        database.migrate()
        found = {model.id: as_json(model, "cold") for model in Catalog(settings, database).list()}
        return _json(found)


def settings_table() -> str:
    return page()


def command_help() -> str:
    """What ``--help`` says of each command."""
    return "\n".join(_help(command_line, "qanvas", None))


def tables_sqlite() -> str:
    """What ``qanvas migrate`` makes of an empty database."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/qanvas.db")
        database.migrate()
        with database.read() as connection:
            rows = connection.execute(
                sa.text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name")
            )
            found = "\n".join(re.sub(r"\s+", " ", row.sql) + ";" for row in rows)
    return found + "\n"


def _help(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100)
    found = [context.get_help(), ""]
    if isinstance(command, click.Group):
        for below in sorted(command.commands):
            found += _help(command.commands[below], below, context)
    return found


def _settings(folder: str) -> Settings:
    return Settings.from_env(
        {"QANVAS_DATA": folder, "QANVAS_REDIS_URL": "redis://127.0.0.1:1/0", "QANVAS_FAKE_MODELS": "1"}
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


FROZEN: dict[str, Callable[[], str]] = {
    "openapi.json": openapi,
    "model_schemas.json": model_schemas,
    "settings.md": settings_table,
    "command_help.txt": command_help,
    "tables_sqlite.sql": tables_sqlite,
}

if __name__ == "__main__":
    for file, make in FROZEN.items():
        (FOLDER / file).write_text(make())
