"""`PeakaSandbox`: the engine and its HTTP server in a thread of their own, and what a test may do to them.

Everything about executions and requests happens in that thread's loop. The methods here hand it a function and wait
for the result, so they may be called from any thread, and what they return is exact.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from dagster_peaka.sandbox.app import PREFIX, Front, Operations, RequestLog, RequestRecord, Sink
from dagster_peaka.sandbox.behaviour import DEFAULT_PROFILE, MODES, Behaviour, Fault, Mode, Plan, Profile
from dagster_peaka.sandbox.caches import Cache, ExecutionRecord, release
from dagster_peaka.sandbox.errors import ApiError
from dagster_peaka.sandbox.executions import Engine
from dagster_peaka.sandbox.profiles import read_profile
from dagster_peaka.sandbox.query_operations import QueryOperations
from dagster_peaka.sandbox.saved_queries import Query, RefreshRecord, SavedQueries
from dagster_peaka.sandbox.serving import Loop, Server
from dagster_peaka.sandbox.sources import SandboxError, Sources, TableName
from dagster_peaka.sandbox.store import Store, StoreFailed
from dagster_peaka.sandbox.wire import Json, Wire

T = TypeVar("T")
ModeName = Literal["incremental", "full_refresh", "INCREMENTAL", "FULL_REFRESH"]

DEFAULT_KEY = "sandbox-key"


class PeakaSandbox:
    """A local Peaka over HTTP. It is not Peaka: it plays Peaka's API for caches on SQLite files, on loopback only.

    `sources` names catalogs, in each its schemas, each a SQLite file that others may write to; a bare path is the
    schema `main`. More of them are made by `database`. `caches` are created at the start where the store has them not,
    as `catalog.schema.table` or shell patterns of that. `store` is a file that keeps caches, history and copies for the
    next start; without it they are gone with `close()`. `port=0` takes a free one. `on_request` is called with every
    answered request.

    `profile` says how Peaka is played: `observed`, as people saw the live service, or `documented`, as its document
    promises; or it is the file of a report that `python -m dagster_peaka doctor --report` has written of an account:
    then it answers as that account did. What `behaviour` sets counts over it, one field at a time. `fail` names
    tables, `catalog.schema.table`, whose executions copy nothing and all end FAILED, each with the reason that is
    given for it.

    As a context manager it starts and closes itself. `stop()` and `start()` take the server away and back, on the
    same port, while executions go on.

    Raises `SandboxError`, a `ValueError`, with one sentence for whatever it cannot start with.

    Example::

        with PeakaSandbox({"ops": {"public": "ops.db"}}, caches=["ops.public.*"]) as sandbox:
            sandbox.wait_idle()
            httpx.get(f"{sandbox.base_url}/data/projects/{sandbox.project_id}/cache/status", headers=...)
    """

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, str | Path] | str | Path],
        caches: Iterable[str] = (),
        *,
        store: str | Path | None = None,
        project_id: str = "sandbox",
        project_name: str = "Sandbox",
        api_key: str = DEFAULT_KEY,
        host: str = "127.0.0.1",
        port: int = 0,
        profile: Profile | str | Path = DEFAULT_PROFILE,
        behaviour: Behaviour | None = None,
        fail: Mapping[str, str] | None = None,
        on_request: Sink | None = None,
    ) -> None:
        self._server = Server(host, port)
        self.profile: Profile
        self.profile, self._readings = read_profile(profile)
        self.project_id = project_id
        self.project_name = project_name
        self.api_key = api_key
        self._behaviour = behaviour or Behaviour()
        self._behaviour.complete(self._readings)
        self._sources = Sources(sources)
        self._wanted = list(caches)
        self._failing = {TableName.parse(table): reason for table, reason in (fail or {}).items()}
        for table in self._failing:
            if self._sources.file(table) is None:
                raise SandboxError(f"fail {table}: no source could have this table.")
        self._store_path = store
        self._log = RequestLog(on_request)
        self._loop = Loop()
        self._databases: list[sqlite3.Connection] = []
        self.queries = SandboxQueries(lambda: self._saved_queries, self._loop)
        """Saved queries: what a test may see of them, and do to them."""

    def __enter__(self) -> "PeakaSandbox":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to serve; after `stop()`, on the same port as before."""
        if not self._loop.running:
            self._open()
        self._loop.wait(self._server.start(self._front))

    def stop(self) -> None:
        """Take the server away: connections break, new ones are refused. Executions go on, the port stays ours."""
        if self._loop.running:
            self._loop.wait(self._server.stop(keeps_port=True))

    def close(self) -> None:
        """End everything, and write down what the store has not seen. What is then not finished goes on at the next
        start with the same store. The records of requests and executions can still be read.
        """
        if not self._loop.running:
            return
        self._loop.wait(self._server.stop(keeps_port=False))
        self._loop.wait(self._saved_queries.close())
        self._loop.wait(self._engine.close())
        self._loop.close()
        while self._databases:
            self._databases.pop().close()
        self._store.close()
        self._server.close()

    def _open(self) -> None:
        self._server.bind()
        try:
            self._store = Store(self._store_path)
        except SandboxError:
            self._server.close()
            raise
        self._engine = Engine(self._sources, self._store, self.behaviour)
        for table, reason in self._failing.items():
            self._engine.plans[table].append(Plan(times=None, fail=reason))
        wire = Wire(self.project_id, self.project_name, self.behaviour)
        operations = Operations(self._engine, wire)
        self._saved_queries = SavedQueries(self._engine)
        self._front = Front(
            self._engine,
            [*operations.routes(), *QueryOperations(self._saved_queries).routes()],
            self._log,
            project_id=self.project_id,
            api_key=self.api_key,
            drop=self._server.drop,
        )
        self._loop.start()
        try:
            self._loop.call(lambda: self._sources.take_up(self._store.sources))
            self._loop.wait(self._engine.open())
            self._loop.call(self._saved_queries.open)
            for pattern in self._wanted:
                self._loop.wait(_create_matching(self._engine, pattern))
            self._loop.wait(self._engine.written())
        except BaseException as error:
            self.close()
            if isinstance(error, StoreFailed):
                raise SandboxError(f"store {self._store_path}: {error}") from None
            raise

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves. A field, or a whole `Behaviour`, may be assigned at any time, and counts from then on; what
        a whole one leaves unsaid, the profile says.
        """
        return self._behaviour

    @behaviour.setter
    def behaviour(self, wanted: Behaviour) -> None:
        wanted.complete(self._readings)
        for field in fields(Behaviour):  # into the one that all rooms look at
            setattr(self._behaviour, field.name, getattr(wanted, field.name))

    @property
    def base_url(self) -> str:
        """Where the API is, such as `http://127.0.0.1:8765/api/v1`."""
        return f"{self._server.address}{PREFIX}"

    @property
    def caches(self) -> dict[str, str]:
        """The id of every cache by its table, `catalog.schema.table`, as of now."""
        return self._loop.call(lambda: {str(cache.name): cache.id for cache in self._engine.caches.values()})

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests since the start or `clear_requests()`, in the order of their arrival."""
        return self._loop.call(self._log.all)

    def clear_requests(self) -> None:
        """Forget the requests so far. The numbering goes on."""
        self._loop.call(self._log.clear)

    def executions(self, cache: str | None = None) -> list[ExecutionRecord]:
        """The truth about all executions, or those of one cache, oldest first: hidden ones and deleted caches' too."""

        def read() -> list[ExecutionRecord]:
            names = self._engine.names
            ids = {known for known, name in names.items() if cache is None or cache in (known, str(name))}
            if cache is not None and not ids:
                raise KeyError(f"The sandbox has no cache {cache!r}.")
            return [one.record() for one in self._engine.truth if one.cache_id in ids]

        return self._loop.call(read)

    def wait_idle(self, timeout: float = 30, cache: str | None = None) -> None:
        """Wait until no execution runs or is queued, of a cache or of all.

        Raises `TimeoutError` after `timeout` seconds.
        """
        waited_for = None if cache is None else self._loop.call(lambda: self._cache(cache))
        try:
            self._loop.wait(self._engine.idle(waited_for), timeout)
        except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
            left = [e for e in self.executions(cache) if e.finished_at is None]
            said = ", ".join(f"{e.mode} {e.id} of cache {e.cache_id} ({e.status})" for e in left[:5])
            raise TimeoutError(f"{len(left)} executions are not finished after {timeout} s: {said}") from None

    def database(self, schema: str) -> sqlite3.Connection:
        """The database behind a schema, `catalog.schema`, to write to as its owner does: what a statement does counts
        at once. The connection is closed with the sandbox.

        Where there is no such schema yet, it is made: an empty database beside the store, which lasts as long.

        Raises `SandboxError` for what cannot be a schema, or before `start`.

        Example::

            shop = sandbox.database("shop.public")
            shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
            sandbox.create_cache("shop.public.orders")
        """
        if not self._loop.running:
            raise SandboxError(f"database {schema}: the sandbox has to be started first.")
        catalog, _, name = schema.partition(".")
        file = self._loop.call(lambda: self._sources.make(self._store.sources, catalog, name))
        # The sandbox may be closed by another thread than the one that writes.
        connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._databases.append(connection)
        return connection

    def create_cache(
        self,
        table: str,
        incremental_schedule: str | None = None,
        full_refresh_schedule: str | None = None,
        *,
        cache_id: str | None = None,
    ) -> str:
        """A new cache of `catalog.schema.table`, its first sync started. Schedules are ISO-8601 durations.

        Returns its id: `cache_id` where that is given, as for a project that names its caches by their ids.

        Raises `SandboxError` for an id that cannot be one, or that another cache has or had.
        """
        schedules: dict[Mode, str | None] = {
            "INCREMENTAL": incremental_schedule,
            "FULL_REFRESH": full_refresh_schedule,
        }
        name = TableName.parse(table)
        return self._loop.wait(self._engine.create(name, schedules, cache_id=cache_id)).id

    def delete_cache(self, cache: str) -> None:
        """Delete a cache beside the API."""
        found = self._loop.call(lambda: self._cache(cache))
        self._loop.wait(self._engine.delete(found))

    def start_execution(
        self, cache: str, mode: ModeName = "incremental", origin: Literal["stranger", "schedule"] = "stranger"
    ) -> str:
        """Start an execution beside the API, as others do. Returns its id; it queues behind one of its mode.

        Raises `RuntimeError` where the sandbox's behaviour lets a schedule start nothing now.
        """
        execution = self._loop.call(lambda: self._engine.trigger(self._cache(cache), _mode(mode), origin))
        if execution is None:
            raise RuntimeError(f"An execution of {cache} is under way, so its schedule started none.")
        return execution.id

    def cancel(self, cache: str, mode: ModeName = "incremental") -> bool:
        """Cancel what runs, beside the API. False where nothing of that mode runs."""
        return self._loop.call(lambda: self._engine.cancel(self._cache(cache), _mode(mode)))

    def release(self, cache: str) -> None:
        """Let the held executions of a cache go on."""
        self._loop.call(lambda: release(self._cache(cache).active))

    def plan(
        self,
        cache: str,
        *,
        mode: ModeName | None = None,
        times: int | None = 1,
        duration: float | None = None,
        hold: bool = False,
        fail: dict[str, Any] | str | None = None,
        status: str | None = None,
        until_end: bool = False,
        vanish: bool = False,
        inserted: int | None = None,
        updated: int | None = None,
        deleted: int | None = None,
        total: int | None = None,
        never_picked_up: bool = False,
    ) -> None:
        """Decide how the next `times` executions of a cache go. `cache` may be yet to be created.

        Of several plans the oldest counts; one for ever (`times=None`) only while there is no other.

        `duration`: they take that many seconds. `hold`: they wait for `release`. `fail`: they copy nothing and end
        FAILED with this error. `status`: they show this word in place of their status, from their start and for ever;
        with `until_end` it gives way to the true one at their end. `vanish`: at their end nothing shows them any more.
        `inserted`, `updated`, `deleted`, `total`: with any of them they copy nothing and report these rows at their
        end; `total`, the rows in the cache, is else reckoned from the executions before. `never_picked_up`: until
        `release` they look as one does whose job nobody takes, RUNNING without progress.

        Raises `ValueError` for what is no number of rows, `KeyError` where no source could have the table.
        """
        wanted = None if mode is None else _mode(mode)
        counts = (inserted, updated, deleted, total)
        plan = Plan(wanted, times, duration, hold, fail, status, until_end, vanish, *counts, never_picked_up)

        def add() -> None:
            known = self._engine.caches.get(cache)
            name = known.name if known else TableName.parse(cache)
            if self._sources.file(name) is None:
                raise KeyError(f"The sandbox has no cache {cache!r}, and no source that could have it.")
            self._engine.plans[name].append(plan)

        self._loop.call(add)

    def fault(
        self,
        operation: str | None = None,
        cache: str | None = None,
        *,
        times: int | None = 1,
        status: int | None = 503,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        lose_reply: bool = False,
        refuse: bool = False,
    ) -> Fault:
        """Let the next `times` requests (for ever if None) of an operation, of a cache, or of any, go wrong.

        They take no effect and are answered `status` with `body` (text, or what becomes JSON) and `headers`; with
        `status=None` they are only slow. `delay` seconds pass before the answer, which is made up before them.
        `lose_reply`: the request takes its effect, then the connection breaks without an answer. `refuse`: it breaks
        before any effect. `operation` is an operationId of Peaka's OpenAPI document. Of several faults the oldest
        that matches counts. Returns a handle with `hits` and `remove()`.
        """
        fault = Fault(operation, cache, times, status, body, dict(headers or {}), delay, lose_reply, refuse)
        self._loop.call(lambda: self._front.faults.append(fault))
        return fault

    def _cache(self, named: str) -> Cache:
        found = self._engine.named(named)
        if found is None:
            known = ", ".join(map(str, self._engine.by_table))
            raise KeyError(f"The sandbox has no cache {named!r}; it has {known}.")
        return found


