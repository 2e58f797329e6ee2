"""What the account holds and how it answers: listings, histories, spellings, schedules, and the tables that are given.

Reads only. Whatever cannot be read is a reading of its own, and the others go on.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.models import CacheExecution, CacheStatus, Catalog, SyncMode, Table
from dagster_peaka.caches.names import TableName, quoted
from dagster_peaka.doctor import shapes
from dagster_peaka.doctor.asking import Asking, OutOfTime, Seen, unread
from dagster_peaka.doctor.readings import Name, Reading, take
from dagster_peaka.errors import PeakaError, PeakaNotFoundError, PeakaResponseError

T = TypeVar("T")

SAMPLE = 3
"""Caches whose histories are read: those of the tables that were given come first."""
PAGE = 50
"""Executions of a history that are read."""
ASKED_FOR_SCHEDULES = 200
"""Caches whose schedules are read."""
NAMED = 5
"""Names that one reading lists."""
UNATTENDED = timedelta(minutes=5)
"""How long a sync without any progress is no cause for worry."""
CAP = 100
"""Rows after which a query of an uncached, paged table was seen to end."""


@dataclass
class Account:
    """What was found: catalogs by id, caches with their raw statuses by id, the modes of the tables that were given."""

    catalogs: dict[str, Catalog]
    raw_catalogs: list[shapes.Json]
    statuses: list[CacheStatus] = field(default_factory=list[CacheStatus])
    raw: dict[str, shapes.Json] = field(default_factory=dict[str, shapes.Json])
    listed: bool = False
    """Whether any listing has answered."""
    now: datetime | None = None
    """Peaka's clock when the caches were listed."""
    modes: dict[TableName, frozenset[SyncMode] | None] = field(
        default_factory=dict[TableName, "frozenset[SyncMode] | None"]
    )

    def table_of(self, status: CacheStatus) -> TableName:
        """The table behind a cache, with ``?`` for what Peaka did not say."""
        catalog = self.catalogs.get(status.catalog_id or "")
        return TableName(
            catalog.name if catalog else "?", status.schema_name or "?", status.table_name or "?"
        )

    def cache_of(self, table: TableName) -> CacheStatus | None:
        """The cache of a table, where one is listed."""
        return next((status for status in self.statuses if self.table_of(status) == table), None)


def examine(
    asking: Asking, catalogs: Seen[list[Catalog]], tables: Sequence[TableName]
) -> Generator[str | Reading, None, Account]:
    """Readings of an account; a ``str`` says what is being waited for. Returns what was found."""
    account = Account({catalog.id: catalog for catalog in catalogs.value}, shapes.objects(catalogs.raw))
    for catalog in catalogs.value:
        for kind, text in (("catalog", catalog.name), ("catalog", catalog.display_name), ("id", catalog.id)):
            if text:
                asking.name(kind, text)
    yield take("catalogs", len(catalogs.value))
    yield "listing the caches"
    yield from _listings(asking, account)
    yield take("caches", len(account.statuses)) if account.listed else take("listings", "none")
    yield from _stuck(asking, account)
    yield from _histories(asking, account, tables)
    yield "reading schedules"
    yield from _schedules(asking, account)
    yield "running a query"
    yield from _errors_and_queries(asking)
    for table in tables:
        yield f"looking for {table}"
        yield from _table(asking, account, table)
    yield from asking.summary()
    return account


def _ask(asking: Asking, call: Call[T], what: str, *about: Name) -> Seen[T] | Reading:
    """The answer, or the reading that there is none."""
    try:
        return asking.ask(call)
    except PeakaError as error:
        return unread(what, error, *about)


def _listings(asking: Asking, account: Account) -> Iterator[Reading]:
    """Which listings answer, and with them the caches."""
    whole = _listing(asking, "project_statuses")
    yield whole[1]
    _admit(asking, account, whole[0])
    if whole[0] is None:
        for catalog_id in account.catalogs:
            part, _ = _listing(asking, "catalog_statuses", catalog_id)
            _admit(asking, account, part)
    place = next((s for s in account.statuses if s.catalog_id and s.schema_name), None)
    if place is not None:
        yield _listing(asking, "catalog_statuses", place.catalog_id)[1]
        yield _listing(asking, "schema_statuses", place.catalog_id, place.schema_name)[1]


