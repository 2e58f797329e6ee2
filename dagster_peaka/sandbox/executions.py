"""The caches and the life of their executions: created, queued, running, ended; by triggers, schedules or strangers.

All state lives in one asyncio loop and is touched by nobody else, so it needs no locks. An execution is a task that
mostly sleeps; only its copying takes a seat, and each of its steps goes through a small pool of threads.

    trigger, schedule, stranger -> QUEUED --(its lane is free)--> RUNNING --> COMPLETED | FAILED | CANCELLED

A lane is a cache and a mode. The store gets to know of changes when somebody has to be sure of one, and waits for
`written`: an execution before its first step and after its end, a request that changes something before its answer, and
`close()`. An execution that is not finished then goes on, under the same id, when a sandbox opens that store again.
"""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from dagster_peaka.sandbox.behaviour import MODES, Behaviour, Mode, Plan
from dagster_peaka.sandbox.caches import RETENTION, Cache, Execution, Origin, Schedule, no_key
from dagster_peaka.sandbox.copying import CopyError
from dagster_peaka.sandbox.errors import ApiError, bad_request, server_error
from dagster_peaka.sandbox.sources import SandboxError, Sources, Table, TableName
from dagster_peaka.sandbox.sql import Place
from dagster_peaka.sandbox.store import Counts, Store, StoreFailed, copy_name
from dagster_peaka.sandbox.syncing import Copying, Saver

T = TypeVar("T")

_THREADS = 5


