"""Copying on behalf of executions: a few at a time, each with a copier of its own, step by step in threads."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dagster_peaka.sandbox.behaviour import Behaviour
from dagster_peaka.sandbox.caches import Cache, Execution
from dagster_peaka.sandbox.copying import Copier, CopyError, Job, Steps
from dagster_peaka.sandbox.saving import Saver
from dagster_peaka.sandbox.sources import Sources, Table
from dagster_peaka.sandbox.store import Counts, Store

_AT_ONCE = 8


class Copying:
    """The copying of all executions. `in_thread` runs what blocks."""

    def __init__(
        self,
        sources: Sources,
        store: Store,
        behaviour: Behaviour,
        saver: Saver,
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        self._sources, self._store, self._behaviour = sources, store, behaviour
        self._saver, self._in_thread = saver, in_thread
        self._copiers: list[Copier] = []
        self._seats = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        """Give all connections back."""
        for copier in self._copiers:
            copier.close()

    async def sync(self, cache: Cache, execution: Execution) -> bool:
        """Copy. False where it has to stop before its end: then an incremental keeps what it has applied."""
        file = self._sources.file(cache.name)
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
            return await execution.last(self._behaviour)
        deltas = cache.deltas
        async with cache.copying:
            await self._copy(cache, execution, job, lambda copier: copier.full_refresh(job))
        done = await execution.last(self._behaviour)
        async with cache.copying, self._seats:
            copier = self._take_copier()
            try:
                await self._in_thread(copier.swap if done else copier.discard, job)
                if done and deltas != cache.deltas:  # an incremental beside it has read what this one has not
                    await self._in_thread(_exhaust, copier.incremental(job, Counts()))
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
                    counts = await self._in_thread(_step, steps)
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
                await self._in_thread(steps.close)
                self._copiers.append(copier)

    def _note_columns(self, cache: Cache, table: Table | None) -> None:
        if table is not None:
            cache.copied = tuple((column.name, column.trino_type) for column in table.columns)
            if cache.modes != table.modes:
                cache.modes = table.modes
                self._saver.note(cache)

    def _take_copier(self) -> Copier:
        return self._copiers.pop() if self._copiers else Copier(self._store)


def _step(steps: Steps[None]) -> Counts | None:
    return next(steps, None)


def _exhaust(steps: Steps[None]) -> None:
    for _ in steps:
        pass
