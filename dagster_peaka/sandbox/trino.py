"""Trino's SQL on SQLite: the part of it that the sandbox answers, exactly, or not at all."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dagster_peaka.sandbox.trino_builder import query_builder_to_sql
from dagster_peaka.sandbox.trino_expressions import Statement
from dagster_peaka.sandbox.trino_parser import parse, placeholders
from dagster_peaka.sandbox.trino_queries import Queries, Resolve
from dagster_peaka.sandbox.trino_scope import Column, Place, Query, TableRef
from dagster_peaka.sandbox.trino_types import Cell, SqlError, show
from dagster_peaka.sandbox.trino_udfs import AGGREGATES, UDFS

__all__ = ["Column", "Place", "QueryResult", "SqlError", "TableRef", "query_builder_to_sql", "run"]

_MOST_FILES = 10  # SQLite's own limit of attached databases
_LOCK_PATIENCE = 5.0  # seconds to wait for a writer of a source file
_STEPS_BETWEEN_LOOKS = 5_000  # of SQLite's machine, between two looks at the clock


@dataclass
class QueryResult:
    """Columns, and rows of values as JSON carries them (None, bool, int, float, str)."""

    columns: list[Column]
    rows: list[tuple[bool | Cell, ...]]


def run(
    statement: str,
    resolve: Resolve,
    *,
    bindings: Sequence[str] = (),
    timeout: float = 60.0,
    max_rows: int | None = None,
) -> QueryResult:
    """The result of one query.

    `resolve` says where a table's rows are, None for a table that does not exist. `bindings` are the values of
    the statement's ?s, each of them a varchar. `timeout` is in seconds; `max_rows` cuts the result.

    Raises SqlError for whatever is wrong with the statement or outside of the subset, and nothing else.

    >>> run("SELECT upper('abc') AS x, 7 / 2 AS y", lambda table: None).rows
    [('ABC', 3)]
    """
    deadline = time.monotonic() + timeout
    try:
        tree = parse(statement)
        order = placeholders(statement)
        if len(order) != len(bindings):
            raise SqlError(f"Incorrect number of parameters: expected {len(order)} but found {len(bindings)}")
        queries = Queries(resolve, Statement(order, time.time_ns() // 1_000_000 * 1_000))
        query = queries.compile(tree)
        sql = queries.sql(query)
    except RecursionError:
        raise SqlError("The statement is nested too deeply for this sandbox") from None
    return _execute(sql, queries.paths, bindings, query, deadline, max_rows)


def _execute(
    sql: str, paths: Sequence[str], bindings: Sequence[str], query: Query, deadline: float, max_rows: int | None
) -> QueryResult:
    failures: list[SqlError] = []
    try:
        with closing(_connect(paths, failures, deadline)) as connection:
            cursor = connection.execute(sql, tuple(bindings))
            rows = cursor.fetchall() if max_rows is None else cursor.fetchmany(max_rows)
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError, MemoryError) as error:
        if failures:
            raise failures[0] from None
        raise _explained(error, deadline) from None
    kinds = [output.type for output in query.outputs]
    return QueryResult(
        [Column(output.name, str(output.type), output.source) for output in query.outputs],
        [tuple(show(cell, kind) for cell, kind in zip(row, kinds, strict=True)) for row in rows],
    )


def _explained(error: Exception, deadline: float) -> SqlError:
    text = str(error)
    if "interrupted" in text and time.monotonic() >= deadline:
        return SqlError("Query exceeded its time limit")
    if "integer overflow" in text:
        return SqlError("bigint overflow in sum()")
    if "locked" in text or "busy" in text:
        return SqlError(f"A source file is locked by another process for more than {_LOCK_PATIENCE:g} seconds; try again")
    return SqlError(f"The sandbox's SQLite cannot run this statement: {text}")


def _connect(paths: Sequence[str], failures: list[SqlError], deadline: float) -> sqlite3.Connection:
    if len(paths) > _MOST_FILES:
        raise SqlError(f"The statement reads {len(paths)} files; this sandbox joins at most {_MOST_FILES} sources")
    connection = sqlite3.connect(":memory:", timeout=_LOCK_PATIENCE, isolation_level=None, uri=True)
    try:
        for index, path in enumerate(paths):
            _attach(connection, index, path)
        for name, (arguments, function) in UDFS.items():
            connection.create_function(name, arguments, _reporting(function, failures))
        for name, make in AGGREGATES.items():
            connection.create_aggregate(name, 1, make)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() >= deadline, _STEPS_BETWEEN_LOOKS)
    except BaseException:
        connection.close()
        raise
    return connection


def _attach(connection: sqlite3.Connection, index: int, path: str) -> None:
    try:
        connection.execute(f"ATTACH ? AS s{index}", (f"{Path(path).absolute().as_uri()}?mode=ro",))
    except sqlite3.Error as error:
        raise SqlError(f"The source file {path} cannot be opened: {error}") from None


def _reporting(function: Callable[..., Cell], failures: list[SqlError]) -> Callable[..., Cell]:
    """SQLite forgets what a function raised, so it is kept for the caller."""

    def call(*values: Cell) -> Cell:
        try:
            return function(*values)
        except SqlError as error:
            failures.append(error)
            raise
        except (ArithmeticError, ValueError, MemoryError) as error:
            failures.append(SqlError(f"A value is beyond what this sandbox computes with: {error}"))
            raise

    return call


_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION})


def _authorize(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
