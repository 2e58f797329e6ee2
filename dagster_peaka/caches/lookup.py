"""From what a user writes, a cache's id or ``catalog.schema.table``, to the cache in this project."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.client import NOT_LISTED, PeakaClient
from dagster_peaka.api.models import CacheStatus
from dagster_peaka.caches.names import CacheReference, SyncTarget, TableName, near_matches
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaServerError

T = TypeVar("T")


def find_caches(
    client: PeakaClient, references: Iterable[CacheReference]
) -> dict[CacheReference, SyncTarget | PeakaError]:
    """The cache that each reference means, or the error that says why there is none.

    Ids are taken as they are and cost no request. Tables cost two requests, whatever their number: the catalogs, and
    one listing of caches.

    Raises:
        PeakaError: when Peaka cannot be asked at all.
    """
    found: dict[CacheReference, SyncTarget | PeakaError] = {}
    tables: list[TableName] = []
    for reference in references:
        if isinstance(reference, TableName):
            tables.append(reference)
        else:
            found[reference] = SyncTarget(reference)
    if tables:
        found.update(_find_tables(client, tables))
    return found


def _find_tables(
    client: PeakaClient, tables: Sequence[TableName]
) -> dict[CacheReference, SyncTarget | PeakaError]:
    catalogs = client.list_catalogs()
    names = {catalog.id: catalog.name for catalog in catalogs}
    places = {catalog.id for catalog in catalogs for table in tables if catalog.name == table.catalog}
    cached: dict[TableName, list[CacheStatus]] = {}
    for status in list_caches(client, places).value if places else ():
        name = TableName(
            names.get(status.catalog_id or "", "?"), status.schema_name or "?", status.table_name or "?"
        )
        if not status.deleted:
            cached.setdefault(name, []).append(status)
    return {table: _find_table(client.project_id, table, names.values(), cached) for table in tables}


def list_caches(
    client: PeakaClient, catalog_ids: Collection[str | None] = (), timeout: float | None = None
) -> Answer[list[CacheStatus]]:
    """The statuses of all caches of some catalogs, or of the project where none is named.

    One listing: the catalog's where there is one only, else the project's. Where the project's is answered with a 5xx,
    those of all its catalogs. A schema's listing is never asked for: the live service was seen to answer it with 500,
    every time.

    Args:
        timeout: seconds for all of it.

    Raises:
        PeakaError: when the caches cannot be listed in any of these ways, or not in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout

    def answers(*wanted: Call[T]) -> list[Answer[T]]:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        found: list[Answer[T]] = []
        for _, answer in client.collect(enumerate(wanted), timeout=left):
            if isinstance(answer, PeakaError):
                raise answer
            found.append(answer)
        return found

    (catalog_id, *others) = set(catalog_ids) or {None}
    if catalog_id is not None and not others:
        with suppress(*NOT_LISTED):
            return answers(calls.list_cache_statuses(catalog_id))[0]
    try:
        return answers(calls.list_cache_statuses())[0]
    except PeakaServerError as error:
        problem = error
    (catalogs,) = answers(calls.list_catalogs())
    if not catalogs.value:
        raise problem
    listings = answers(*(calls.list_cache_statuses(catalog.id) for catalog in catalogs.value))
    return Answer([status for listing in listings for status in listing.value], listings[0].server_time)


def _find_table(
    project_id: str,
    table: TableName,
    catalogs: Collection[str],
    cached: Mapping[TableName, Sequence[CacheStatus]],
) -> SyncTarget | PeakaError:
    found = cached.get(table, [])
    if len(found) == 1:
        return SyncTarget(found[0].id, str(table), found[0].catalog_id, table.schema)
    if found:
        # Peaka lists catalogs of its own that share a name.
        ids = ", ".join(status.id for status in found)
        return PeakaConfigError(
            f"Project {project_id} has {len(found)} caches of a table {table}: say by cache_id which one is meant "
            f"({ids})."
        )
    if table.catalog not in catalogs:
        return _missing(
            f"Project {project_id} has no catalog {table.catalog!r} (needed for {table})."
            f"{near_matches(table.catalog, catalogs)}",
            "Correct the name, or check project_id.",
        )
    near = near_matches(str(table), map(str, cached))
    return _missing(
        f"Project {project_id} has no cache of table {table}.{near}",
        "Create the cache in Peaka, or correct the name.",
    )


def _missing(message: str, advice: str) -> PeakaNotFoundError:
    error = PeakaNotFoundError(f"{message} {advice}", status_code=404)
    error.advice = advice
    return error
