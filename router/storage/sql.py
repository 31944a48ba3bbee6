"""SQL that SQLite and PostgreSQL spell differently, said once.

Leases are compared with the database's clock alone: the clocks of two nodes may differ by more
than a lease lasts, the database has one.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Dialect,
    Select,
    Table,
    Text,
    case,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

MICROS = 1_000_000
"""Microseconds in a second."""

_LARGEST = 2**63 - 1  # number that a database takes


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


class unindexed(FunctionElement[str]):  # noqa: N801 - reads as the SQL that it is
    """A column in a condition that is only checked, beside one that finds few rows.

    SQLite, which has no statistics, takes all rows of an account for fewer than twenty ids.
    """

    type = Text()
    inherit_cache = True


@compiles(unindexed)
def _plain(element: unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(unindexed, "sqlite")
def _without_index(element: unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


def now_after(column: ColumnElement[int], *rows: ColumnElement[bool]) -> ColumnElement[int]:
    """`now_micros`, but later than `column` in all of these rows: its order is that of creation.

    SQLite's clock does not move between two statements of one millisecond. An index must have
    `column` behind what `rows` asks for.
    """
    next_one = select(func.coalesce(func.max(column), 0) + 1).where(*rows).scalar_subquery()
    return case((now_micros() > next_one, now_micros()), else_=next_one)


def paged(query: Select[Any], offset: int, limit: int) -> Select[Any]:
    """A part of a list, whatever numbers a client asked for.

    Of the keys alone, by an index that has all that is asked for: the rows before the page are
    skipped there, and never read.
    """
    return query.offset(max(0, min(offset, _LARGEST))).limit(max(0, min(limit, _LARGEST)))


def insert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can have ON CONFLICT; `dialect` is `Database.dialect`."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


async def execute_many(
    connection: AsyncConnection, statement: ClauseElement, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Execute an INSERT for each row: the values of its bound parameters in their order.

    SQLAlchemy's own way takes as long for each row as SQLite takes to write it. It would convert
    types; the schema has none that a driver does not take as they are.
    """
    sql, names = _compiled(statement, connection.dialect)
    given = rows if names is None else [dict(zip(names, row, strict=True)) for row in rows]
    await connection.exec_driver_sql(sql, given)


@cache
def _compiled(statement: ClauseElement, dialect: Dialect) -> tuple[str, tuple[str, ...] | None]:
    """The driver's SQL, and the names of its parameters where the driver wants them by name."""
    compiled = statement.compile(dialect=dialect)
    return str(compiled), None if dialect.positional else tuple(compiled.params)


def micros(seconds: float) -> int:
    """Seconds of a setting as the microseconds of a column."""
    return round(seconds * MICROS)
