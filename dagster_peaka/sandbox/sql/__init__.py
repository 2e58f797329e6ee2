"""Trino's SQL on DuckDB: the part of it that the sandbox answers, exactly, or not at all.

sqlglot reads the statement (`parsing`). `queries` and `clauses`, `expressions` (with `leaves`, `predicates`, `calls`,
`windows`) and `functions` (with `operators`, `casts`, `moments`) write new SQL from the nodes that they know, with the
types that Trino would give (`kinds`) and the functions of `catalogue`, `udfs` and `formats`; `database` reads the
tables and runs it. What is not on those lists is a SqlError that names it: nothing is passed on as it came. What the
columns of a result are computed as is checked once more against the types that they should have.

Statements   one SELECT, with WITH [RECURSIVE], or VALUES; SHOW CATALOGS, SCHEMAS, TABLES, COLUMNS; DESCRIBE
FROM         "catalog"."schema"."table" (always all three parts), "catalog".information_schema.tables, columns and
             schemata, subqueries, VALUES, UNNEST [WITH ORDINALITY], LATERAL, aliases; all joins but NATURAL
Clauses      all but MATCH_RECOGNIZE and TABLESAMPLE; GROUP BY with ROLLUP, CUBE and GROUPING SETS, WINDOW, FETCH FIRST
Expressions  operators, CASE, IF, CAST, TRY_CAST, EXTRACT, EXISTS, IN, ANY, ALL, LIKE, BETWEEN, AT TIME ZONE, ARRAY[…],
             ROW(…), subscripts, fields, lambdas, scalar subqueries, intervals
Types        tinyint smallint integer bigint decimal double boolean varchar varbinary date timestamp json array map row,
             timestamp with time zone, both intervals

Where a choice was open:

- Types are as strict as Trino's: a varchar never compares to a number or a date without a CAST. 100.0 is a
  decimal(4,1), and 100.0 * bigint / bigint keeps one digit behind the point, as in Trino; write 100e0 for a double.
- Decimals are exact. Integers overflow with an error. A double that would become Infinity or NaN is an error. JSON
  carries a decimal as a number, which prints the same digits.
- Lengths of varchars are not followed: every text is a varchar.
- The zone of a timestamp with time zone belongs to its type: values of several zones compare, but are not shown.
- Patterns of regexp_… are RE2's: what only Java's have is an error.
- approx_distinct and approx_percentile are exact. checksum is not Trino's, but like it another one for other rows.
- A stored value that is not of its column's type is an error, once a query reads it.
- A ? takes the next binding, always a varchar: write CAST(? AS bigint) for a number.
- A result's own column keeps its written name; others are _col0, _col1, … by their place.
"""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql.compilers import NODES
from dagster_peaka.sandbox.sql.database import Database
from dagster_peaka.sandbox.sql.expressions import Statement
from dagster_peaka.sandbox.sql.formats import timestamp_text, zone_of
from dagster_peaka.sandbox.sql.kinds import SqlError, Type
from dagster_peaka.sandbox.sql.parsing import parse, placeholders
from dagster_peaka.sandbox.sql.queries import Queries, Resolve
from dagster_peaka.sandbox.sql.scope import Column, Place
from dagster_peaka.sandbox.sql.udfs import java_double

__all__ = ["Cell", "Column", "Place", "QueryResult", "SqlError", "TableName", "run"]

Cell = Any
"""A value as JSON carries it."""


@dataclass
class QueryResult:
    """Columns, and rows of values as JSON carries them (None, bool, int, float, str, lists and objects of them)."""

    columns: list[Column]
    rows: list[tuple[Cell, ...]]


