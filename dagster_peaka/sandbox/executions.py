"""The caches and the life of their executions: created, queued, running, ended; by triggers, schedules or strangers.

All state lives in one asyncio loop and is touched by nobody else, so it needs no locks. An execution is a task that
mostly sleeps; only its copying takes a seat, and each of its steps goes through a small pool of threads.

    trigger, schedule, stranger -> QUEUED --(its lane is free)--> RUNNING --> COMPLETED | FAILED | CANCELLED

A lane is a cache and a mode. The store gets to know of changes in batches, in the background; `close()` waits for the
last one. An execution that is not finished then goes on, under the same id, when a sandbox opens that store again.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dagster_peaka.sandbox.behaviour import Behaviour, Mode, Plan, Plans
from dagster_peaka.sandbox.copying import Copier, CopyError, Job, Steps
from dagster_peaka.sandbox.durations import parse_duration
from dagster_peaka.sandbox.sources import Sources, Table, TableName, trino_type
from dagster_peaka.sandbox.store import Counts, SavedExecution, Store, copy_name

T = TypeVar("T")
Origin = Literal["api", "schedule", "stranger", "creation"]

MODES: tuple[Mode, Mode] = ("INCREMENTAL", "FULL_REFRESH")
RETENTION = 14 * 86_400
"""Seconds for which an execution stays in the history after its end (Peaka's document: 14 days)."""
_COPYING_AT_ONCE = 8
_THREADS = 3
_SAVE_EVERY = 0.05


class Refused(Exception):
    """A trigger that Peaka would answer with a 4xx, because the other mode runs."""


class NotSupported(Exception):
    """The table cannot be synced in this mode."""


class NoSuchTable(Exception):
    """No source has the table."""


class NotCacheable(Exception):
    """The table cannot be cached in any mode."""


class AlreadyCached(Exception):
    """The table has a cache already."""


@dataclass
class ExecutionRecord:
    """The truth about an execution, whatever the API shows of it. Times are epoch seconds by the true clock."""

    id: str
    cache_id: str
    mode: Mode
    status: str
    origin: Origin
    request_number: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    inserted: int
    updated: int
    deleted: int
    cached: int
    error: dict[str, Any] | str | None


@dataclass(eq=False)
class Execution:
    """One run of a cache's sync. `status` is QUEUED, RUNNING, COMPLETED, FAILED or CANCELLED."""

    id: str
    cache_id: str
    mode: Mode
    origin: Origin
    sequence: int
    request_number: int | None
    created_at: float
    visible_at: float
    duration: float
    plan: Plan
    status: str = "QUEUED"
    started_at: float | None = None
    updated_at: float | None = None
    finished_at: float | None = None
    error: dict[str, Any] | str | None = None
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.leave = asyncio.Event()
        """Set when it has to stop early: cancelled, its cache deleted, or the sandbox closing."""
        self.released = asyncio.Event()
        self.copier: Copier | None = None

    @property
    def finished(self) -> bool:
        """Whether it has come to an end."""
        return self.finished_at is not None

    def record(self) -> ExecutionRecord:
        """A copy of the truth about it."""
        return ExecutionRecord(
            self.id,
            self.cache_id,
            self.mode,
            self.status,
            self.origin,
            self.request_number,
            self.created_at,
            self.started_at,
            self.finished_at,
            self.counts.inserted,
            self.counts.updated,
            self.counts.deleted,
            self.counts.cached,
            self.error,
        )

    def saved(self) -> SavedExecution:
        """What the store keeps of it."""
        body = {name: value for name, value in vars(self).items() if name in _SAVED_FIELDS}
        body["plan"] = asdict(self.plan)
        return SavedExecution(
            self.id, self.cache_id, self.sequence, body, self.finished, Counts(**vars(self.counts))
        )

    @classmethod
    def load(cls, saved: SavedExecution) -> "Execution":
        """An execution as the store kept it."""
        body = {**saved.body, "plan": Plan(**saved.body["plan"])}
        return cls(id=saved.id, cache_id=saved.cache_id, sequence=saved.sequence, counts=saved.counts, **body)


_SAVED_FIELDS = frozenset(Execution.__dataclass_fields__) - {"id", "cache_id", "sequence", "counts", "plan"}


@dataclass
class Schedule:
    """When a cache syncs by itself: every `seconds`, counted from `since` (epoch seconds)."""

    expression: str
    seconds: float
    since: float


@dataclass(eq=False)
class Cache:
    """A table that is kept as a copy. `copied` holds the columns of its copy, once there is one."""

    id: str
    name: TableName
    modes: tuple[Mode, ...]
    schedules: dict[Mode, Schedule] = field(default_factory=dict[Mode, Schedule])
    copied: tuple[tuple[str, str], ...] | None = None
    deltas: int = 0
    executions: list[Execution] = field(default_factory=list[Execution])
    active: list[Execution] = field(default_factory=list[Execution])
    timers: dict[Mode, "asyncio.Task[None]"] = field(default_factory=dict[Mode, "asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self.copying = asyncio.Lock()
        """Executions of both modes may run at once; their copying takes turns."""

    def running(self, mode: Mode) -> Execution | None:
        """The execution of a mode that has left the queue."""
        return next((e for e in self.active if e.mode == mode and e.started_at is not None), None)

    def saved(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            "id": self.id,
            "name": list(self.name),
            "modes": list(self.modes),
            "schedules": {mode: asdict(schedule) for mode, schedule in self.schedules.items()},
        }


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
        self._store = store
        self._sequence = 0
        self._unfinished = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._copiers: list[Copier] = []
        self._dirty_caches: set[Cache] = set()
        self._dirty_executions: set[Execution] = set()
        self._expired: set[str] = set()
        self._closing = False

    # Opening and closing

    async def open(self) -> None:
        """Take up what the store holds, executions that were not finished included."""
        self._pool = ThreadPoolExecutor(_THREADS, "peaka-sandbox-copy")
        self._seats = asyncio.Semaphore(_COPYING_AT_ONCE)
        self._idle = asyncio.Event()
        self._idle.set()
        self._dirty = asyncio.Event()
        self._saving = asyncio.Lock()
        caches, executions, shapes = self._store.load()
        for body in caches:
            cache = Cache(body["id"], TableName(*body["name"]), tuple(body["modes"]))
            cache.schedules = {mode: Schedule(**schedule) for mode, schedule in body["schedules"].items()}
            if cache.id in shapes:
                cache.copied = tuple(
                    (name, trino_type(declared)) for name, declared in shapes[cache.id]["columns"]
                )
            self._admit(cache)
        for saved in executions:
            self._sequence = max(self._sequence, saved.sequence)
            self._enter(self.caches[saved.cache_id], Execution.load(saved))
        for cache in self.caches.values():
            for execution in [e for e in cache.active if e.started_at is not None]:
                self._spawn(self._live(cache, execution))
            self._pump(cache)
            self._set_timers(cache)
        self._saver = asyncio.create_task(self._save_in_batches())

    async def close(self) -> None:
        """Stop copying and write down what the store has not seen. Unfinished executions stay unfinished."""
        self._closing = True
        for cache in self.caches.values():
            self._stop_timers(cache)
            for execution in cache.active:
                self._stop(execution)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._saver.cancel()
        await asyncio.gather(self._saver, return_exceptions=True)
        await self._save()
        for copier in self._copiers:
            copier.close()
        self._pool.shutdown()

    async def idle(self) -> None:
        """Returns when no execution runs or waits."""
        await self._idle.wait()

    # Caches

    async def create(
        self,
        name: TableName,
        schedules: dict[Mode, str],
        request_number: int | None = None,
    ) -> Cache:
        """A new cache, its first sync triggered.

        Raises `NoSuchTable`, `NotCacheable`, `NotSupported` (for a schedule) and `AlreadyCached`.
        """
        table = await self.in_thread(self.sources.table, name)
        if table is None:
            raise NoSuchTable(f"there is no table {ascii(str(name))[:200]}.")
        if not table.modes:
            raise NotCacheable(f"the table {name} cannot be cached: it is virtual or cannot be read.")
        if not table.key and "INCREMENTAL" in schedules:
            raise NotSupported(_no_key(name))
        if name in self.by_table:
            raise AlreadyCached(f"The table {name} is cached already, by cache {self.by_table[name].id}.")
        cache = Cache(str(uuid.uuid4()), name, table.modes)
        now = time.time()
        cache.schedules = {m: Schedule(text, parse_duration(text), now) for m, text in schedules.items()}
        self._admit(cache)
        self._dirty_caches.add(cache)
        self._touch()
        first: Mode = "FULL_REFRESH" if self.behaviour.first_sync_mode == "full_refresh" else "INCREMENTAL"
        if schedules:
            first = "FULL_REFRESH" if "FULL_REFRESH" in schedules else "INCREMENTAL"
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
                cache.schedules[mode] = Schedule(text, parse_duration(text), time.time())
            self._set_timers(cache, mode)
        self._dirty_caches.add(cache)
        self._touch()

    def delete(self, cache: Cache) -> None:
        """Forget a cache: what runs is cancelled, what waits never starts, its copy is dropped."""
        del self.caches[cache.id], self.by_table[cache.name]
        self._stop_timers(cache)
        self._dirty_caches.discard(cache)
        for execution in list(cache.active):
            self._stop(execution)
            if execution.started_at is None:
                self._finish(cache, execution, "CANCELLED")
        self._spawn(self._forget(cache))

    def columns_of(self, name: TableName) -> tuple[Path, str, tuple[tuple[str, str], ...]] | None:
        """Where a cached table's copy is: the file, the table in it, its columns with their Trino types."""
        cache = self.by_table.get(name)
        if cache is None or cache.copied is None:
            return None
        return self._store.path, copy_name(cache.id), cache.copied

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
        self._sequence += 1
        execution = Execution(
            id=str(uuid.uuid4()),
            cache_id=cache.id,
            mode=mode,
            origin=origin,
            sequence=self._sequence,
            request_number=request_number,
            created_at=now,
            visible_at=now + self.behaviour.visible_after,
            duration=self.behaviour.execution_seconds if plan.duration is None else plan.duration,
            plan=plan,
        )
        self._enter(cache, execution)
        self._touch(execution)
        self._pump(cache)
        return execution

    def cancel(self, cache: Cache, mode: Mode) -> bool:
        """Ask the running execution of a mode to stop. False where none runs."""
        execution = cache.running(mode)
        if execution is None:
            return False
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

    async def in_thread(self, function: Callable[..., T], *values: Any) -> T:
        """The result of something that blocks, from the pool of threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *values)

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
                self._touch(execution)
                self._spawn(self._live(cache, execution))
                if in_turn:
                    return

    async def _live(self, cache: Cache, execution: Execution) -> None:
        try:
            if execution.plan.fail is None:
                done = await self._sync(cache, execution)
            else:
                done = await self._last(execution)
            if self._closing and not done:
                return
            self._finish(cache, execution, "COMPLETED" if done else "CANCELLED", execution.plan.fail)
        except CopyError as error:
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
        self._unfinished -= 1
        if not self._unfinished:
            self._idle.set()
        if cache.id in self.caches:
            self._touch(execution)
            self._expire(cache)
            self._pump(cache)

    async def _last(self, execution: Execution) -> bool:
        """Wait until the execution has lasted as long as it shall. False where it has to stop before."""
        left = (execution.started_at or 0.0) + execution.duration - time.time()
        if left > 0 and await _set_within(execution.leave, left):
            return False
        if execution.plan.hold and not execution.released.is_set():
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
                    counts = await self.in_thread(next, steps, None)
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
                self._dirty_caches.add(cache)

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

    async def _forget(self, cache: Cache) -> None:
        async with cache.copying, self._saving:  # no save may bring it back
            await self.in_thread(self._store.forget, cache.id)

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
                self._dirty_executions.discard(execution)
                self._expired.add(execution.id)

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

    # Persistence

    def _touch(self, execution: Execution | None = None) -> None:
        if self._store.kept:
            if execution is not None:
                self._dirty_executions.add(execution)
            self._dirty.set()

    async def _save_in_batches(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(_SAVE_EVERY)
            await asyncio.shield(asyncio.ensure_future(self._save()))

    async def _save(self) -> None:
        async with self._saving:
            caches = {cache.id: cache.saved() for cache in self._dirty_caches}
            executions = [e.saved() for e in self._dirty_executions if e.cache_id in self.caches]
            expired, self._expired = self._expired, set()
            self._dirty_caches.clear()
            self._dirty_executions.clear()
            if caches or executions or expired:
                await self.in_thread(self._store.save, caches, executions, expired)


def _exhaust(steps: Steps[None]) -> None:
    for _ in steps:
        pass


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # noqa: UP041 - on Python 3.10 it is not yet the built-in one
        return False
    return True


def _no_key(name: TableName) -> str:
    return f"The table {name} has no primary key, so it cannot be synced incrementally, only by FULL_REFRESH."


def of_tables(executions: Iterable[Execution], ids: set[str]) -> list[ExecutionRecord]:
    """The truth about the executions of the caches with these ids."""
    return [execution.record() for execution in executions if execution.cache_id in ids]