class SandboxQueries:
    """The saved queries of a sandbox, each by its name or its id. Safe to call from any thread.

    Raises `KeyError` for a query that is not there.

    Example: `sandbox.queries.create("report", 'SELECT count(*) AS n FROM "shop"."public"."orders"')`
    """

    def __init__(self, queries: Callable[[], SavedQueries], loop: Loop) -> None:
        self._queries = queries
        self._loop = loop

    def create(self, name: str, sql: str, *, materialized: bool = True, schedule: Json | None = None) -> str:
        """A new query, of which nothing is refreshed yet. `schedule` is Peaka's object. Returns its id.

        Raises `ValueError` for a name that is taken.
        """
        made = self._loop.call(
            lambda: self._queries().create(name, sql, materialized=materialized, schedule=schedule)
        )
        return made.id

    def delete(self, query: str) -> None:
        """Delete a query beside the API."""
        self._loop.call(lambda: self._queries().delete(self._named(query)))

    def refresh(self, query: str) -> None:
        """Start a refresh beside the API, as others and schedules do."""
        self._loop.call(lambda: self._queries().refresh(self._named(query), "stranger"))

    def cancel(self, query: str) -> None:
        """Cancel what waits or runs, beside the API."""
        self._loop.call(lambda: self._queries().cancel(self._named(query)))

    def plan(
        self, query: str, *, duration: float | None = None, hold: bool = False, fail: str | None = None
    ) -> None:
        """Decide how the next refresh goes: its seconds, whether it waits for `release`, whether it fails."""
        plan = Plan(duration=duration, hold=hold, fail=fail)
        self._loop.call(lambda: self._named(query).plans.append(plan))

    def release(self, query: str) -> None:
        """Let the held refreshes of a query go on."""
        self._loop.call(lambda: release(self._named(query).unfinished))

    def refreshes(self, query: str) -> list[RefreshRecord]:
        """The truth about all refreshes of a query, oldest first."""
        return self._loop.call(lambda: [refresh.record() for refresh in self._named(query).refreshes])

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until no refresh waits or runs. Raises `TimeoutError` after `timeout` seconds."""
        try:
            self._loop.wait(self._queries().idle(), timeout)
        except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
            raise TimeoutError(f"Refreshes of queries are not finished after {timeout} s.") from None

    def _named(self, query: str) -> Query:
        found = self._queries().named(query)
        if found is None:
            raise KeyError(f"The sandbox has no query {query!r}.")
        return found


async def _create_matching(engine: Engine, pattern: str) -> None:
    """The caches that a pattern names, but for those that there are. Raises `SandboxError`."""
    try:
        found = engine.sources.matching(pattern)
        for name, table in found:
            if name not in engine.by_table:
                await engine.create(name, {}, table=table)
    except sqlite3.Error as error:
        raise SandboxError(f"cache {pattern}: the source cannot be read ({error}).") from None
    except ApiError as error:
        raise SandboxError(f"cache {pattern}: {error}") from None
    if not found:
        raise SandboxError(f"cache {pattern}: no table of the sources fits it.")


def _mode(name: ModeName) -> Mode:
    for mode in MODES:
        if name.upper() == mode:
            return mode
    raise ValueError(f"{name!r} is no mode: incremental or full_refresh.")
