"""What a tick of the polling sensor reads from Peaka: one listing, and the histories of the caches that moved."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheExecution, CacheStatus
from dagster_peaka.caches.names import TableName
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaResponseError
from dagster_peaka.sensors.cursor import CACHE, short
from dagster_peaka.sensors.review import Review

FIRST_PAGE, NEXT_PAGE = 25, 100
"""Entries of a history that a request asks for: mostly all that is new is on a short page."""


NAMES_KEPT_FOR = 3600.0
"""Seconds after which the names of the catalogs are asked for again, because one may have been renamed."""

NAMING_BUDGET = 10.0
"""Seconds for the names of the catalogs: the histories of the caches that are known have to be read as well."""


class CatalogNames:
    """The names of catalogs by their ids, which a sensor keeps from tick to tick, for as long as its process lives."""

    def __init__(self) -> None:
        self._names: dict[str | None, str | None] = {}
        self._read_at = -math.inf

    def of(self, client: PeakaClient, ids: Iterable[str | None]) -> Mapping[str | None, str | None]:
        """The names of the catalogs of these ids, None for one that is not listed: one request where an id is new.

        Raises:
            PeakaError: when the catalogs could not be listed.
        """
        wanted = set(ids)
        if not wanted <= self._names.keys() or time.monotonic() > self._read_at + NAMES_KEPT_FOR:
            for _, answer in client.collect([(None, calls.list_catalogs())], timeout=NAMING_BUDGET):
                if isinstance(answer, PeakaError):
                    raise answer
                listed = {catalog.id: catalog.name for catalog in answer.value}
                self._names = {**dict.fromkeys(wanted), **listed}
            self._read_at = time.monotonic()
        return self._names


def find_tables(
    client: PeakaClient,
    catalogs: CatalogNames,
    seen: Mapping[TableName, bytes | None],
    statuses: Iterable[CacheStatus],
) -> dict[TableName, CacheStatus | PeakaError]:
    """The cache of each table among ``statuses``, or why there is none, or why that is not known.

    A status names its catalog by id only. ``seen`` tells by a short hash which cache a table had at the last tick; the
    catalogs' names are needed only where that does not settle it.
    """
    namesakes: dict[tuple[str | None, str | None], list[CacheStatus]] = {}
    for status in statuses:
        namesakes.setdefault((status.schema_name, status.table_name), []).append(status)
    found: dict[TableName, CacheStatus | PeakaError] = {}
    open_questions: dict[TableName, Sequence[CacheStatus]] = {}
    for table, cache in seen.items():
        candidates = namesakes.get((table.schema, table.table), [])
        again = [status for status in candidates if short(status.id, CACHE) == cache]
        if len(again) == 1:
            found[table] = again[0]
        elif candidates:
            open_questions[table] = candidates
        else:
            found[table] = _no_cache(table)
    if not open_questions:
        return found
    ids = {status.catalog_id for candidates in open_questions.values() for status in candidates}
    try:
        names = catalogs.of(client, ids)
    except PeakaError as error:
        return {**found, **dict.fromkeys(open_questions, error)}
    for table, candidates in open_questions.items():
        own = [status for status in candidates if names[status.catalog_id] == table.catalog]
        found[table] = own[0] if len(own) == 1 else _ambiguous(table, own) if own else _no_cache(table)
    return found


def _no_cache(table: TableName) -> PeakaError:
    return PeakaNotFoundError(f"The project has no cache of table {table}.", status_code=404)


def _ambiguous(table: TableName, caches: Collection[CacheStatus]) -> PeakaError:
    # Peaka lists catalogs of its own that share a name.
    ids = ", ".join(status.id for status in caches)
    return PeakaConfigError(
        f"The project has {len(caches)} caches of a table {table} ({ids}): say which by cache_id."
    )


def read_histories(
    client: PeakaClient, reviews: Sequence[Review], deadline: float
) -> list[Review | PeakaError | None]:
    """Read, side by side, as much of each history as its review asks for; ``deadline`` is by the monotonic clock.

    Returns for each review, in the same order: itself, or why its history could not be read, or None where the time
    was not enough.
    """
    results: list[Review | PeakaError | None] = [None] * len(reviews)
    wanted = list(range(len(reviews)))
    while wanted and (time_left := deadline - time.monotonic()) > 0:
        pages = [(number, _next_page(reviews[number])) for number in wanted]
        wanted = list[int]()
        for number, answer in client.collect(pages, timeout=time_left):
            if isinstance(answer, PeakaError):
                results[number] = None if time.monotonic() >= deadline else answer
                continue
            reviews[number].add(answer.value)
            if reviews[number].history.failed:
                results[number] = PeakaResponseError("Each page of its history was of an older one.")
            elif reviews[number].suffices:
                results[number] = reviews[number]
            else:
                wanted.append(number)
    return results


def _next_page(review: Review) -> Call[list[CacheExecution]]:
    limit = NEXT_PAGE if review.history.entries else FIRST_PAGE
    return calls.get_execution_history(review.status.id, limit, review.history.offset)
