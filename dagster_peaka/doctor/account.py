"""What the account holds and how it answers: listings, histories, spellings, schedules, and the tables that are given.

Reads only. Whatever cannot be read is a reading of its own, and the others go on.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from dagster_peaka.api import calls
from dagster_peaka.api.models import CacheExecution, CacheStatus, Catalog, SyncMode, Table
from dagster_peaka.caches.names import TableName, quoted
from dagster_peaka.doctor import shapes
from dagster_peaka.doctor.asking import Asking, OutOfTime, Seen, unread
from dagster_peaka.doctor.readings import Reading, take
from dagster_peaka.errors import PeakaError, PeakaNotFoundError, PeakaResponseError

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


def examine(asking: Asking, catalogs: Seen[list[Catalog]], tables: Sequence[TableName]) -> Account:
    """Tell the readings of an account; returns what was found."""
    account = Account({catalog.id: catalog for catalog in catalogs.value}, shapes.objects(catalogs.raw))
    for catalog in catalogs.value:
        asking.hide("catalog", catalog.name, catalog.display_name)
        asking.hide("id", catalog.id)
    asking.take("catalogs", len(catalogs.value))
    _listings(asking, account)
    if account.listed:
        asking.take("caches", len(account.statuses))
    else:
        asking.take("listings", "none")
    _stuck(asking, account)
    _histories(asking, account, tables)
    _schedules(asking, account)
    _errors(asking)
    _queries(asking)
    for table in tables:
        name = asking.name("table", table)
        with asking.reading("a schema's tables", name):
            _table(asking, account, table, name)
    asking.summary()
    return account


def _listings(asking: Asking, account: Account) -> None:
    """Which listings answer, and with them the caches."""
    whole, reading = _listing(asking, "project_statuses")
    asking.found(reading)
    _admit(asking, account, whole)
    for catalog_id in () if whole else account.catalogs:
        _admit(asking, account, _listing(asking, "catalog_statuses", catalog_id)[0])
    place = next((s for s in account.statuses if s.catalog_id and s.schema_name), None)
    if place is not None:
        asking.found(_listing(asking, "catalog_statuses", place.catalog_id)[1])
        asking.found(_listing(asking, "schema_statuses", place.catalog_id, place.schema_name)[1])


def _listing(asking: Asking, name: str, *place: str | None) -> tuple[Seen[list[CacheStatus]] | None, Reading]:
    try:
        return asking.ask(calls.list_cache_statuses(*place)), take(name, "list")
    except OutOfTime as error:
        return None, unread("a listing", error)
    except PeakaError as error:
        if isinstance(error, PeakaResponseError) and "cache in between" in str(error):
            return None, take("connection", "cached", said=str(error))
        return None, take(name, "fail", said=str(error))


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
        asking.hide("cache", status.id)
        asking.hide("schema", status.schema_name)
        asking.hide("table", status.table_name)
        asking.name("table", account.table_of(status))


def _stuck(asking: Asking, account: Account) -> None:
    """The caches with a job that nobody has picked up for long."""
    stuck: list[str] = []
    for status in account.statuses:
        raw = {str(entry.get("id")): entry for entry in shapes.executions_in([account.raw[status.id]])}
        for last in map(status.last, SyncMode):
            if last is None or last.created_at is None or account.now is None:
                continue
            if shapes.is_unattended(raw.get(last.id, {})) and account.now - last.created_at > UNATTENDED:
                stuck.append(asking.name("table", account.table_of(status)))
    if stuck:
        asking.take("stuck", len(stuck), *stuck[:NAMED])


def _histories(asking: Asking, account: Account, tables: Sequence[TableName]) -> None:
    """What statuses and a few histories tell: order, pages, spellings, types, counters, lengths."""
    begun = [status for status in account.statuses if shapes.executions_in([account.raw[status.id]])]
    begun.sort(key=lambda status: account.table_of(status) not in tables)
    histories: list[Seen[list[CacheExecution]]] = []
    for status in begun[:SAMPLE]:
        try:
            history = asking.ask(calls.get_execution_history(status.id, PAGE))
        except PeakaError as error:
            asking.take("history", "fail", asking.name("table", account.table_of(status)), said=str(error))
            continue
        if not histories:
            asking.take("history", "answers")
            with asking.reading("a page of a history"):
                pair = shapes.objects(asking.ask(calls.get_execution_history(status.id, 2)).raw)
                second = shapes.objects(asking.ask(calls.get_execution_history(status.id, 1, 1)).raw)
                newest = {str(entry.get("id")) for entry in shapes.executions_in([account.raw[status.id]])}
                asking.found(*shapes.of_history(shapes.objects(history.raw), pair, second, newest))
        histories.append(history)
    if not begun:
        asking.take("history", "none")
    raw = [shapes.objects(history.raw) for history in histories]
    asking.found(*shapes.of_answers(account.raw_catalogs, list(account.raw.values()), raw))
    asking.found(*shapes.of_counters([history.value for history in histories]))
    done = [entry for history in histories[:1] for entry in history.value if entry.succeeded]
    lengths = sorted(entry.duration_seconds for entry in done if entry.duration_seconds is not None)
    if lengths:
        asking.take("execution_seconds", round(lengths[len(lengths) // 2], 1))
    modes = Counter(mode for status in begun if (mode := shapes.first_mode(account.raw[status.id])))
    for mode, _ in modes.most_common(1):
        asking.take("first_sync_mode", mode)


def _schedules(asking: Asking, account: Account) -> None:
    asking.waiting("reading schedules")
    asked = account.statuses[:ASKED_FOR_SCHEDULES]
    scheduled: list[str] = []
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
        asking.found(unread("schedules", failed[0] if asking.left else OutOfTime(str(failed[0]))))
    if len(asked) > len(failed):
        asking.take("schedules", len(scheduled), *scheduled[:NAMED])
    if len(asked) < len(account.statuses):
        asking.take("schedules_read", len(asked))


def _errors(asking: Asking) -> None:
    """How an error looks: of a cache that cannot be there."""
    missing = asking.name("cache", uuid.uuid4())
    with asking.reading("an error"):
        try:
            asking.ask(calls.get_cache_status(missing))
        except PeakaNotFoundError as error:
            asking.take("error_body", "documented" if error.error_code is None else "observed")


def _queries(asking: Asking) -> None:
    """How a value looks: the number 1."""
    try:
        answer = asking.ask(calls.execute_query("SELECT 1 AS n"))
    except OutOfTime as error:
        asking.found(unread("a query", error))
    except PeakaError as error:
        asking.take("queries", "refused", said=str(error))
    else:
        value = next(_cells(answer.raw), None)
        asking.take("queries", "answered")
        asking.take("query_values", "text" if isinstance(value, str) else "json" if value == 1 else "other")


def _cells(answer: Any) -> Iterator[object]:
    rows = cast("shapes.Json", answer).get("data") if isinstance(answer, dict) else None
    for row in cast("list[object]", rows) if isinstance(rows, list) else []:
        for cell in shapes.objects(row):
            yield cell.get("value")


def _table(asking: Asking, account: Account, table: TableName, name: str) -> None:
    """Whether a table can be cached and is, in which modes, and what Peaka says of it."""
    for kind, text in zip(("catalog", "schema", "table"), table, strict=True):
        asking.hide(kind, text)
    catalog_id = next((c.id for c in account.catalogs.values() if c.name == table.catalog), None)
    if catalog_id is None:
        names = sorted(catalog.name for catalog in account.catalogs.values())
        asking.take("table", "missing", name, said=f"The catalogs are {', '.join(names[:NAMED])}.")
        return
    listed = asking.ask(calls.list_tables(catalog_id, table.schema)).value
    found = next((each for each in listed if each.table_name == table.table), None)
    if found is None:
        asking.take("table", "missing", name)
        return
    cached = account.cache_of(table) is not None if account.listed else found.is_cached is True
    asking.take("table", _state(found, cached), name)
    account.modes[table] = found.supported_modes
    if found.supported_modes is not None:
        asking.take("table_modes", sorted(mode.value for mode in found.supported_modes), name)
    rows = None if cached else count(asking, table)
    if rows is not None and rows >= CAP:
        asking.take("capped_reads", rows == CAP, name)


def _state(table: Table, cached: bool) -> str:
    if cached:
        return "cached"
    if table.is_cached:
        return "lost"
    if table.is_cacheable is False or table.supported_cache_types == []:
        return "cannot be cached"
    return "can be cached" if table.is_cacheable or table.supported_cache_types else "not told"


def count(asking: Asking, table: TableName) -> int | None:
    """The rows that a query counts in a table; None, and a reading, where it does not."""
    name = asking.name("table", table)
    with asking.reading("count(*)", name):
        statement = f"SELECT count(*) AS n FROM {'.'.join(map(quoted, table))}"
        rows = asking.ask(calls.execute_query(statement)).value.rows
        value = rows[0].get("n") if rows else None
        if isinstance(value, int):
            return value
        asking.take("unread", "count(*)", name)
    return None