@lru_cache(maxsize=1)
def _database() -> Database:
    return Database()


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
    with _database().session() as session:
        try:
            tree = parse(statement)
            order = placeholders(tree)
            if len(order) != len(bindings):
                raise SqlError(
                    f"Incorrect number of parameters: expected {len(order)} but found {len(bindings)}"
                )
            now = datetime.now(timezone.utc).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
            whole = Statement(order, now, NODES)
            query = Queries(resolve, session.load, whole).compile(tree)
        except RecursionError:
            raise SqlError("The statement is nested too deeply for this sandbox") from None
        except (
            LookupError,
            AttributeError,
            TypeError,
            ValueError,
        ) as error:  # a tree that nobody has thought of
            raise SqlError(f"The sandbox trips over this statement: {type(error).__name__}") from None
        kinds = [output.type for output in query.outputs]
        found = session.execute(query.sql, bindings, kinds, whole.columns, deadline, max_rows)
    shown = _show_text if texts else _show
    return QueryResult(
        list(query.outputs),
        [tuple(shown(cell, kind) for cell, kind in zip(row, kinds, strict=True)) for row in found],
    )


def _show(value: Any, kind: Type) -> Cell:
    """A result's value as JSON will carry it.

    Dates, timestamps, intervals, and a varbinary in base64 are strings, as Trino prints them. A decimal is a number:
    an int, or the float that prints the same digits; one that no float prints exactly is refused rather than rounded.
    """
    if value is None or kind.name in ("boolean", "varchar", "json", "unknown") or kind.is_integer:
        return value
    if kind.name == "double":
        if not math.isfinite(value):
            raise SqlError("The result holds Infinity or NaN, which this sandbox does not show")
        return value
    if kind.name == "decimal":
        return _show_decimal(value, kind.scale)
    if kind.name == "varbinary":
        return b64encode(value).decode()
    if kind.is_moment:
        return _show_moment(value, kind)
    if kind.is_interval:
        return _show_interval(value, kind)
    if kind.name == "array":
        return [_show(one, kind.of[0]) for one in value]
    if kind.name == "map":
        return {str(_show(key, kind.of[0])): _show(one, kind.of[1]) for key, one in value.items()}
    fields: list[Any] = list(cast("dict[str, Any]", value).values()) if isinstance(value, dict) else value
    return [_show(one, part) for one, part in zip(fields, kind.of, strict=True)]


def _show_moment(value: Any, kind: Type) -> str:
    if not isinstance(value, date):  # DuckDB gives a text for what Python cannot hold
        raise SqlError("A date became one outside of the years 1 to 9999")
    if not isinstance(value, datetime):
        return value.isoformat()
    if kind.zone in ("", "UTC"):
        return timestamp_text(value, kind.precision) + (" UTC" if kind.zone else "")
    if kind.zone == "several":
        raise SqlError("The result holds values of several time zones, which this sandbox does not show")
    there = value.replace(tzinfo=timezone.utc).astimezone(zone_of(kind.zone))
    return f"{timestamp_text(there, kind.precision)} {kind.zone}"


def _show_interval(value: int, kind: Type) -> str:
    sign = "-" if value < 0 else ""
    if kind.name.endswith("month"):
        return f"{sign}{abs(value) // 12}-{abs(value) % 12}"
    days, rest = divmod(abs(value), 86_400_000)
    seconds, millis = divmod(rest, 1000)
    return f"{sign}{days} {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{millis:03d}"


def _show_decimal(value: Decimal, scale: int) -> int | float:
    if scale == 0:
        return int(value)
    shown = float(value)
    if Decimal(repr(shown)) != value:
        raise SqlError(
            f"The result holds {value}, more digits than a JSON number carries; CAST it AS varchar"
        )
    return shown


def _show_text(value: Any, kind: Type) -> str | None:
    """A result's value as a text: doubles in Java's notation, decimals with all of their scale."""
    if kind.name == "decimal" and value is not None:
        return format(value, "f")
    shown = _show(value, kind)
    if shown is None or isinstance(shown, str):
        return shown
    if isinstance(shown, bool):
        return "true" if shown else "false"
    if isinstance(shown, float):
        return java_double(shown)
    return json.dumps(shown) if isinstance(shown, (list, dict)) else str(shown)
