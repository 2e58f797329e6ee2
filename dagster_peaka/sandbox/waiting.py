"""Waiting for what another task may do first."""

import asyncio


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event is set before so many seconds have passed."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
        return False
    return True


async def first_of(*events: asyncio.Event) -> None:
    """Returns when one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
