"""What executions want of the store: their copying, a few at a time and step by step in threads, and to be remembered.

Changes are noted at once, and written together by whoever has to be sure of one of them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dagster_peaka.sandbox.behaviour import Behaviour
from dagster_peaka.sandbox.caches import Cache, Execution
from dagster_peaka.sandbox.copying import Connection, Copier, CopyError, Delta, Rebuild, shape_of
from dagster_peaka.sandbox.sources import Sources, Table
from dagster_peaka.sandbox.store import Store, StoreFailed

_AT_ONCE = 8


class Saver:
    """What the store has yet to be told of caches and executions. `caches` are those that there are now: whatever
    belongs to another is forgotten. `in_thread` runs what blocks.
    """

    def __init__(
        self, store: Store, caches: Mapping[str, Cache], in_thread: Callable[..., Awaitable[Any]]
    ) -> None:
        self.lock = asyncio.Lock()
        """Held while the store is told."""
        self.store, self._known, self.in_thread = store, caches, in_thread
        self._noted: dict[Cache | Execution, None] = {}  # in their order
        self._expired: set[str] = set()

    def note(self, changed: Cache | Execution) -> None:
        self._noted[changed] = None

    def note_expired(self, execution: Execution) -> None:
        self._noted.pop(execution, None)
        self._expired.add(execution.id)

    async def written(self) -> None:
        """Returns once the store holds all that was noted so far. Raises `StoreFailed`; the next call tries again."""
        async with self.lock:
            noted, self._noted = self._noted, {}
            expired, self._expired = self._expired, set()
            caches = [each for each in noted if isinstance(each, Cache) and each.id in self._known]
            executions = [e for e in noted if isinstance(e, Execution) and e.cache_id in self._known]
            if not (self.store.kept and (caches or executions or expired)):
                return
            try:
                rows = [each.saved() for each in caches], [each.saved() for each in executions]
                await self.in_thread(self.store.save, *rows, expired)
            except StoreFailed:
                self._noted = noted | self._noted
                self._expired |= expired
                raise


class Copying:
    """The copying of all executions."""

    def __init__(self, sources: Sources, behaviour: Behaviour, saver: Saver) -> None:
        self._sources, self._behaviour, self._saver = sources, behaviour, saver
        self._store, self._in_thread = saver.store, saver.in_thread
        self._connections: list[Connection] = []
        self._seats = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        for connection in self._connections:
            connection.db.close()

    async def sync(self, cache: Cache, execution: Execution) -> bool:
        """Copy. False where it has to stop before its end: then an incremental keeps what it has applied."""
        source = self._sources.file(cache.name)
        if source is None:
            catalog, schema, _ = cache.name
            raise CopyError(f"The sandbox was started without the source {catalog}.{schema}.")
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
