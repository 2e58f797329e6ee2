"""What the store has yet to be told: noted at once, written in batches, and waited for by whoever has to be sure."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dagster_peaka.sandbox.caches import Cache, Execution
from dagster_peaka.sandbox.store import Store, StoreFailed

_EVERY = 0.05
_AGAIN = 1.0
"""Seconds between two batches, and before one that failed is tried again."""


class Saver:
    """The changes of caches and executions that are not in the store's file. `caches` are those that there are now:
    whatever belongs to another is forgotten. `in_thread` runs what blocks.
    """

    def __init__(
        self, store: Store, caches: Mapping[str, Cache], in_thread: Callable[..., Awaitable[Any]]
    ) -> None:
        self.lock = asyncio.Lock()
        """Held while a batch is written."""
        self._store, self._known, self._in_thread = store, caches, in_thread
        self._noted: dict[Cache | Execution, None] = {}  # in their order
        self._expired: set[str] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End that, and write the last one. Raises `StoreFailed`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.written()

    def note(self, changed: Cache | Execution) -> None:
        self._noted[changed] = None
        self._news.set()

    def note_expired(self, execution: Execution) -> None:
        self._noted.pop(execution, None)
        self._expired.add(execution.id)

    async def written(self) -> None:
        """Returns once the store holds all that was noted until now. Raises `StoreFailed`."""
        async with self.lock:
            noted, self._noted = self._noted, {}
            expired, self._expired = self._expired, set()
            caches = [one.saved() for one in noted if isinstance(one, Cache) and one.id in self._known]
            executions = [
                one.saved() for one in noted if isinstance(one, Execution) and one.cache_id in self._known
            ]
            if not (self._store.kept and (caches or executions or expired)):
                return
            try:
                await self._in_thread(self._store.save, caches, executions, expired)
            except StoreFailed:
                self._noted = noted | self._noted
                self._expired |= expired
                raise

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_EVERY)
            try:
                await asyncio.shield(asyncio.ensure_future(self.written()))
            except StoreFailed:  # there may be room later
                self._news.set()
                await asyncio.sleep(_AGAIN)
