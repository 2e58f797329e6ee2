"""What a tick of the polling sensor reads from Peaka: one listing, and the histories of the caches that moved."""

from __future__ import annotations

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


def find_tables(
    client: PeakaClient, seen: Mapping[TableName, bytes | None], statuses: Iterable[CacheStatus]
) -> dict[TableName, CacheStatus | PeakaError]:
    """The cache of each table among ``statuses``, or why there is none.

    A status names its catalog by id only. ``seen`` tells by a short hash which cache a table had at the last tick; the
    catalogs are asked for, one request, only where that does not settle it.

    Raises:
        PeakaError: when the catalogs could not be read.
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
    if open_questions:
        catalogs = {catalog.id: catalog.name for catalog in client.list_catalogs()}
        for table, candidates in open_questions.items():
            own = [status for status in candidates if catalogs.get(status.catalog_id or "") == table.catalog]
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
