"""What all tables have in common: metadata with names of constraints, types of columns, partial indexes."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

Json = sa.JSON(none_as_null=True)
Id = sa.String(40)
Name = sa.String(255)


def partial_index(
    name: str, where: sa.ColumnElement[bool], *columns: sa.ColumnElement[object], unique: bool = False
) -> None:
    """Add an index over the rows that fulfil ``where``, on every database."""
    sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)