class Engine:
    """All caches of the project and their executions. Lives in the loop that calls `open`."""

    def __init__(self, sources: Sources, store: Store, behaviour: Behaviour) -> None:
        self.sources = sources
        self.behaviour = behaviour
        self.plans: dict[TableName, list[Plan]] = defaultdict(list)
        self.caches: dict[str, Cache] = {}
        self.by_table: dict[TableName, Cache] = {}
        self.truth: list[Execution] = []
        self.names: dict[str, TableName] = {}
        """The table of every cache that there ever was, by the cache's id."""
        self.deleted_at: dict[TableName, float] = {}
        self.left_behind: set[TableName] = set()
        """Tables that are called cached for good, though they have no cache."""
        self.saved_sql: dict[str, str] = {}
        """The SQL of every saved query, by its id."""
        self.snapshots: dict[TableName, Place] = {}
        """Where the snapshots of materialized queries are."""
        self.store = store
        self._sequence = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._pool = ThreadPoolExecutor(_THREADS, "peaka-sandbox")
        self._saver = Saver(store, self.caches, self.in_thread)
        self.written = self._saver.written
        """Returns once the store holds all that has changed until now. Raises `StoreFailed`."""
        self._copying = Copying(sources, behaviour, self._saver)

    async def open(self) -> None:
        """Take up what the store holds, executions that were not finished included."""
        caches, executions, shapes = self.store.load()
        for body in caches:
            self._admit(Cache.load(body, shapes))
        for execution in map(Execution.load, executions):
            self._sequence = max(self._sequence, execution.sequence)
            self._enter(self.caches[execution.cache_id], execution)
        for cache in self.caches.values():
            for execution in [e for e in cache.active if e.started_at is not None]:
                self.spawn(self._live(cache, execution))
            self._pump(cache)
            self._set_timers(cache)

    async def close(self) -> None:
        """Stop copying and write down what the store has not seen. Unfinished executions stay unfinished."""
        self._closing = True
        for cache in self.caches.values():
            _stop_timers(cache)
            for execution in cache.active:
                execution.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._save()
        self._copying.close()
        self._pool.shutdown()

    async def idle(self, cache: Cache | None = None) -> None:
        while cache is None and self._tasks:
            await asyncio.wait(set(self._tasks))
        while cache is not None and cache.active:
            await cache.active[0].ended.wait()

    async def create(
        self,
        name: TableName,
        schedules: Mapping[Mode, str | None],
        request_number: int | None = None,
        cache_id: str | None = None,
        table: Table | None = None,
    ) -> Cache:
        """A new cache, its first sync triggered. A schedule of None is none, an id of None is made up, a table of None
        is looked at.

        Raises `ApiError`, with 409 for a table that has a cache, and for an id that cannot be `SandboxError`.
        """
        table = table or await self.in_thread(self.sources.table, name)
        if table is None:
            raise bad_request(f"tableName: there is no table {ascii(str(name))[:200]}.")
        if not table.modes:
            message = f"the table {name} cannot be cached: it is virtual or cannot be read."
            code = "TABLE_NOT_CACHEABLE" if self.behaviour.uncacheable == "code" else None
            raise ApiError(400, message, "BAD_REQUEST", errorCode=code)
        cache = Cache(str(uuid.uuid4()) if cache_id is None else cache_id, name, table.modes)
        cache.reschedule(schedules)
        if name in self.by_table:
            known = self.by_table[name].id
            raise ApiError(409, f"The table {name} is cached already, by cache {known}.", "CONFLICT")
        if cache_id is not None:
            _check_id(cache_id, self.names)
        self._admit(cache)
        self._saver.note(cache)
        refresh = self.behaviour.first_sync_mode == "full_refresh"
        if cache.schedules:
            refresh = "FULL_REFRESH" in cache.schedules
        first: Mode = "FULL_REFRESH" if refresh or not table.key else "INCREMENTAL"
        self.trigger(cache, first, "creation", request_number)
        self._set_timers(cache)
        return cache

    def reschedule(self, cache: Cache, schedules: Mapping[Mode, str | None]) -> None:
        cache.reschedule(schedules)
        self._set_timers(cache)
        self._saver.note(cache)

    async def delete(self, cache: Cache) -> None:
        """Forget a cache: what runs is cancelled, what waits never starts, its copy is dropped.

        Raises `StoreFailed`, and leaves it as it was, where the store cannot forget it.
        """
        async with self._saver.lock:  # no save may bring it back
            await self.in_thread(self.store.forget, cache.id)
        if cache.id not in self.caches:  # somebody has deleted it meanwhile
            return
        del self.caches[cache.id], self.by_table[cache.name]
        self.deleted_at[cache.name] = time.time()
        if cache.active and self.behaviour.left_behind:
            self.left_behind.add(cache.name)
        _stop_timers(cache)
        for execution in list(cache.active):
            execution.stop()
            if execution.started_at is None:
                self._finish(cache, execution, "CANCELLED")
        self.spawn(self._drop(cache))

    def named(self, cache: str) -> Cache | None:
        """The cache of an id, or of a table `catalog.schema.table`."""
        return self.caches.get(cache) or next((c for c in self.caches.values() if str(c.name) == cache), None)

    def is_cached(self, name: TableName) -> bool:
        return name in self.by_table or name in self.left_behind

    def being_deleted(self, name: TableName) -> bool:
        """Whether a cache of the table was deleted so lately that it is taken for still being there."""
        deleted = self.deleted_at.get(name)
        return deleted is not None and time.time() < deleted + self.behaviour.deletion_seconds

    def copy_of(self, name: TableName) -> Place | None:
        """Where a cached table's copy is, and as which version."""
        cache = self.by_table.get(name)
        if cache is None or cache.copied is None:
            return None
        version = self.store.version(cache.id)
        return Place(str(self.store.path), copy_name(cache.id), cache.copied, version=version)

    def trigger(
        self, cache: Cache, mode: Mode, origin: Origin, request_number: int | None = None
    ) -> Execution | None:
        """Start an execution, or queue it. None where the trigger is taken for one that is under way already.

        A stranger's always becomes an execution. A schedule skips its turn while one of its mode is unfinished.
        Raises `ApiError`.
        """
        if mode not in cache.modes:
            raise bad_request(no_key(cache.name))
        if origin in ("api", "schedule"):
            same = any(e.mode == mode for e in cache.active)
            other = any(e.mode != mode for e in cache.active)
            if other and self.behaviour.other_mode == "refuse":
                message = f"The cache {cache.id} of {cache.name} is being synced in the other mode."
                raise ApiError(409, message, "CONFLICT")
            if same and (self.behaviour.coalesce or origin == "schedule"):
                return None
            if other and self.behaviour.other_mode == "coalesce":
                return None
        now = time.time()
        plan = _planned(self.plans[cache.name], mode) or Plan(times=None)
        if self.behaviour.never_picked_up:
            plan = replace(plan, never_picked_up=True)
        visible_at = now + self.behaviour.visible_after
        if mode == "FULL_REFRESH" and self.behaviour.full_refresh_gap:
            answered_at = now + (self.behaviour.trigger_seconds if origin == "api" else 0.0)
            visible_at = max(visible_at, answered_at + self.behaviour.full_refresh_gap)
        self._sequence += 1
        execution = Execution(
            id=str(uuid.uuid4()),
            cache_id=cache.id,
            mode=mode,
            origin=origin,
            sequence=self._sequence,
            request_number=request_number,
            created_at=now,
            visible_at=visible_at,
            duration=self.behaviour.execution_seconds if plan.duration is None else plan.duration,
            plan=plan,
        )
        self._enter(cache, execution)
        self._saver.note(execution)
        self._pump(cache)
        self.spawn(self._save())
        return execution

    def cancel(self, cache: Cache, mode: Mode) -> bool:
        """Ask the running execution of a mode to stop. False where none runs.

        Raises `ApiError` for one without a record, where the service is taken to trip over that.
        """
        execution = cache.running(mode)
        if execution is None:
            return False
        unseen = mode == "FULL_REFRESH" and execution.visible_at > time.time()
        if unseen and self.behaviour.cancel_in_gap == "fail":
            raise server_error("The execution to cancel has no record yet.")
        execution.stopping = True
        self._saver.note(execution)
        self.spawn(self._save())
        execution.stop()
        return True

    async def in_thread(self, function: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *values)

    async def _save(self) -> None:
        with suppress(StoreFailed):  # the next one tries again
            await self.written()

    def _admit(self, cache: Cache) -> None:
        self.caches[cache.id] = self.by_table[cache.name] = cache
        self.names[cache.id] = cache.name

    def _set_timers(self, cache: Cache) -> None:
        _stop_timers(cache)
        turns = [self._follow(cache, mode, schedule) for mode, schedule in cache.schedules.items()]
        cache.timers = [asyncio.create_task(turn) for turn in turns]

    async def _follow(self, cache: Cache, mode: Mode, schedule: Schedule) -> None:
        while True:
            waited = time.time() - schedule.since
            await asyncio.sleep(schedule.seconds - waited % schedule.seconds)
            with suppress(ApiError):
                self.trigger(cache, mode, "schedule")

    def _enter(self, cache: Cache, execution: Execution) -> None:
        cache.executions.append(execution)
        self.truth.append(execution)
        if not execution.finished:
            cache.active.append(execution)

    def _pump(self, cache: Cache) -> None:
        """Start what waits, oldest first, as far as the lanes are free."""
        if self._closing:
            return
        in_turn = self.behaviour.other_mode == "queue"
        if in_turn and any(cache.running(mode) for mode in MODES):
            return
        for execution in list(cache.active):
            if execution.started_at is None and cache.running(execution.mode) is None:
                execution.started_at = execution.updated_at = time.time()
                execution.status = "RUNNING"
                self._saver.note(execution)
                self.spawn(self._live(cache, execution))
                if in_turn:
                    return

    async def _live(self, cache: Cache, execution: Execution) -> None:
        plan = execution.plan
        try:
            await self.written()
            if execution.stopping:
                execution.stop()
            if plan.never_picked_up:
                await execution.released.wait()
            if plan.never_picked_up and execution.leave.is_set():
                done = False
            elif plan.fail is None and not plan.scripted:
                done = await self._copying.sync(cache, execution)
            else:
                done = await execution.last(self.behaviour)
            if self._closing and not done:
                return
            if done and plan.scripted:
                execution.counts = _scripted_counts(cache, execution)
            self._finish(cache, execution, "COMPLETED" if done else "CANCELLED", plan.fail)
        except (CopyError, StoreFailed) as error:
            self._finish(cache, execution, "FAILED", {"message": str(error)})
        except Exception as error:  # whatever it is, an execution has to end
            self._finish(cache, execution, "FAILED", {"message": f"The sandbox itself failed: {error!r}."})
        await self._save()

    def _finish(
        self, cache: Cache, execution: Execution, status: str, error: dict[str, Any] | str | None = None
    ) -> None:
        execution.status = "FAILED" if error is not None and status == "COMPLETED" else status
        execution.error = error if execution.status == "FAILED" else None
        execution.finished_at = execution.updated_at = time.time()
        cache.active.remove(execution)
        execution.ended.set()
        if cache.id in self.caches:
            self._saver.note(execution)
            self._expire(cache)
            self._pump(cache)

    def spawn(self, life: Any) -> None:
        task = asyncio.create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drop(self, cache: Cache) -> None:
        async with cache.copying:
            with suppress(StoreFailed):  # then it is swept at the next start
                await self.in_thread(self.store.drop, cache.id)

    def _expire(self, cache: Cache) -> None:
        """Let go of executions that ended too long ago, but for the last of each mode."""
        old = time.time() - RETENTION
        if (cache.executions[0].finished_at or old) >= old:
            return
        last = {execution.mode: execution for execution in cache.executions}
        for execution in cache.executions[:]:
            if (
                execution.finished_at
                and execution.finished_at < old
                and last[execution.mode] is not execution
            ):
                cache.executions.remove(execution)
                self.truth.remove(execution)
                self._saver.note_expired(execution)


