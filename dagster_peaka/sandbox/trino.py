"""Trino's SQL on SQLite: the part of it that the sandbox answers, exactly, or not at all.

What is not listed here is a SqlError that names it. Nothing is passed on to SQLite as it came: `trino_parser` reads
the statement, `trino_queries` and `trino_expressions` write new SQL from the nodes that they know, with the types
that Trino would give (`trino_types`), the functions of `trino_functions`, and `trino_udfs` where SQLite differs.

Statements   one SELECT, with WITH (not RECURSIVE), or VALUES
FROM         "catalog"."schema"."table" (always all three parts), subqueries, VALUES, aliases with columns;
             [INNER] JOIN, LEFT, RIGHT, FULL, CROSS and comma; ON and USING. Equality of plain columns is fast,
             a join on computed values is a nested loop
Clauses      WHERE, GROUP BY expressions or ordinals, HAVING, ORDER BY (NULLS LAST unless said otherwise),
             OFFSET, LIMIT, DISTINCT, UNION [ALL], INTERSECT, EXCEPT
Expressions  + - * / %  = <> != < <= > >=  AND OR NOT  ||  BETWEEN  IN (list or subquery)  LIKE [ESCAPE]
             IS [NOT] NULL  IS [NOT] DISTINCT FROM  CASE  IF  CAST  TRY_CAST  EXTRACT  EXISTS
             scalar subqueries, correlated or not; DATE '…', TIMESTAMP '…';
             a date or timestamp + or - INTERVAL 'n' SECOND, MINUTE, HOUR, DAY, MONTH or YEAR;
             CURRENT_DATE, CURRENT_TIMESTAMP, LOCALTIMESTAMP, now()
Scalars      abs sign floor ceil ceiling round mod sqrt power pow greatest least coalesce nullif
             concat lower upper length trim ltrim rtrim substr substring strpos replace lpad rpad reverse split_part
             starts_with to_hex
             year quarter month week week_of_year day day_of_month day_of_week dow day_of_year doy year_of_week yow
             hour minute second millisecond
             date date_trunc date_add date_diff last_day_of_month from_unixtime to_unixtime
Aggregates   count count_if sum avg min max arbitrary any_value bool_and every bool_or approx_distinct (exact)
             stddev stddev_samp stddev_pop variance var_samp var_pop; FILTER; DISTINCT in count sum avg min max;
             checksum, also of ROW(a, b, …), which may stand nowhere else: not Trino's bytes, but like them
             another one for other rows
Windows      row_number rank dense_rank lag lead first_value last_value and the aggregates up to bool_or, with
             PARTITION BY, ORDER BY, ROWS frames, RANGE UNBOUNDED PRECEDING
Types        tinyint smallint integer bigint decimal double boolean varchar varbinary (as it is) date timestamp
             timestamp with time zone

Where a choice was open:

- Types are as strict as Trino's: a varchar never compares to a number or a date without a CAST. 100.0 is a
  decimal(4,1), and 100.0 * bigint / bigint keeps one digit behind the point, as in Trino; write 100e0 for a double.
- Decimals are exact, and hold 18 digits here: more is an error. Integers overflow with an error. A double that
  would become Infinity or NaN is an error. JSON carries a decimal as a number, which prints the same digits.
- Lengths of varchars are not followed: every text is a varchar. Time zones: only UTC.
- A stored value that is not of its column's type is an error, once a query reads it.
- A ? takes the next binding, always a varchar: write CAST(? AS bigint) for a number.
- A result's own column keeps its written name; others are _col0, _col1, … by their place.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dagster_peaka.sandbox.trino_builder import query_builder_to_sql
from dagster_peaka.sandbox.trino_expressions import Statement
from dagster_peaka.sandbox.trino_parser import parse, placeholders
from dagster_peaka.sandbox.trino_queries import Queries, Resolve
from dagster_peaka.sandbox.trino_scope import Column, Place, Query, TableRef
from dagster_peaka.sandbox.trino_types import Cell, SqlError, Type, show, show_text
from dagster_peaka.sandbox.trino_udfs import AGGREGATES, UDFS

__all__ = ["Column", "Place", "QueryResult", "SqlError", "TableRef", "query_builder_to_sql", "run"]

LARGEST_RESULT = 20_000_000
"""Values and characters of a result, which is held in memory."""

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
    texts: bool = False,
) -> QueryResult:
    """The result of one query.

    `resolve` says where a table's rows are, None for a table that does not exist. `bindings` are the values of
    the statement's ?s, each of them a varchar. `timeout` is in seconds; `max_rows` cuts the result. With `texts`
    every value but NULL is a text, whatever its type.

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
    return _execute(sql, queries.paths, bindings, query, deadline, max_rows, show_text if texts else show)


def _execute(
    sql: str,
    paths: Sequence[str],
    bindings: Sequence[str],
    query: Query,
    deadline: float,
    max_rows: int | None,
    shown: Callable[[Cell | bytes, Type], bool | Cell],
) -> QueryResult:
    failures: list[SqlError] = []
    try:
        with closing(_connect(paths, failures, deadline)) as connection:
            cursor = connection.execute(sql, tuple(bindings))
            rows = _fetched(cursor, max_rows)
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError, MemoryError) as error:
        if failures:
            raise failures[0] from None
        raise _explained(error, deadline) from None
    kinds = [output.type for output in query.outputs]
    return QueryResult(
        [Column(output.name, str(output.type), output.source) for output in query.outputs],
        [tuple(shown(cell, kind) for cell, kind in zip(row, kinds, strict=True)) for row in rows],
    )


def _fetched(cursor: sqlite3.Cursor, max_rows: int | None) -> list[tuple[Cell | bytes, ...]]:
    rows: list[tuple[Cell | bytes, ...]] = []
    size = 0
    for row in itertools.islice(cursor, max_rows):
        rows.append(row)
        size += sum(len(cell) if isinstance(cell, (str, bytes)) else 1 for cell in row)
        if size > LARGEST_RESULT:
            raise SqlError(
                f"The result is larger than this sandbox's {LARGEST_RESULT:,} values and characters; use LIMIT"
            )
    return rows


def _explained(error: Exception, deadline: float) -> SqlError:
    text = str(error)
    if "interrupted" in text and time.monotonic() >= deadline:
        return SqlError("Query exceeded its time limit")
    if "integer overflow" in text:
        return SqlError("bigint overflow in sum()")
    if "locked" in text or "busy" in text:
        return SqlError(
            f"A source file has been locked for {_LOCK_PATIENCE:g} seconds by another process; try again"
        )
    return SqlError(f"The sandbox's SQLite cannot run this statement: {text}")


def _connect(paths: Sequence[str], failures: list[SqlError], deadline: float) -> sqlite3.Connection:
    if len(paths) > _MOST_FILES:
        raise SqlError(
            f"The statement reads {len(paths)} files; this sandbox joins at most {_MOST_FILES} sources"
        )
    connection = sqlite3.connect(":memory:", timeout=_LOCK_PATIENCE, isolation_level=None, uri=True)
    try:
        for index, path in enumerate(paths):
            _attach(connection, index, path)
        for name, (arguments, function) in UDFS.items():
            connection.create_function(name, arguments, _reporting(function, failures))
        for name, make in AGGREGATES.items():
            connection.create_aggregate(name, 1, cast("Any", make))
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
