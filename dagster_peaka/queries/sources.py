"""Whether the tables that a query reads can be read whole now: what the check ``sources_cached`` looks at.

Peaka was seen to read no row of a table whose cache is in its first sync, and at most 100 of a table behind a paged API
that has no cache; a snapshot keeps that, and nothing says so. A table that cannot be cached is read from its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from dagster_peaka.api import calls
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheStatus, SyncMode, Table
from dagster_peaka.caches.declared import SOURCES_CHECK
from dagster_peaka.caches.lookup import list_caches
from dagster_peaka.caches.names import TableName, few
from dagster_peaka.errors import PeakaError, sentence

HISTORY = 50
"""Entries of a history among which a sync that has completed is sought."""

PATIENCE = 30.0
"""Seconds that each round of questions may take."""

OWN_CATALOG = "peaka"
"""The catalog of Peaka's own tables and queries."""

QUERY_SCHEMAS = ("query", "mtquery")
"""Its schemas in which queries stand for tables."""


@dataclass
class Sources:
    """What was found: the tables that are read whole, and by the others' names what is wrong with them."""

    whole: list[str] = field(default_factory=list[str])
    problems: dict[str, str] = field(default_factory=dict[str, str])


def folded(table: TableName) -> TableName:
    """A table's name as Trino compares it: whatever the case of its letters."""
    return TableName(*(part.casefold() for part in table))


def is_query(table: TableName) -> bool:
    """Whether a name stands for a query."""
    catalog, schema, _ = folded(table)
    return catalog == OWN_CATALOG and schema in QUERY_SCHEMAS


def look_at(client: PeakaClient, tables: Iterable[TableName]) -> Sources:
    """What can be read of these tables now; what stands for a query is left out.

    Costs two requests; one more for each schema with a table that is not cached, and for each cache of which the status
    shows no sync that has completed.

    Raises:
        PeakaError: when Peaka cannot be asked.
    """
    found = Sources()
    asked = [table for table in tables if not is_query(table)]
    if not asked:
        return found
    catalogs = {catalog.name.casefold(): catalog for catalog in client.list_catalogs()}
    names = {catalog.id: name for name, catalog in catalogs.items()}
    caches: dict[TableName, CacheStatus] = {}
    for status in list_caches(client).value:
        name = (names.get(status.catalog_id or "", ""), status.schema_name or "", status.table_name or "")
        if not status.deleted:
            caches[folded(TableName(*name))] = status
    uncached: dict[tuple[str, str], list[TableName]] = {}
    for table in asked:
        status, catalog = caches.get(folded(table)), catalogs.get(table.catalog.casefold())
        if status is not None:
            problem = _problem_of_cache(client, status)
            _note(found, table, problem)
        elif catalog is None or folded(table).catalog == OWN_CATALOG:
            _note(found, table, "has no cache, and cannot have one: a snapshot over it may hold nothing")
        else:
            uncached.setdefault((catalog.id, table.schema), []).append(table)
    _look_at_uncached(client, uncached, found)
    return found


def _note(found: Sources, table: TableName, problem: str | None) -> None:
    if problem is None:
        found.whole.append(str(table))
    else:
        found.problems[str(table)] = problem


def _problem_of_cache(client: PeakaClient, status: CacheStatus) -> str | None:
    """Why nothing is to be read of a cache; None where one of its syncs has completed."""
    lasts = [last for mode in SyncMode if (last := status.last(mode)) is not None]
    if any(last.succeeded for last in lasts):
        return None
    history = client.get_execution_history(status.id, limit=HISTORY)
    if any(execution.succeeded for execution in history):
        return None
    if any(not execution.ended for execution in (*lasts, *history)) or not lasts:
        return "is in the first sync of its cache: no row of it would be read"
    return "has a cache of which no sync has completed: perhaps no row of it would be read"


def _look_at_uncached(
    client: PeakaClient, wanted: Mapping[tuple[str, str], Sequence[TableName]], found: Sources
) -> None:
    questions = ((place, calls.list_tables(*place)) for place in wanted)
    for place, answer in client.collect(questions, timeout=PATIENCE):
        if isinstance(answer, PeakaError):
            raise answer
        listed = {table.table_name.casefold(): table for table in answer.value}
        for table in wanted[place]:
            entry = listed.get(table.table.casefold())
            _note(found, table, None if entry is not None and _is_never_cached(entry) else NOT_CACHED)


NOT_CACHED = "has no cache: of a table behind a paged API at most 100 rows would be read"


def _is_never_cached(table: Table) -> bool:
    """Whether Peaka says that a table cannot be cached: then its source answers whole."""
    return table.is_cacheable is False or table.supported_cache_types == []


def check_result(
    key: dg.AssetKey, found: Sources | PeakaError, severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    """The check of a query's sources, before its refresh."""
    if isinstance(found, PeakaError):
        said = f"Whether the query's sources are cached could not be read. {sentence(str(found))}"
        return dg.AssetCheckResult(
            passed=False, asset_key=key, check_name=SOURCES_CHECK, severity=severity, description=said
        )
    problems = [f"{table} {problem}" for table, problem in found.problems.items()]
    said = f"{few(problems, 10, '; ')}." if problems else "Every source is read whole."
    return dg.AssetCheckResult(
        passed=not problems,
        asset_key=key,
        check_name=SOURCES_CHECK,
        severity=severity,
        description=said,
        metadata={"peaka/sources": dg.MetadataValue.json({"whole": found.whole, "problems": found.problems})},
    )
