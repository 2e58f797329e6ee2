"""What a run's log says about its syncs: each change of state for a few caches, counts for many, and what was left.

For up to :data:`SPOKEN_FOR` caches every change is logged at once, and the rows so far at most every
:data:`PROGRESS_INTERVAL` seconds. Above that one line of counts follows each look, because a thousand log lines cost
Dagster seconds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dagster_peaka.models import CacheExecution
from dagster_peaka.sync import Origin, State, Sync

SPOKEN_FOR = 20
"""Up to so many caches get lines of their own."""

PROGRESS_INTERVAL = 30.0
"""Seconds between two lines about the progress of one cache, at least."""

NAMED_AT_MOST = 50
"""Caches that one line names at most when a run is terminated."""

_KNOWN_STATUSES = frozenset({"RUNNING", "COMPLETED", "FAILED", "CANCELLED", ""})


class Progress:
    """Writes the log of one step: ``told`` after anything new about a cache, ``looked_at_many`` after a listing."""

    def __init__(
        self, log: logging.Logger | logging.LoggerAdapter[Any], caches: int, clock: Callable[[], float]
    ) -> None:
        self._log = log
        self._each = caches <= SPOKEN_FOR
        self._clock = clock
        self._began = clock()
        self._last: dict[object, tuple[object, ...]] = {}
        self._said_at: dict[object, float] = {}
        self._unreadable: set[object] = set()
        self._odd: set[tuple[object, str]] = set()
        self._counts = ""

    def told(self, target: object, sync: Sync) -> None:
        """Something new is known about ``target``."""
        self._warn_once(target, sync)
        if not self._each:
            return
        execution = sync.execution
        key = (
            sync.state,
            sync.triggers,
            execution.id if execution else None,
            execution.status if execution else None,
        )
        changed = self._last.get(target) != key
        self._last[target] = key
        now = self._clock()
        if changed:
            line = _line(sync)
            if line:
                self._log.info("%s: %s", target, line)
                self._said_at[target] = now
        elif execution is not None and now - self._said_at.get(target, now) >= PROGRESS_INTERVAL:
            self._said_at[target] = now
            self._log.info(
                "%s: %s after %.0f s%s", target, execution.status, now - self._began, _so_far(execution)
            )

    def _warn_once(self, target: object, sync: Sync) -> None:
        unreadable = sync.unreadable_reason
        if unreadable and target not in self._unreadable and sync.result is None:
            self._unreadable.add(target)
            if self._each or len(self._unreadable) == 1:
                self._log.warning("%s: %s Trying again.", target, unreadable)
        elif not unreadable and target in self._unreadable:
            self._unreadable.discard(target)
            if self._each or not self._unreadable:
                self._log.info("%s: Peaka answers again.", target)
        status = sync.execution.status if sync.execution else ""
        if status not in _KNOWN_STATUSES and (target, status) not in self._odd:
            self._odd.add((target, status))
            if self._each:
                self._log.warning(
                    "%s: status %r is new to this package; waiting for one that it knows.", target, status
                )

    def looked_at_many(self, syncs: Sequence[Sync]) -> None:
        """A listing was read."""
        if self._each:
            return
        counts = Counter(_stage(sync) for sync in syncs)
        text = ", ".join(f"{counts[stage]} {stage}" for stage in _STAGES if counts[stage])
        if text != self._counts:
            self._counts = text
            self._log.info("%d caches after %.0f s: %s", len(syncs), self._clock() - self._began, text)

    def cancelled(self, syncs: Sequence[tuple[object, Sync]]) -> None:
        """These executions were asked to stop."""
        if syncs:
            named = _named([(target, sync, "") for target, sync in syncs])
            self._log.info("Run terminated: Peaka was asked to cancel %s.", named)

    def left(self, syncs: Sequence[tuple[object, Sync, str]]) -> None:
        """These were left alone, each for the reason given."""
        if syncs:
            self._log.warning(
                "Run terminated; left alone, and may still run or start in Peaka: %s.", _named(syncs)
            )


_STAGES = ("to be triggered", "triggered", "running", "completed", "failed")


def _stage(sync: Sync) -> str:
    if sync.result is not None:
        return "completed" if sync.result.ok else "failed"
    if sync.state is State.FOLLOW:
        return "running"
    return "triggered" if sync.triggers or sync.origin is Origin.ADOPTED else "to be triggered"


def _line(sync: Sync) -> str:
    execution = sync.execution
    words = sync.mode.words
    if sync.result is not None:
        if not sync.result.ok or execution is None:
            return ""  # the failure itself is told by whoever asked for the sync
        took = execution.duration_seconds
        return f"execution {execution.id} COMPLETED{_so_far(execution)}" + (
            f" in {took:.1f} s" if took is not None else ""
        )
    if sync.state is State.POSTED:
        baseline = sync.baseline.id or "none"
        if sync.triggers > 1:
            return f"nothing new has appeared for {sync.rules.start_timeout:g} s; triggering the {words} once more"
        return f"triggering the {words} (newest execution so far: {baseline})"
    if sync.state is State.IDENTIFY and sync.triggers:
        return "triggered; waiting for its execution to appear"
    if sync.state is State.IDENTIFY:
        return "an earlier attempt had triggered it; looking for that execution"
    if sync.state is State.FOLLOW and execution is not None:
        verb = {Origin.TRIGGERED: "following", Origin.ATTACHED: "attached to", Origin.ADOPTED: "adopted"}[
            sync.origin
        ]
        return f"{verb} execution {execution.id} ({execution.status or 'no status'}){_so_far(execution)}"
    return ""


def _so_far(execution: CacheExecution) -> str:
    progress = execution.progress
    parts = [
        f"{count:,} {word}"
        for count, word in (
            (progress.inserted, "inserted"),
            (progress.updated, "updated"),
            (progress.deleted, "deleted"),
        )
        if count is not None
    ]
    return f": {', '.join(parts)}" if parts else ""


def _named(syncs: Sequence[tuple[object, Sync, str]]) -> str:
    parts: list[str] = []
    for target, sync, why in syncs[:NAMED_AT_MOST]:
        execution = f"execution {sync.execution.id}" if sync.execution else "an execution not yet identified"
        parts.append(f"{target}: {execution}" + (f" ({why})" if why else ""))
    more = len(syncs) - NAMED_AT_MOST
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
