"""Saved queries: their SQL, and of the materialized ones the refreshes, and the snapshots that these leave.

As with caches, all state lives in the loop. A refresh reads its sources when it starts, as they are in that moment: no
rows of a table whose cache is in its first sync, the first 100 of a table behind a paged API, where `Behaviour` says
so. What it has read is there when it ends, and stays until the next one. Queries and snapshots are kept in a file
beside the store; a refresh that is not finished when the sandbox closes is forgotten.
"""

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from dagster_peaka.sandbox import queries
from dagster_peaka.sandbox.behaviour import Plan
from dagster_peaka.sandbox.caches import Stoppable, recorded, set_within
from dagster_peaka.sandbox.errors import ApiError
from dagster_peaka.sandbox.executions import Engine
from dagster_peaka.sandbox.sources import TableName, quoted
from dagster_peaka.sandbox.sql import Place
from dagster_peaka.sandbox.wire import Json, written_time

RefreshOrigin = Literal["api", "stranger"]

_FIRST_ID = 709_922_802_836_177_297
"""The id of a project's first query: as large as Peaka's are, beyond what a double holds."""
_PATIENCE = 60.0
"""Seconds that a query may take."""
_TABLE = "CREATE TABLE IF NOT EXISTS peaka_query (id TEXT PRIMARY KEY, body TEXT, columns TEXT)"
_KEPT_TYPES = ("boolean", "bigint", "double", "varchar", "date", "timestamp(3)")
_KEPT_AS: dict[str, str] = {"real": "double", "decimal": "double"}
_KEPT_AS.update(dict.fromkeys(("tinyint", "smallint", "integer"), "bigint"))


@dataclass
class RefreshRecord:
    """The truth about a refresh, whatever the API shows of it. Times are epoch seconds by the true clock."""

    query_id: str
    origin: RefreshOrigin
    status: str
    asked_at: float
    started_at: float | None
    finished_at: float | None
    rows: int | None
    error: str | None


@dataclass(eq=False)
class Refresh(RefreshRecord, Stoppable):
    """One refresh of a materialized query. `status` is QUEUED, RUNNING, COMPLETED, FAILED or CANCELED."""

    plan: Plan = field(default_factory=Plan)

    def record(self) -> RefreshRecord:
        return recorded(RefreshRecord, self)


@dataclass(eq=False)
class Query:
    """A saved query. `schedule` is Peaka's object; nothing here goes by it."""

    id: str
    name: str
    display_name: str
    sql: str
    materialized: bool = False
    schedule: Json | None = None
    refreshes: list[Refresh] = field(default_factory=list[Refresh])
    plans: list[Plan] = field(default_factory=list[Plan])

    def __post_init__(self) -> None:
        self.lane = asyncio.Lock()

    @property
    def table(self) -> TableName:
        return TableName("peaka", "mtquery", self.name)

    @property
    def started(self) -> list[Refresh]:
        return [refresh for refresh in self.refreshes if refresh.started_at is not None]

    @property
    def unfinished(self) -> list[Refresh]:
        return [refresh for refresh in self.refreshes if refresh.finished_at is None]

    def saved(self) -> Json:
        """What the file keeps of it: with the last refresh that ended, by which it is known afterwards."""
        ended = [refresh for refresh in self.started if refresh.finished_at is not None][-1:]
        kept = ("id", "name", "display_name", "sql", "materialized", "schedule")
        return {**{name: getattr(self, name) for name in kept}, "last": [vars(r.record()) for r in ended]}