def _planned(plans: list[Plan], mode: Mode) -> Plan | None:
    """The oldest plan that fits, with one of its times used up; an endless one only when no other fits."""
    fitting = sorted((p for p in plans if p.mode in (None, mode)), key=lambda p: p.times is None)
    if not fitting:
        return None
    plan = fitting[0]
    if plan.times is not None:
        plan.times -= 1
        if plan.times <= 0:
            plans.remove(plan)
    return plan


def _scripted_counts(cache: Cache, execution: Execution) -> Counts:
    """The rows that a scripted execution reports. A full refresh holds what it inserted, an incremental goes on from
    the last one that completed.
    """
    plan = execution.plan
    counts = Counts(plan.inserted or 0, plan.updated or 0, plan.deleted or 0)
    completed = [e.counts.cached for e in cache.executions if e.status == "COMPLETED"]
    before = completed[-1] if completed and execution.mode == "INCREMENTAL" else 0
    counts.cached = max(before + counts.inserted - counts.deleted, 0) if plan.total is None else plan.total
    return counts


def _stop_timers(cache: Cache) -> None:
    for timer in cache.timers:
        timer.cancel()


def _check_id(cache_id: object, names: Mapping[str, TableName]) -> None:
    """A wanted id, which a path of the API has to carry. One of a deleted cache still names its executions."""
    if type(cache_id) is not str or not cache_id.isprintable() or cache_id.strip() in ("", ".", ".."):
        raise SandboxError(f"cache_id {cache_id!r}: an id is a text that can be a part of an address.")
    if cache_id in names:
        raise SandboxError(f"cache_id {cache_id}: the cache of {names[cache_id]} has it, or had it.")