def _listing(asking: Asking, name: str, *place: str | None) -> tuple[Seen[list[CacheStatus]] | None, Reading]:
    try:
        found = asking.ask(calls.list_cache_statuses(*place))
    except OutOfTime as error:
        return None, unread("a listing", error)
    except PeakaError as error:
        if isinstance(error, PeakaResponseError) and "cache in between" in str(error):
            return None, take("connection", "cached", said=str(error))
        return None, take(name, "fail", said=str(error))
    return found, take(name, "list")


def _admit(asking: Asking, account: Account, listing: Seen[list[CacheStatus]] | None) -> None:
    if listing is None:
        return
    raw = {str(status.get("id")): status for status in shapes.objects(listing.raw)}
    account.listed, account.now = True, listing.server_time
    for status in listing.value:
        if status.id in account.raw or status.deleted:
            continue
        account.statuses.append(status)
        account.raw[status.id] = raw.get(status.id, {})
        asking.name("cache", status.id)
        for kind, text in (("schema", status.schema_name), ("table", status.table_name)):
            if text:
                asking.name(kind, text)
        asking.name("table", account.table_of(status))


def _stuck(asking: Asking, account: Account) -> Iterator[Reading]:
    """The caches with a job that nobody has picked up for long."""
    stuck: list[Name] = []
    for status in account.statuses:
        unattended = {
            str(e.get("id"))
            for e in shapes.executions_in([account.raw[status.id]])
            if shapes.is_unattended(e)
        }
        for last in map(status.last, SyncMode):
            if last is None or last.id not in unattended or None in (last.created_at, account.now):
                continue
            if cast("datetime", account.now) - cast("datetime", last.created_at) > UNATTENDED:
                stuck.append(asking.name("table", account.table_of(status)))
    if stuck:
        yield take("stuck", len(stuck), *stuck[:NAMED])


