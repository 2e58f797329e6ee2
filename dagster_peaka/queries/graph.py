"""What a project's queries read, as assets: caches, other queries, and what is outside of Peaka's copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import dagster as dg

from dagster_peaka.caches.declared import (
    COLUMN_LINEAGE_METADATA,
    COLUMN_SCHEMA_METADATA,
    QUERY_ID_METADATA,
    QUERY_METADATA,
    SOURCES_METADATA,
)
from dagster_peaka.caches.names import TableName, few
from dagster_peaka.caches.project import PeakaProject, PeakaQuery
from dagster_peaka.queries.lineage import Lineage, column_lineage
from dagster_peaka.queries.sources import folded, is_query
from dagster_peaka.queries.sql import UnreadableSqlError, tables_of
from dagster_peaka.steps.specs import checked_spec
from dagster_peaka.translator import DagsterPeakaTranslator


@dataclass(frozen=True)
class Read:
    """What a query reads: assets, and tables with those behind plain queries."""

    keys: list[dg.AssetKey]
    tables: list[TableName]


class Graph:
    """What the queries of a snapshot read, and as which assets."""

    def __init__(self, project: PeakaProject, translator: DagsterPeakaTranslator) -> None:
        self._translator = translator
        self._caches = {folded(cache.table): cache for cache in project.caches}
        self._queries = {folded(query.table): query for query in project.queries}
        self._lineages: dict[str, Lineage | None] = {}
        self._unreadable: dict[str, str] = {}
        self._uncached: dict[str, str] = {}
        self._no_parser = False

    def spec_of(self, query: PeakaQuery) -> dg.AssetSpec:
        """The spec of a query's asset, with its dependencies and its sources."""
        method = self._translator.get_query_spec
        spec = checked_spec(method(query), f"query {query.name}", method)
        read = self._read_by(query)
        metadata: dict[str, object] = {
            **spec.metadata,
            QUERY_METADATA: query.name,
            QUERY_ID_METADATA: query.id,
        }
        if read is None:
            return cast("Any", spec).replace_attributes(metadata=metadata)
        metadata.update(self._columns_of(query))
        if read.tables:
            metadata[SOURCES_METADATA] = [str(table) for table in read.tables]
        for table in read.tables:
            if folded(table) not in self._caches:
                self._uncached.setdefault(str(table), query.name)
        own = {dep.asset_key for dep in spec.deps}
        added = [key for key in read.keys if key not in own and key != spec.key]
        return cast("Any", spec).replace_attributes(metadata=metadata, deps=[*spec.deps, *added])

    def _read_by(self, query: PeakaQuery) -> Read | None:
        keys: dict[dg.AssetKey, None] = {}
        tables: dict[TableName, None] = {}
        waiting, seen = [query], {query.id}
        while waiting:
            current = waiting.pop(0)
            try:
                found = tables_of(current.sql)
            except UnreadableSqlError as error:
                self._unreadable[query.name] = str(error)
                return None
            if found is None:
                self._no_parser = True
                return None
            for table in found:
                inner = self._queries.get(folded(table))
                if inner is not None and not inner.materialized:
                    if inner.id not in seen:  # a plain query is written out: it has no snapshot of its own
                        seen.add(inner.id)
                        waiting.append(inner)
                    continue
                keys[self._key_of(table, inner)] = None
                if not is_query(table):
                    tables[table] = None
        return Read(list(keys), list(tables))

    def _columns_of(self, query: PeakaQuery) -> dict[str, object]:
        """Dagster's metadata for a query's columns, and for those of which they are made.

        Empty where that is not known. The types of the columns never are.
        """
        lineage = self._lineage_of(query)
        if not lineage:
            return {}
        made_of = {
            name: [
                dg.TableColumnDep(
                    self._key_of(table, self._queries.get(table)), self._spelling(table, column)
                )
                for table, column in columns
            ]
            for name, columns in lineage.items()
        }
        return {
            COLUMN_SCHEMA_METADATA: dg.TableSchema(
                [dg.TableColumn(name, type="unknown") for name in lineage]
            ),
            COLUMN_LINEAGE_METADATA: dg.TableColumnLineage(made_of),
        }

    def _lineage_of(self, query: PeakaQuery) -> Lineage | None:
        if query.id not in self._lineages:
            self._lineages[query.id] = None  # what reads itself has no lineage
            columns = {
                table: [column.name for column in cache.columns]
                for table, cache in self._caches.items()
                if cache.columns is not None
            }
            for table in self._read_in_full(query):
                inner = self._queries.get(table)
                outputs = self._lineage_of(inner) if inner is not None else None
                if outputs is not None:
                    columns[table] = list(outputs)
            plain = {table.table: each.sql for table, each in self._queries.items() if not each.materialized}
            self._lineages[query.id] = column_lineage(query.sql, columns, plain)
        return self._lineages[query.id]

    def _read_in_full(self, query: PeakaQuery) -> list[TableName]:
        """The tables that a query reads, and those that the plain queries read of which it is made."""
        found: dict[TableName, None] = {}
        waiting = [query]
        while waiting:
            for table in map(folded, tables_of(waiting.pop().sql) or ()):
                inner = self._queries.get(table)
                if table not in found and inner is not None and not inner.materialized:
                    waiting.append(inner)
                found[table] = None
        return list(found)

    def _spelling(self, table: TableName, column: str) -> str:
        """A column as its table's asset shows it."""
        cache = self._caches.get(table)
        names = [each.name for each in (cache.columns or ())] if cache is not None else []
        return next((name for name in names if name.casefold() == column), column)

    def _key_of(self, table: TableName, query: PeakaQuery | None) -> dg.AssetKey:
        if query is not None:
            return self._translator.get_query_spec(query).key
        cache = self._caches.get(folded(table))
        return dg.AssetKey(list(table)) if cache is None else self._translator.get_asset_spec(cache).key

    def warn(self) -> None:
        """Say what could not be read of the SQL, and which sources are not cached: a line each."""
        log = dg.get_dagster_logger("peaka")
        if self._no_parser:
            log.warning(
                "What Peaka's queries read is not known, because sqlglot is not installed: install "
                "'dagster-peaka[lineage]', or write deps and sources by hand (build_peaka_query_asset)."
            )
        for name, problem in self._unreadable.items():
            log.warning(
                "The SQL of query %s cannot be read, so its dependencies are not known: write them by hand "
                "(build_peaka_query_asset). %s",
                name,
                problem,
            )
        if self._uncached:
            log.warning(
                "Queries read tables that are not among the snapshot's caches: %s. Where such a table is behind a "
                "paged API, a snapshot over it holds 100 rows at most: cache it. Where it cannot be cached, this is "
                "of no concern.",
                few([f"{table} (by {name})" for table, name in self._uncached.items()]),
            )
