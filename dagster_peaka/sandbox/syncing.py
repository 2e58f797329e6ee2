"""Copying on behalf of executions: a few at a time, each with a connection of its own, step by step in threads."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dagster_peaka.sandbox.behaviour import Behaviour
from dagster_peaka.sandbox.caches import Cache, Execution
from dagster_peaka.sandbox.copying import Connection, Copier, CopyError, Delta, Rebuild, shape_of
from dagster_peaka.sandbox.saving import Saver
from dagster_peaka.sandbox.sources import Sources, Table
from dagster_peaka.sandbox.store import Store

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
        self._connections: list[Connection] = []
        self._seats = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        for connection in self._connections:
            connection.db.close()

    async def sync(self, cache: Cache, execution: Execution) -> bool:
        """Copy. False where it has to stop before its end: then an incremental keeps what it has applied."""
        source = self._sources.file(cache.name)
        if source is None:
            raise CopyError(
                f"The sandbox was started without the source {cache.name.catalog}.{cache.name.schema}."
            )
        if execution.mode == "INCREMENTAL":
            async with cache.copying:
                await self._copy(Delta, source, cache, execution)
                cache.deltas += 1
            return await execution.last(self._behaviour)
        deltas = cache.deltas
        async with cache.copying:
            table = await self._copy(Rebuild, source, cache, execution)
        done = await execution.last(self._behaviour)
        async with cache.copying:
            if not done or table is None:
                await self._in_thread(self._store.discard, cache.id)
                return False
            await self._in_thread(self._store.swap, cache.id, shape_of(table))
            self._note_columns(cache, table)
            if deltas != cache.deltas:  # an incremental beside it has read what this one has not
                async with self._connection() as connection:
                    delta = Delta(self._store, connection, source, cache, execution)
                    await self._in_thread(_to_its_end, delta)
        return True

    async def _copy(
        self, kind: type[Copier], source: Path, cache: Cache, execution: Execution
    ) -> Table | None:
        """The table as it was copied. None where the execution had to stop before."""
        async with self._connection() as connection:
            copier = kind(self._store, connection, source, cache, execution)
            execution.interrupt = connection.db.interrupt
            try:
                more = True
                while more and not execution.leave.is_set():
                    more = await self._in_thread(copier.step)
                    if kind is Delta and copier.table is not None:
                        self._note_columns(cache, copier.table)
                    execution.counts, execution.updated_at = copier.counts, time.time()
                return None if more else copier.table
            except CopyError:
                if not execution.leave.is_set():  # interrupted, because it has to stop
                    raise
                return None
            finally:
                execution.interrupt = None

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        async with self._seats:
            connection = self._connections.pop() if self._connections else Connection(self._store)
            try:
                yield connection
            finally:
                self._connections.append(connection)

    def _note_columns(self, cache: Cache, table: Table) -> None:
        cache.copied = tuple((column.name, column.trino_type) for column in table.columns)
        if cache.modes != table.modes:
            cache.modes = table.modes
            self._saver.note(cache)


def _to_its_end(copier: Copier) -> None:
    while copier.step():
        pass
