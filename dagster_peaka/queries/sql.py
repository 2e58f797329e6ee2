"""Which tables a query reads, by its SQL. Needs sqlglot, the extra ``lineage``; without it nothing is known."""

from __future__ import annotations

import re

from dagster_peaka.caches.names import TableName
from dagster_peaka.errors import PeakaError

HIGHLIGHT = re.compile(r"\x1b\[[0-9;]*m")
"""What sqlglot puts around a word that it does not understand, for terminals."""


class UnreadableSqlError(PeakaError):
    """SQL that cannot be read; the message says why."""

    permanent = True


def tables_of(sql: str) -> list[TableName] | None:
    """The tables that a statement reads, each once, in the order in which it names them; None without sqlglot.

    Names are as they are written, without quotes.

    Raises:
        UnreadableSqlError: when sqlglot does not understand the statement, or a table's name has not all three parts.
    """
    try:
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import SqlglotError
    except ImportError:
        return None
    try:
        tree = sqlglot.parse_one(sql, read="trino")
        mentioned = list(tree.find_all(exp.Table, bfs=False))
        known = {cte.alias_or_name.casefold() for cte in tree.find_all(exp.CTE)}
    except (SqlglotError, RecursionError, ValueError) as error:
        raise UnreadableSqlError(" ".join(HIGHLIGHT.sub("", str(error)).split())[:300]) from None
    tables: dict[TableName, None] = {}
    for table in mentioned:
        if not table.db and table.name.casefold() in known:
            continue
        if not (table.catalog and table.db and table.name):
            raise UnreadableSqlError(f"{table.sql('trino')} names not all of catalog, schema and table.")
        tables[TableName(table.catalog, table.db, table.name)] = None
    return list(tables)
