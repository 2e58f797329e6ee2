"""Of which columns a query's columns are made, by its SQL. Needs sqlglot, the extra ``lineage``.

Pure: the columns of the tables come from the snapshot. What cannot be told is left out: a column without lineage is no
statement that it is made of nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from dagster_peaka.caches.names import TableName

UNNAMED = re.compile(r"^_col_(\d+)$")
"""What sqlglot calls a column without a name; Trino leaves out the second underscore."""

Lineage: TypeAlias = dict[str, list[tuple[TableName, str]]]
"""For each column of a query, in order, the columns of tables of which its values are made, all names in lower case."""


def column_lineage(
    sql: str, columns: Mapping[TableName, Sequence[str]], plain: Mapping[str, str] | None = None
) -> Lineage | None:
    """The lineage of a statement's columns.

    Columns by which rows are only filtered, joined, grouped or ordered are no part of it: no value is made of them.
    What a window is partitioned and ordered by is, and so is what an aggregate's FILTER asks.

    Args:
        columns: of each table whose columns are known, by its name in lower case.
        plain: the SQL of plain queries by their names in lower case, which are looked through.

    Returns:
        None where it cannot be told at all: without sqlglot, for SQL that it cannot read, and for a ``*`` over a table
        whose columns are not known.
    """
    try:
        import sqlglot
        from sqlglot import exp
        from sqlglot import lineage as tracing
        from sqlglot.errors import SqlglotError
        from sqlglot.optimizer.qualify import qualify
        from sqlglot.optimizer.scope import build_scope
    except ImportError:
        return None
    try:
        tree = sqlglot.parse_one(sql, read="trino")
        sources = {
            f"peaka.query.{name}": cast("Any", sqlglot.parse_one(text, read="trino"))
            for name, text in (plain or {}).items()
        }
        tree = exp.expand(tree, sources, dialect="trino") if sources else tree
        schema = _nested(columns)
        tree = qualify(tree, schema=schema, dialect="trino", validate_qualify_columns=False)
        scope = build_scope(tree)
        if scope is None or any(select.is_star for select in cast("Any", tree).selects):
            return None
        found: Lineage = {}
        for name in cast("Any", tree).named_selects:
            # Its signature has types that sqlglot leaves open.
            node = cast("Any", tracing).lineage(
                name, tree, schema=schema, dialect="trino", scope=scope, trim_selects=False
            )
            made_of: dict[tuple[TableName, str], None] = {}
            for each in node.walk():
                table: object = each.expression
                column: str = each.name.rpartition(".")[2].strip('"').lower()
                if isinstance(table, exp.Table) and table.catalog and column != "*":
                    made_of[
                        TableName(*(part.lower() for part in (table.catalog, table.db, table.name))), column
                    ] = None
            found[UNNAMED.sub(r"_col\1", name)] = sorted(made_of)
        return found
    except (SqlglotError, RecursionError, ValueError, KeyError, AttributeError):
        # sqlglot's optimizer has errors of its own for what it does not cover; an asset without lineage is still one.
        return None


def _nested(columns: Mapping[TableName, Sequence[str]]) -> dict[str, Any]:
    """Columns as sqlglot takes them: catalog, schema, table, column, type."""
    nested: dict[str, Any] = {}
    for table, names in columns.items():
        catalog = nested.setdefault(table.catalog, {}).setdefault(table.schema, {})
        catalog[table.table] = dict.fromkeys((name.lower() for name in names), "UNKNOWN")
    return nested
