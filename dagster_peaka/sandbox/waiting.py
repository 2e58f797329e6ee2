"""Waiting, for what may have to stop before its time."""

import asyncio

from dagster_peaka.sandbox.behaviour import Plan


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
        return False
    return True


class Stoppable:
    """What lasts as its plan says, unless somebody stops it."""

    plan: Plan

    def __post_init__(self) -> None:
        self.leave = asyncio.Event()
        self.released = asyncio.Event()

    def stop(self) -> None:
        """Let it end early, whatever it does."""
        self.leave.set()
        self.released.set()

    async def lasted(self, seconds: float) -> bool:
        """Wait for so long, then, where that is planned, to be released. False where it has to stop before."""
        if seconds > 0 and await set_within(self.leave, seconds):
            return False
        if self.plan.hold:
            await self.released.wait()
        return not self.leave.is_set()
