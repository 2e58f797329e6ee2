"""The caches and the life of their executions: created, queued, running, ended; by triggers, schedules or strangers.

All state lives in one asyncio loop and is touched by nobody else, so it needs no locks. An execution is a task that
mostly sleeps; only its copying takes a seat, and each of its steps goes through a small pool of threads.

    trigger, schedule, stranger -> QUEUED --(its lane is free)--> RUNNING --> COMPLETED | FAILED | CANCELLED

A lane is a cache and a mode. The store gets to know of changes in batches, in the background; whoever has to be sure
waits for `written`: an execution before its first step, a request that changes something before its answer, and
`close()`. An execution that is not finished then goes on, under the same id, when a sandbox opens that store again.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from dagster_peaka.sandbox.behaviour import Behaviour, Mode, Plan, Plans
from dagster_peaka.sandbox.caches import Cache, Execution, ExecutionRecord, Origin, Schedule
from dagster_peaka.sandbox.copying import Copier, CopyError, Job, Steps
from dagster_peaka.sandbox.saving import Saver
from dagster_peaka.sandbox.sources import SandboxError, Sources, Table, TableName
from dagster_peaka.sandbox.sql import Place
from dagster_peaka.sandbox.store import Counts, Store, StoreFailed, copy_name

T = TypeVar("T")

MODES: tuple[Mode, Mode] = ("INCREMENTAL", "FULL_REFRESH")
RETENTION = 14 * 86_400
"""Seconds for which an execution stays in the history after its end (Peaka's document: 14 days)."""
_COPYING_AT_ONCE = 8
_THREADS = 3


class Refused(Exception):
    """A trigger that Peaka would answer with a 4xx, because the other mode runs."""


class NotSupported(Exception):
    """The table cannot be synced in this mode."""


class NoSuchTable(Exception):
    """No source has the table."""


class NotCacheable(Exception):
    """The table cannot be cached in any mode."""


class AlreadyCached(Exception):
    """The table has a cache already, which `cache` is."""

    def __init__(self, message: str, cache: Cache) -> None:
        super().__init__(message)
        self.cache = cache


class NotShown(Exception):
    """An execution to cancel has no record yet."""


class Engine:
    """All caches of the project and their executions. Lives in the loop that calls `open`."""

    def __init__(self, sources: Sources, store: Store, behaviour: Behaviour) -> None:
        self.sources = sources
        self.behaviour = behaviour
        self.plans = Plans()
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
        self._store = store
        self._sequence = 0
        self._unfinished = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._copiers: list[Copier] = []
        self._closing = False
        self._pool = ThreadPoolExecutor(_THREADS, "peaka-sandbox-copy")
        self._seats = asyncio.Semaphore(_COPYING_AT_ONCE)
        self._idle = asyncio.Event()
        self._idle.set()
        self._saver = Saver(store, self.caches, self.in_thread)

    # Opening and closing

    async def open(self) -> None:
        """Take up what the store holds, executions that were not finished included."""
        caches, executions, shapes = self._store.load()
        for body in caches:
            self._admit(Cache.load(body, shapes.get(body["id"])))
        for saved in executions:
            self._sequence = max(self._sequence, saved.sequence)
            self._enter(self.caches[saved.cache_id], Execution.load(saved))
        for cache in self.caches.values():
            for execution in [e for e in cache.active if e.started_at is not None]:
                self._spawn(self._live(cache, execution))
            self._pump(cache)
            self._set_timers(cache)
        self._saver.start()

    async def close(self) -> None:
        """Stop copying and write down what the store has not seen. Unfinished executions stay unfinished."""
        self._closing = True
        for cache in self.caches.values():
            self._stop_timers(cache)
            for execution in cache.active:
                self._stop(execution)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreFailed):
            await self._saver.stop()
        for copier in self._copiers:
            copier.close()
        self._pool.shutdown()

    async def idle(self, cache: Cache | None = None) -> None:
        """Returns when no execution runs or waits, of a cache or of all."""
        if cache is None:
            await self._idle.wait()
        while cache is not None and cache.active:
            await cache.active[0].ended.wait()

    # Caches

    async def create(
        self,
        name: TableName,
        schedules: dict[Mode, str | None],
        request_number: int | None = None,
        cache_id: str | None = None,
    ) -> Cache:
        """A new cache, its first sync triggered. A schedule of None is none, an id of None is made up.

        Raises `NoSuchTable`, `NotCacheable`, `NotSupported` (for a schedule), `AlreadyCached` and, for an id that
        cannot be, `SandboxError`.
        """
        table = await self.in_thread(self.sources.table, name)
        if table is None:
            raise NoSuchTable(f"there is no table {ascii(str(name))[:200]}.")
        return self.create_of(name, table, schedules, request_number, cache_id)

    def create_of(
        self,
        name: TableName,
        table: Table,
        schedules: dict[Mode, str | None],
        request_number: int | None = None,
        cache_id: str | None = None,
    ) -> Cache:
        """The same for a table that is described already."""
        if not table.modes:
            raise NotCacheable(f"the table {name} cannot be cached: it is virtual or cannot be read.")
        given: dict[Mode, str] = {mode: text for mode, text in schedules.items() if text is not None}
        if not table.key and "INCREMENTAL" in given:
            raise NotSupported(_no_key(name))
        if name in self.by_table:
            known = self.by_table[name]
            raise AlreadyCached(f"The table {name} is cached already, by cache {known.id}.", known)
        cache = Cache(str(uuid.uuid4()) if cache_id is None else self._unused(cache_id), name, table.modes)
        cache.schedules = {mode: Schedule.of(text, time.time()) for mode, text in given.items()}
        self._admit(cache)
        self._saver.note(cache)
        first: Mode = "FULL_REFRESH" if self.behaviour.first_sync_mode == "full_refresh" else "INCREMENTAL"
        if given:
            first = "FULL_REFRESH" if "FULL_REFRESH" in given else "INCREMENTAL"
        if first not in cache.modes:
            first = "FULL_REFRESH"
        self.trigger(cache, first, "creation", request_number)
        self._set_timers(cache)
        return cache

    def reschedule(self, cache: Cache, schedules: dict[Mode, str | None]) -> None:
        """Set the schedules of the modes named, None for none. Raises `NotSupported`."""
        for mode, text in schedules.items():
            if text is not None and mode not in cache.modes:
                raise NotSupported(_no_key(cache.name))
        for mode, text in schedules.items():
            if text is None:
                cache.schedules.pop(mode, None)
            else:
                cache.schedules[mode] = Schedule.of(text, time.time())
            self._set_timers(cache, mode)
        self._saver.note(cache)

    async def delete(self, cache: Cache) -> None:
        """Forget a cache: what runs is cancelled, what waits never starts, its copy is dropped.

        Raises `StoreFailed`, and leaves it as it was, where the store cannot forget it.
        """
        async with self._saver.lock:  # no save may bring it back
            await self.in_thread(self._store.forget, cache.id)
            if cache.id in self.caches:  # nobody has deleted it meanwhile
                self._remove(cache)

    def _remove(self, cache: Cache) -> None:
        del self.caches[cache.id], self.by_table[cache.name]
        self.deleted_at[cache.name] = time.time()
        if cache.active and self.behaviour.left_behind:
            self.left_behind.add(cache.name)
        self._stop_timers(cache)
        for execution in list(cache.active):
            self._stop(execution)
            if execution.started_at is None:
                self._finish(cache, execution, "CANCELLED")
        self._spawn(self._drop(cache))

    def is_cached(self, name: TableName) -> bool:
        """Whether a table is called cached."""
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
        version = self._store.version(cache.id)
        return Place(str(self._store.path), copy_name(cache.id), cache.copied, version=version)

    # Executions

    def trigger(
        self, cache: Cache, mode: Mode, origin: Origin, request_number: int | None = None
    ) -> Execution | None:
        """Start an execution, or queue it. None where the trigger is taken for one that is under way already.

        A stranger's always becomes an execution. A schedule skips its turn while one of its mode is unfinished.
        Raises `Refused` and `NotSupported`.
        """
        if mode not in cache.modes:
            raise NotSupported(_no_key(cache.name))
        if origin in ("api", "schedule"):
            same = any(e.mode == mode for e in cache.active)
            other = any(e.mode != mode for e in cache.active)
            if other and self.behaviour.other_mode == "refuse":
                raise Refused(f"The cache {cache.id} of {cache.name} is being synced in the other mode.")
            if same and (self.behaviour.coalesce or origin == "schedule"):
                return None
            if other and self.behaviour.other_mode == "coalesce":
                return None
        now = time.time()
        plan = self.plans.take(cache.name, mode) or Plan(times=None)
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
        return execution

    def cancel(self, cache: Cache, mode: Mode) -> bool:
        """Ask the running execution of a mode to stop. False where none runs.

        Raises `NotShown` for one without a record, where the service is taken to trip over that.
        """
        execution = cache.running(mode)
        if execution is None:
            return False
        unseen = mode == "FULL_REFRESH" and execution.visible_at > time.time()
        if unseen and self.behaviour.cancel_in_gap == "fail":
            raise NotShown
        execution.stopping = True
        self._saver.note(execution)
        self._stop(execution)
        return True

    def release(self, cache: Cache) -> None:
        """Let the executions of a cache that wait to be released go on."""
        for execution in cache.active:
            execution.released.set()

    def visible(self, cache: Cache) -> list[Execution]:
        """What the API shows of a cache's executions now, oldest first."""
        now, hide_queued = time.time(), self.behaviour.hide_queued
        return [
            e
            for e in cache.executions
            if e.visible_at <= now
            and not (e.started_at is None and (hide_queued or e.finished))
            and not (e.plan.vanish and e.finished)
        ]

    def history(self, cache: Cache) -> list[Execution]:
        """What the API shows of a cache's executions of the last 14 days, newest first."""
        old = time.time() - RETENTION
        return [e for e in reversed(self.visible(cache)) if e.finished_at is None or e.finished_at >= old]

    async def written(self) -> None:
        """Returns once the store holds all that has changed until now. Raises `StoreFailed`."""
        await self._saver.written()

    async def in_thread(self, function: Callable[..., T], *values: Any) -> T:
        """The result of something that blocks, from the pool of threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *values)

    def _unused(self, cache_id: str) -> str:
        """A wanted id, which a path of the API has to carry. One of a deleted cache still names its executions."""
        if type(cache_id) is not str or not cache_id.isprintable() or cache_id.strip() in ("", ".", ".."):
            raise SandboxError(f"cache_id {cache_id!r}: an id is a text that can be a part of an address.")
        if cache_id in self.names:
            raise SandboxError(f"cache_id {cache_id}: the cache of {self.names[cache_id]} has it, or had it.")
        return cache_id

    # The life of an execution

    def _admit(self, cache: Cache) -> None:
        self.caches[cache.id] = self.by_table[cache.name] = cache
        self.names[cache.id] = cache.name

    def _enter(self, cache: Cache, execution: Execution) -> None:
        cache.executions.append(execution)
        self.truth.append(execution)
        if not execution.finished:
            cache.active.append(execution)
            self._unfinished += 1
            self._idle.clear()

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
                self._spawn(self._live(cache, execution))
                if in_turn:
                    return

    async def _live(self, cache: Cache, execution: Execution) -> None:
        plan = execution.plan
        try:
            await self.written()
            if execution.stopping:
                execution.leave.set()
            if plan.never_picked_up and not await self._released(execution):
                done = False
            elif plan.fail is None and not plan.scripted:
                done = await self._sync(cache, execution)
            else:
                done = await self._last(execution)
            if self._closing and not done:
                return
            if done and plan.scripted:
                execution.counts = _scripted_counts(cache, execution)
            self._finish(cache, execution, "COMPLETED" if done else "CANCELLED", plan.fail)
        except (CopyError, StoreFailed) as error:
            self._finish(cache, execution, "FAILED", {"message": str(error)})
        except Exception as error:  # whatever it is, an execution has to end
            self._finish(cache, execution, "FAILED", {"message": f"The sandbox itself failed: {error!r}."})

    def _finish(
        self, cache: Cache, execution: Execution, status: str, error: dict[str, Any] | str | None = None
    ) -> None:
        execution.status = "FAILED" if error is not None and status == "COMPLETED" else status
        execution.error = error if execution.status == "FAILED" else None
        execution.finished_at = execution.updated_at = time.time()
        cache.active.remove(execution)
        execution.ended.set()
        self._unfinished -= 1
        if not self._unfinished:
            self._idle.set()
        if cache.id in self.caches:
            self._saver.note(execution)
            self._expire(cache)
            self._pump(cache)

    async def _last(self, execution: Execution) -> bool:
        """Wait until the execution has lasted as long as it shall. False where it has to stop before."""
        lasting = execution.duration + execution.counts.cached * self.behaviour.row_seconds
        until = (execution.started_at or 0.0) + lasting
        if execution.mode == "FULL_REFRESH" and self.behaviour.full_refresh_gap:
            until = max(
                until, execution.visible_at
            )  # no sync is so short that its record shows it as ended only
        left = until - time.time()
        if left > 0 and await set_within(execution.leave, left):
            return False
        if execution.plan.hold:
            await self._released(execution)
        return not execution.leave.is_set()

    async def _released(self, execution: Execution) -> bool:
        """Wait until the execution is released. False where it has to stop before."""
        waits = [asyncio.ensure_future(event.wait()) for event in (execution.released, execution.leave)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return not execution.leave.is_set()

    async def _sync(self, cache: Cache, execution: Execution) -> bool:
        """Copy. False where it has to stop before its end: then an incremental keeps what it has applied."""
        file = self.sources.file(cache.name)
        if file is None:
            raise CopyError(
                f"The sandbox was started without the source {cache.name.catalog}.{cache.name.schema}."
            )
        job = Job(file, cache.name.table, cache.id, execution.id)
        if execution.mode == "INCREMENTAL":
            async with cache.copying:
                await self._copy(
                    cache, execution, job, lambda copier: copier.incremental(job, execution.counts)
                )
                cache.deltas += 1
            return await self._last(execution)
        deltas = cache.deltas
        async with cache.copying:
            await self._copy(cache, execution, job, lambda copier: copier.full_refresh(job))
        done = await self._last(execution)
        async with cache.copying, self._seats:
            copier = self._take_copier()
            try:
                await self.in_thread(copier.swap if done else copier.discard, job)
                if done and deltas != cache.deltas:  # an incremental beside it has read what this one has not
                    await self.in_thread(_exhaust, copier.incremental(job, Counts()))
            finally:
                self._copiers.append(copier)
        if done:
            self._note_columns(cache, job.found)
        return done

    async def _copy(
        self, cache: Cache, execution: Execution, job: Job, begin: Callable[[Copier], Steps[None]]
    ) -> None:
        async with self._seats:
            if execution.leave.is_set():
                return
            copier = execution.copier = self._take_copier()
            steps = begin(copier)
            try:
                while not execution.leave.is_set():
                    counts = await self.in_thread(_step, steps)
                    if execution.mode == "INCREMENTAL" and job.found is not None:
                        self._note_columns(cache, job.found)
                    if counts is None:
                        return
                    execution.counts, execution.updated_at = counts, time.time()
            except CopyError:
                if not execution.leave.is_set():  # interrupted, because it has to stop
                    raise
            finally:
                execution.copier = None
                await self.in_thread(steps.close)
                self._copiers.append(copier)

    def _note_columns(self, cache: Cache, table: Table | None) -> None:
        if table is not None:
            cache.copied = tuple((column.name, column.trino_type) for column in table.columns)
            if cache.modes != table.modes:
                cache.modes = table.modes
                self._saver.note(cache)

    def _take_copier(self) -> Copier:
        return self._copiers.pop() if self._copiers else Copier(self._store)

    def _stop(self, execution: Execution) -> None:
        execution.leave.set()
        if execution.copier is not None:
            execution.copier.interrupt()

    def _spawn(self, life: Any) -> None:
        task = asyncio.create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drop(self, cache: Cache) -> None:
        async with cache.copying:
            with suppress(StoreFailed):  # then it is swept at the next start
                await self.in_thread(self._store.drop, cache.id)

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

    # Schedules

    def _set_timers(self, cache: Cache, *modes: Mode) -> None:
        for mode in modes or MODES:
            if timer := cache.timers.pop(mode, None):
                timer.cancel()
            if schedule := cache.schedules.get(mode):
                cache.timers[mode] = asyncio.create_task(self._follow(cache, mode, schedule))

    def _stop_timers(self, cache: Cache) -> None:
        for timer in cache.timers.values():
            timer.cancel()
        cache.timers.clear()

    async def _follow(self, cache: Cache, mode: Mode, schedule: Schedule) -> None:
        while True:
            waited = time.time() - schedule.since
            await asyncio.sleep(schedule.seconds - waited % schedule.seconds)
            try:
                self.trigger(cache, mode, "schedule")
            except (Refused, NotSupported):
                continue


def _step(steps: Steps[None]) -> Counts | None:
    return next(steps, None)


def _exhaust(steps: Steps[None]) -> None:
    for _ in steps:
        pass


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


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event is set before so many seconds have passed."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
        return False
    return True


def _no_key(name: TableName) -> str:
    return f"The table {name} has no primary key, so it cannot be synced incrementally, only by FULL_REFRESH."


def of_tables(executions: Iterable[Execution], ids: set[str]) -> list[ExecutionRecord]:
    """The truth about the executions of the caches with these ids."""
    return [execution.record() for execution in executions if execution.cache_id in ids]
