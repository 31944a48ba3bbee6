"""SQL that SQLite and PostgreSQL spell differently, said once.

Leases are compared with the database's clock alone: the clocks of two nodes may differ by more
than a lease lasts, the database has one.
"""

from typing import Any

from sqlalchemy import BigInteger, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

MICROS = 1_000_000
"""Microseconds in a second."""


class now_micros(FunctionElement[int]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock: µs since the epoch, UTC, the same throughout one statement.

    SQLite knows milliseconds. PostgreSQL's `statement_timestamp` is stable, so an index can serve a
    comparison with it; where a statement waited for a row it lags, which only keeps a lease longer.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(now_micros, "sqlite")
def _sqlite_now(_element: now_micros, _compiler: SQLCompiler, **_options: Any) -> str:
    # 2440587.5 is the epoch's Julian day. The product is exact to some µs, so round to the ms.
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000"


@compiles(now_micros, "postgresql")
def _postgresql_now(_element: now_micros, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)"


def insert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can have ON CONFLICT; `dialect` is `Database.dialect`."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def micros(seconds: float) -> int:
    """Seconds of a setting as the microseconds of a column."""
    return round(seconds * MICROS)
