"""What a tick of the polling sensor says of itself: the reason that Dagster's UI shows beside it. Pure."""

from collections.abc import Collection

import dagster as dg

from dagster_peaka.sensors.events import Event

PLURALS = {"history": "histories", "materialized query": "materialized queries"}


def summary(
    events: Collection[Event],
    *,
    is_first: bool,
    caches: int,
    histories: int,
    unfinished: int,
    left: int,
    failed: int,
) -> str:
    """What was recorded, or that nothing was; how many caches were polled; and what is still to come.

    Args:
        caches: those that were polled.
        histories: those of them whose histories were read, because their statuses did not tell all.
        unfinished: executions that have not ended, or are left to a run.
        left: caches that are left to the next tick.
        failed: syncs that failed and are in the log only, because their assets declare no check.
    """
    materializations = sum(isinstance(event, dg.AssetMaterialization) for event in events)
    recorded = [
        counted(materializations, "materialization") if materializations else "",
        counted(len(events) - materializations, "check evaluation") if len(events) > materializations else "",
    ]
    if events:
        assets = {event.asset_key for event in events}
        first = f"Recorded {' and '.join(filter(None, recorded))} of {counted(len(assets), 'cache')}."
    elif is_first:
        first = "The first tick records nothing, but what ends from now on is recorded."
    else:
        first = "Recorded nothing."
    parts = [
        f"Polled {counted(caches, 'cache')}, read {counted(histories, 'history')}",
        f"{counted(unfinished, 'execution')} unfinished" if unfinished else "",
        f"{counted(left, 'cache')} left to the next tick" if left else "",
        f"{counted(failed, 'failure')} in the log only" if failed else "",
    ]
    return f"{first} {'; '.join(filter(None, parts))}."


def counted(number: int, noun: str) -> str:
    """A number of things, such as ``1 cache`` and ``2 histories``."""
    return f"{number} {noun if number == 1 else PLURALS.get(noun, f'{noun}s')}"