class SavedQueries:
    """All saved queries of the project. Lives in the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self.by_id: dict[str, Query] = {}
        self.behaviour = engine.behaviour
        self._engine = engine
        self._file = engine.store.path.with_name(f"{engine.store.path.name}-queries.db")
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_id = _FIRST_ID

    def open(self) -> None:
        with self._connected() as connection:
            connection.execute(_TABLE)
            found = connection.execute("SELECT body, columns FROM peaka_query ORDER BY id").fetchall()
        for body, columns in found:
            known: Json = json.loads(body)
            last: list[Json] = known.pop("last")
            known.pop("path", None)  # earlier releases kept one
            query = Query(**known, refreshes=[Refresh(**each) for each in last])
            self._admit(query)
            if columns is not None:
                self._show(query, [tuple(column) for column in json.loads(columns)])

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def named(self, query: str) -> Query | None:
        return self.by_id.get(query) or next((q for q in self.by_id.values() if q.name == query), None)

    def create(self, display_name: str, sql: str, *, materialized: bool, schedule: Json | None) -> Query:
        """A new query. Nothing is refreshed by it. Raises `ValueError` for a name that is taken."""
        name = re.sub(r"\W", "_", display_name.lower())
        if self.named(name) is not None:
            raise ValueError(f"There is a query {ascii(name)[:100]} already.")
        query = Query(str(self._next_id), name, display_name, sql, materialized, schedule)
        self._admit(query)
        self._save(query)
        return query

    def change(self, query: Query, sql: str, *, materialized: bool, schedule: Json | None) -> None:
        """Another SQL, another schedule. The snapshot stays as it is until the next refresh."""
        query.sql, query.materialized, query.schedule = sql, materialized, schedule
        self._admit(query)
        self._save(query)

    def delete(self, query: Query) -> None:
        """Forget a query and its snapshot; what waits or runs is cancelled."""
        del self.by_id[query.id], self._engine.saved_sql[query.id]
        self._engine.snapshots.pop(query.table, None)
        self.cancel(query)
        with self._connected() as connection:
            connection.execute("DELETE FROM peaka_query WHERE id = ?", (query.id,))
            connection.execute(f"DROP TABLE IF EXISTS {quoted(f'snapshot_{query.id}')}")

    def refresh(self, query: Query, origin: RefreshOrigin) -> Refresh:
        """Start a refresh; behind one that runs it waits, or is taken for that (`coalesce`)."""
        if self.behaviour.coalesce and origin == "api" and query.unfinished:
            return query.unfinished[-1]
        plan = query.plans.pop(0) if query.plans else Plan()
        refresh = Refresh(query.id, origin, "QUEUED", time.time(), None, None, None, None, plan)
        query.refreshes.append(refresh)
        task = asyncio.create_task(self._live(query, refresh))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return refresh

    def cancel(self, query: Query) -> None:
        for refresh in query.unfinished:
            refresh.stop()

    async def idle(self) -> None:
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def status(self, query: Query) -> Json:
        """What the API shows: the newest refresh that has started, and while its word lags, that of the one before."""
        started, updates = query.started, self.behaviour.query_updates
        begun = started[-1].started_at if started else None
        if begun is not None and time.time() < begun + self.behaviour.query_word_lag:
            started = started[:-1]
        told = started[-1] if started else None
        updated = None
        if told is not None and updates != "absent":
            updated = told.finished_at or (told.started_at if updates == "moves" else None)
        return {
            "queryId": query.id,
            "queryName": query.name,
            "scheduleSettings": query.schedule or {"type": "none"},
            "nextExecutionStartTime": None,
            "status": told.status if told is not None else "COMPLETED",
            "lastExecutionStartTime": self._time(begun),
            "lastUpdateTime": self._time(updated),
        }

    def _time(self, moment: float | None) -> str | None:
        return None if moment is None else written_time(moment + self.behaviour.clock_offset, "z")

    def _admit(self, query: Query) -> None:
        self.by_id[query.id] = query
        self._engine.saved_sql[query.id] = query.sql
        self._next_id = max(self._next_id, int(query.id) + 1)

    async def _live(self, query: Query, refresh: Refresh) -> None:
        async with query.lane:
            gap = self.behaviour.query_start_gap
            if refresh.leave.is_set() or (gap and await set_within(refresh.leave, gap)):
                return self._finish(query, refresh, "CANCELED")
            refresh.started_at, refresh.status = _later(query), "RUNNING"
            try:
                status = await self._run(query, refresh)
            except ApiError as error:
                status, refresh.error = "FAILED", str(error)
            self._finish(query, refresh, status)

    async def _run(self, query: Query, refresh: Refresh) -> str:
        """Read, last as long as it shall, and keep what was read. How it ends. Raises `ApiError`."""
        plan, result = refresh.plan, None
        if plan.fail is None:
            result = await self._engine.in_thread(queries.run, self._engine, query.sql, [], _PATIENCE, False)
        seconds = self.behaviour.execution_seconds if plan.duration is None else plan.duration
        if not await refresh.lasted(seconds):
            return "CANCELED"
        if result is None:
            refresh.error = str(plan.fail)
            return "FAILED"
        columns = [(column.name, _kept_type(column.data_type)) for column in result.columns]
        refresh.rows = len(result.rows)
        await self._engine.in_thread(self._keep, query, columns, result.rows)
        self._show(query, columns)
        return "COMPLETED"

    def _finish(self, query: Query, refresh: Refresh, status: str) -> None:
        refresh.status, refresh.finished_at = status, time.time()
        if query.id in self.by_id:
            self._save(query)

    def _show(self, query: Query, columns: Sequence[tuple[str, str]]) -> None:
        self._engine.snapshots[query.table] = Place(str(self._file), f"snapshot_{query.id}", tuple(columns))

    def _keep(self, query: Query, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> None:
        table = quoted(f"snapshot_{query.id}")
        names = ", ".join(quoted(name) for name, _ in columns)
        marks = ", ".join("?" for _ in columns)
        with self._connected() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(f"CREATE TABLE {table} ({names})")
            kept = ([_kept(cell) for cell in row] for row in rows)
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", kept)
            shape = json.dumps(columns)
            connection.execute("UPDATE peaka_query SET columns = ? WHERE id = ?", (shape, query.id))

    def _save(self, query: Query) -> None:
        with self._connected() as connection:
            connection.execute(
                "INSERT INTO peaka_query (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (query.id, json.dumps(query.saved())),
            )

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
            yield connection


def _later(query: Query) -> float:
    """Now, and a millisecond after the start before at least: that is how exactly times are written."""
    before = [refresh.started_at or 0.0 for refresh in query.started]
    return max([time.time(), *(moment + 0.001 for moment in before)])


def _kept(cell: Any) -> Any:
    """A value as a snapshot keeps it: arrays, maps and rows as JSON."""
    return json.dumps(cell) if isinstance(cell, (list, dict)) else cell


def _kept_type(data_type: str) -> str:
    """As which type a snapshot keeps a column; decimals as doubles, and what SQLite has no form for as text."""
    kept = _KEPT_AS.get(data_type.partition("(")[0], data_type)
    return kept if kept in _KEPT_TYPES else "varchar"