def _histories(asking: Asking, account: Account, tables: Sequence[TableName]) -> Iterator[str | Reading]:
    """What statuses and a few histories tell: order, pages, spellings, types, counters, lengths."""
    begun = [status for status in account.statuses if shapes.executions_in([account.raw[status.id]])]
    begun.sort(key=lambda status: account.table_of(status) not in tables)
    histories: list[Seen[list[CacheExecution]]] = []
    for status in begun[:SAMPLE]:
        name = asking.name("table", account.table_of(status))
        yield f"reading the history of {name.text}"
        history = _ask(asking, calls.get_execution_history(status.id, PAGE), "a history", name)
        if isinstance(history, Reading):
            yield take("history", "fail", name, said=history.said)
            continue
        if not histories:
            yield take("history", "answers")
            yield from _pages(asking, account, status, history)
        histories.append(history)
    if not begun:
        yield take("history", "none")
    raw = [shapes.objects(history.raw) for history in histories]
    yield from shapes.of_answers(account.raw_catalogs, list(account.raw.values()), raw)
    yield from shapes.of_counters([history.value for history in histories])
    if histories:
        lengths = sorted(
            e.duration_seconds for e in histories[0].value if e.succeeded and e.duration_seconds is not None
        )
        if lengths:
            yield take("execution_seconds", round(lengths[len(lengths) // 2], 1))
    firsts = [found for s in begun if (found := shapes.first_sync(account.raw[s.id])) is not None]
    if firsts:
        yield max(firsts, key=lambda first: sum(other.value == first.value for other in firsts))


def _pages(
    asking: Asking, account: Account, status: CacheStatus, full: Seen[list[CacheExecution]]
) -> Iterator[Reading]:
    pair = _ask(asking, calls.get_execution_history(status.id, 2), "a page of a history")
    second = _ask(asking, calls.get_execution_history(status.id, 1, 1), "a page of a history")
    if isinstance(pair, Reading) or isinstance(second, Reading):
        yield pair if isinstance(pair, Reading) else cast("Reading", second)
        return
    newest = {str(entry.get("id")) for entry in shapes.executions_in([account.raw[status.id]])}
    pages = [shapes.objects(page.raw) for page in (full, pair, second)]
    yield from shapes.of_history(pages[0], pages[1], pages[2], newest)


def _schedules(asking: Asking, account: Account) -> Iterator[Reading]:
    asked = account.statuses[:ASKED_FOR_SCHEDULES]
    scheduled: list[Name] = []
    failed: list[PeakaError] = []
    wanted = ((number, calls.get_cache(status.id)) for number, status in enumerate(asked))
    for number, answer in asking.client.collect(wanted, timeout=asking.left):
        if isinstance(answer, PeakaError):
            failed.append(answer)
            continue
        schedules = (answer.value.incremental_schedule, answer.value.full_refresh_schedule)
        if any(schedule is not None and schedule.type != "NONE" for schedule in schedules):
            scheduled.append(asking.name("table", account.table_of(asked[number])))
    if failed:
        yield unread("schedules", failed[0] if asking.left else OutOfTime(str(failed[0])))
    if len(asked) > len(failed):
        yield take("schedules", len(scheduled), *scheduled[:NAMED])
    if len(asked) < len(account.statuses):
        yield take("schedules_read", len(asked))


def _errors_and_queries(asking: Asking) -> Iterator[Reading]:
    """How an error and a value look: of a cache that cannot be there, and of the number 1."""
    missing = str(uuid.uuid4())
    asking.name("cache", missing)
    try:
        asking.ask(calls.get_cache_status(missing))
    except PeakaNotFoundError as error:
        yield take("error_body", "documented" if error.error_code is None else "observed")
    except PeakaError as error:
        yield unread("an error", error)
    try:
        answer = asking.ask(calls.execute_query("SELECT 1 AS n"))
    except OutOfTime as error:
        yield unread("a query", error)
    except PeakaError as error:
        yield take("queries", "refused", said=str(error))
    else:
        value = next(_cells(answer.raw), None)
        yield take("queries", "answered")
        yield take("query_values", "text" if isinstance(value, str) else "json" if value == 1 else "other")


def _cells(answer: Any) -> Iterator[object]:
    """The values in an answer of cells."""
    rows = cast("shapes.Json", answer).get("data") if isinstance(answer, dict) else None
    for row in cast("list[object]", rows) if isinstance(rows, list) else []:
        for cell in shapes.objects(row):
            yield cell.get("value")


def _table(asking: Asking, account: Account, table: TableName) -> Iterator[Reading]:
    """Whether a table can be cached and is, in which modes, and what Peaka says of it."""
    name = asking.name("table", table)
    for kind, text in zip(("catalog", "schema", "table"), table, strict=True):
        asking.name(kind, text)
    catalog_id = next((c.id for c in account.catalogs.values() if c.name == table.catalog), None)
    if catalog_id is None:
        yield take("table", "missing", name, said=f"The catalogs are {_listed(account)}.")
        return
    listed = _ask(asking, calls.list_tables(catalog_id, table.schema), "a schema's tables", name)
    if isinstance(listed, Reading):
        yield listed
        return
    found = next((each for each in listed.value if each.table_name == table.table), None)
    if found is None:
        yield take("table", "missing", name)
        return
    cached = account.cache_of(table) is not None if account.listed else found.is_cached is True
    yield take("table", _state(found, cached), name)
    account.modes[table] = found.supported_modes
    if found.supported_modes is not None:
        yield take("table_modes", sorted(mode.value for mode in found.supported_modes), name)
    if not cached:
        rows = count(asking, table)
        if isinstance(rows, int) and rows >= CAP:
            yield take("capped_reads", rows == CAP, name)


def _state(table: Table, cached: bool) -> str:
    if cached:
        return "cached"
    if table.is_cached:
        return "lost"
    if table.is_cacheable is False or table.supported_cache_types == []:
        return "cannot be cached"
    return "can be cached" if table.is_cacheable or table.supported_cache_types else "not told"


def _listed(account: Account) -> str:
    return ", ".join(sorted(catalog.name for catalog in account.catalogs.values())[:NAMED])


def count(asking: Asking, table: TableName) -> int | Reading:
    """The rows that a query counts in a table."""
    statement = f"SELECT count(*) AS n FROM {'.'.join(map(quoted, table))}"
    answer = _ask(asking, calls.execute_query(statement), "count(*)", asking.name("table", table))
    if isinstance(answer, Reading):
        return answer
    value = answer.value.rows[0].get("n") if answer.value.rows else None
    return value if isinstance(value, int) else take("unread", "count(*)", asking.name("table", table))
