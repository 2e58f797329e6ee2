"""The schedules of caches: when a cache syncs by itself."""

import asyncio
import time
from collections.abc import Callable

from dagster_peaka.sandbox.behaviour import MODES, Mode
from dagster_peaka.sandbox.caches import Cache, Schedule


class Timers:
    """One for each schedule of a cache; `due` is called whenever one is due."""

    def __init__(self, due: Callable[[Cache, Mode], None]) -> None:
        self._due = due

    def set(self, cache: Cache, *modes: Mode) -> None:
        """Go by the schedules that the cache now has, of some modes or of all."""
        for mode in modes or MODES:
            if timer := cache.timers.pop(mode, None):
                timer.cancel()
            if schedule := cache.schedules.get(mode):
                cache.timers[mode] = asyncio.create_task(self._follow(cache, mode, schedule))

    def stop(self, cache: Cache) -> None:
        """Start nothing any more."""
        for timer in cache.timers.values():
            timer.cancel()
        cache.timers.clear()

    async def _follow(self, cache: Cache, mode: Mode, schedule: Schedule) -> None:
        while True:
            waited = time.time() - schedule.since
            await asyncio.sleep(schedule.seconds - waited % schedule.seconds)
            self._due(cache, mode)
