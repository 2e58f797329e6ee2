"""Reads a whole project from Peaka: two requests for the caches' names, then the details of those that are wanted.

N selected caches in S schemas cost 2 + S + 2 * N requests, side by side: the catalogs, all statuses, the tables of
each schema (for the modes in which each can be synced), and of each cache its table's columns and its settings.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheSchedule, CacheStatus, Catalog
from dagster_peaka.api.query_models import SavedQuery
from dagster_peaka.caches.lookup import list_caches
from dagster_peaka.caches.names import few
from dagster_peaka.caches.project import PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.caches.selection import PeakaSelection, select
from dagster_peaka.errors import (
    PeakaAuthenticationError,
    PeakaConnectionError,
    PeakaError,
    PeakaRateLimitError,
    PeakaResponseError,
    sentence,
)

T = TypeVar("T")

HOPELESS = 5
"""Requests that fail one after the other in a catalog before the rest of it is not asked for: each may take minutes."""

OF_ALL = (PeakaAuthenticationError, PeakaRateLimitError)
"""Errors that would meet every request."""


def fetch_project(
    client: PeakaClient,
    selector: PeakaSelection | None,
    log: logging.Logger,
    *,
    queries: bool = False,
) -> PeakaProject:
    """A snapshot of the project's caches, or of those that ``selector`` means.

    A predicate in ``selector`` sees caches without columns, schedules and modes: these are fetched for the selected
    ones only. Caches that cannot be read are left out, with one warning for each catalog that has such.

    Args:
        queries: whether the project's saved queries are fetched as well: one request more.

    Raises:
        PeakaConfigError: when ``selector`` makes no sense or fits nothing.
        PeakaError: when Peaka cannot be asked, or not one of the selected caches can be read.
    """
    saved = tuple(map(_query, client.queries.list())) if queries else ()
    selected = select(_named_caches(client, log), selector)
    details = _Details(client)
    tables = details.asked_for(
        (caches, calls.list_tables(*place)) for place, caches in _by_schema(selected).items()
    )
    columns = details.asked_for(
        ((cache,), calls.list_columns(cache.catalog_id, cache.schema_name, cache.table_name))
        for cache in selected
    )
    settings = details.asked_for(
        (((cache,), calls.get_cache(cache.id)) for cache in selected),
        # Settings are Peaka's own, no source can be to blame: it is Peaka that cannot be reached.
        fatal=(PeakaConnectionError,),
    )
    modes = {
        (caches[0].catalog_id, caches[0].schema_name, table.table_name): table.supported_modes
        for caches, found in tables
        for table in found
    }
    columns_of = {cache.id: tuple(found) for (cache,), found in columns}
    complete = tuple(
        cache.model_copy(
            update={
                "columns": columns_of[cache.id],
                "supported_modes": modes.get((cache.catalog_id, cache.schema_name, cache.table_name)),
                "incremental_schedule": _duration(found.incremental_schedule),
                "full_refresh_schedule": _duration(found.full_refresh_schedule),
            }
        )
        for (cache,), found in settings
    )
    for warning in _warnings(selected, details.failures):
        log.warning("%s", warning)
    if details.failures and not complete:
        raise next(iter(details.failures.values()))
    return PeakaProject(project_id=client.project_id, caches=complete, queries=saved)


def _query(query: SavedQuery) -> PeakaQuery:
    schedule = query.schedule.words if query.schedule else ""
    return PeakaQuery(
        id=query.id,
        name=query.name or query.id,
        sql=query.sql,
        materialized=query.is_materialized,
        schedule=schedule or None,
    )


def _named_caches(client: PeakaClient, log: logging.Logger) -> list[PeakaCache]:
    """All caches of the project that have a full name, in order of it, without details."""
    # First, so that one request tells of a Peaka that is away.
    catalogs = {catalog.id: catalog for catalog in client.list_catalogs() if catalog.name}
    statuses = {status.id: status for status in list_caches(client).value if not status.deleted}
    caches: list[PeakaCache] = []
    nameless: dict[str, list[str]] = defaultdict(list)
    for status in statuses.values():
        catalog = catalogs.get(status.catalog_id or "")
        if catalog and status.schema_name and status.table_name:
            caches.append(_without_details(status.id, catalog, status.schema_name, status.table_name))
        else:
            nameless[_what_is_missing(status, catalog)].append(status.id)
    for what, ids in nameless.items():
        log.warning("Left out of the snapshot: %s. %s.", few([f"cache {cache_id}" for cache_id in ids]), what)
    if nameless and not caches:
        raise PeakaResponseError(
            f"Not one cache of project {client.project_id} can be named ({'; '.join(nameless)}): check that the key "
            "may read the project's catalogs."
        )
    if not caches:
        log.warning("Project %s has no caches: the snapshot is empty.", client.project_id)
    return sorted(caches, key=lambda cache: (cache.table, cache.id))


def _what_is_missing(status: CacheStatus, catalog: Catalog | None) -> str:
    if status.catalog_id and not catalog:
        return f"Peaka lists caches of catalog {status.catalog_id}, and no catalog of that id with a name"
    return "Peaka lists caches without saying which table they copy"


def _without_details(cache_id: str, catalog: Catalog, schema: str, table: str) -> PeakaCache:
    return PeakaCache(
        id=cache_id,
        catalog_id=catalog.id,
        catalog_name=catalog.name,
        catalog_type=catalog.catalog_type,
        schema_name=schema,
        table_name=table,
    )


def _by_schema(caches: Iterable[PeakaCache]) -> dict[tuple[str, str], list[PeakaCache]]:
    places: dict[tuple[str, str], list[PeakaCache]] = defaultdict(list)
    for cache in caches:
        places[cache.catalog_id, cache.schema_name].append(cache)
    return places


def _duration(schedule: CacheSchedule | None) -> str | None:
    return None if schedule is None or schedule.type == "NONE" else schedule.expression


Question: TypeAlias = tuple[Sequence[PeakaCache], Call[T]]
"""A call, and the caches of one catalog that it is about."""


class _Details:
    """Asks for the details of caches, and remembers those that cannot be read."""

    def __init__(self, client: PeakaClient) -> None:
        self._client = client
        self._in_a_row: Counter[str] = Counter()
        self._given_up: dict[str, PeakaError] = {}
        self.failures: dict[str, PeakaError] = {}
        """Why a cache cannot be read, by its id."""

    def asked_for(
        self, questions: Iterable[Question[T]], fatal: tuple[type[PeakaError], ...] = ()
    ) -> list[tuple[Sequence[PeakaCache], T]]:
        """The answers to the questions that have one, asked side by side.

        Nothing is asked about caches that failed before, nor about a catalog that was given up.

        Raises:
            PeakaError: one of the ``fatal`` kinds, or one that would meet every request.
        """
        answers: list[tuple[Sequence[PeakaCache], T]] = []
        outcomes = self._client.collect(
            ((tuple(caches), call) for caches, call in questions), still=self._are_hopeful
        )
        for caches, outcome in outcomes:
            if isinstance(outcome, PeakaError):
                self._took_in(caches, outcome, (*OF_ALL, *fatal))
            else:
                self._in_a_row[caches[0].catalog_id] = 0
                answers.append((caches, outcome.value))
        return answers

    def _are_hopeful(self, caches: Sequence[PeakaCache]) -> bool:
        if error := self._given_up.get(caches[0].catalog_id):
            self._failed(caches, error)
        return not any(cache.id in self.failures for cache in caches)

    def _took_in(
        self, caches: Sequence[PeakaCache], error: PeakaError, fatal: tuple[type[PeakaError], ...]
    ) -> None:
        if isinstance(error, fatal):
            raise error
        self._failed(caches, error)
        catalog_id = caches[0].catalog_id
        # A permanent error is a quick answer about this one; others have used up their retries and timeouts.
        self._in_a_row[catalog_id] = 0 if error.permanent else self._in_a_row[catalog_id] + 1
        if self._in_a_row[catalog_id] == HOPELESS:
            self._given_up[catalog_id] = error

    def _failed(self, caches: Sequence[PeakaCache], error: PeakaError) -> None:
        for cache in caches:
            self.failures.setdefault(cache.id, error)


def _warnings(selected: Sequence[PeakaCache], failures: Mapping[str, PeakaError]) -> Iterator[str]:
    """One for each catalog with caches that are left out."""
    sizes = Counter(cache.catalog_id for cache in selected)
    failed: dict[str, list[PeakaCache]] = defaultdict(list)
    for cache in selected:
        if cache.id in failures:
            failed[cache.catalog_id].append(cache)
    for catalog_id, caches in failed.items():
        text = (
            f"Left out of the snapshot: {len(caches)} of {sizes[catalog_id]} selected caches of catalog "
            f"{caches[0].catalog_name} ({catalog_id}): {few([cache.name for cache in caches])}. First reason: "
            f"{sentence(str(failures[caches[0].id]))} Fetch again when that is mended."
        )
        yield text.encode(errors="replace").decode()  # half a surrogate pair in a name would break a log
