"""What a run's log says about its syncs: each change of state for a few caches, counts for many, and what was left.

For up to :data:`SPOKEN_FOR` caches every change is logged at once, and the rows so far at most every
:data:`PROGRESS_INTERVAL` seconds. Above that one line of counts follows each poll, because a thousand log lines cost
Dagster seconds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_peaka.api.fields import TERMINAL_STATUSES
from dagster_peaka.api.models import CacheExecution
from dagster_peaka.caches.names import SyncTarget, few
from dagster_peaka.errors import sentence, with_article
from dagster_peaka.sync.machine import Reading, State, Sync
from dagster_peaka.sync.outcome import Origin, Posted
from dagster_peaka.sync.timers import HANGING

SPOKEN_FOR = 20
"""Up to so many caches get lines of their own."""

PROGRESS_INTERVAL = 30.0
"""Seconds between two lines about the progress of one cache, at least."""

NAMED_AT_MOST = 50
"""Caches that one line names at most when a run is terminated."""

_EXPECTED_STATUSES = TERMINAL_STATUSES | {"RUNNING", ""}


@dataclass
class _Logged:
    """What the log has said about one cache."""

    moment: tuple[object, ...] = ()
    """What the sync had come to when a line was last considered."""
    baseline: str | None = None
    execution: str | None = None
    odd_status: str = ""
    at: float = 0.0
    """When the last line was written, by the clock."""


class Progress:
    """Writes the log of one step about ``syncs``; ``clock`` is monotonic, in seconds."""

    def __init__(
        self,
        log: logging.Logger,
        syncs: Sequence[Sync],
        clock: Callable[[], float],
    ) -> None:
        self._log = log
        self._syncs = syncs
        self._each = len(syncs) <= SPOKEN_FOR
        self._clock = clock
        self._began = self._counted_at = clock()
        self._logged: dict[object, _Logged] = {}
        self._ended: set[object] = set()
        self._unreadable: set[object] = set()
        self._not_taken: set[object] = set()
        self._unconfirmed: set[object] = set()
        self._hanging: set[str] = set()
        self._repeated: set[object] = set()

    def polled(self, target: SyncTarget, sync: Sync, reading: Reading | None = None) -> None:
        """Something new may be known about ``target``; ``reading`` is the last reading of its status."""
        if target in self._ended:
            return
        if sync.result is not None:
            self._ended.add(target)
            if sync.result.unproven:
                self._log.warning(
                    "%s: the history could not be read for %g s (outage_tolerance): only the status tells that "
                    "%s is ours.",
                    target,
                    sync.rules.outage_tolerance,
                    target.execution(sync.execution.id) if sync.execution else "",
                )
        self._tell_readable(target, sync)
        self._tell_hanging(target, sync)
        if self._each:
            self._tell(target, sync, reading)
            return
        if sync.triggers > 1 and target not in self._repeated:
            self._repeated.add(target)
            self._log.info("%s: %s", target, _triggering(target, sync, reading))
        if self._all_ended or self._clock() - self._counted_at >= PROGRESS_INTERVAL:
            self._count()

    def polled_many(self) -> None:
        """A listing was read, and every sync has taken it in."""
        if not self._each and not self._all_ended:
            self._count()

    def not_accepted(self, target: SyncTarget, sync: Sync, answer: Posted, problem: str) -> None:
        """A trigger was refused, may have been lost, or was surely not taken; ``problem`` says which and why."""
        if sync.result is not None:
            return
        if answer is Posted.NOT_TAKEN:
            if target in self._not_taken:
                return
            alike, then = self._not_taken, "Trying again."
        else:
            alike, then = self._unconfirmed, "Watching whether it started an execution all the same."
        alike.add(target)
        if self._each or len(alike) == 1:
            self._log.warning("%s: %s %s", target, sentence(problem), then)

    @property
    def _all_ended(self) -> bool:
        return len(self._ended) == len(self._syncs)

    def _count(self) -> None:
        counts = Counter(_stage(sync) for sync in self._syncs)
        text = ", ".join(f"{counts[stage]} {stage}" for stage in _STAGES if counts[stage])
        self._counted_at = self._clock()
        self._log.info("%d caches after %.0f s: %s", len(self._syncs), self._counted_at - self._began, text)

    def _tell(self, target: SyncTarget, sync: Sync, reading: Reading | None) -> None:
        logged = self._logged.setdefault(target, _Logged(at=self._began))
        self._warn_of_odd_status(target, logged, sync)
        moment = _moment(sync)
        if moment != logged.moment:
            line = (
                ""
                if sync.state is State.POSTED and target in self._not_taken
                else _line(target, sync, reading, logged)
            )
            logged.moment, logged.baseline = moment, sync.record.baseline
            logged.execution = sync.execution.id if sync.execution and sync.state is State.FOLLOW else None
        elif self._clock() - logged.at >= PROGRESS_INTERVAL:
            line = _standing(target, sync, reading, self._clock() - self._began)
        else:
            return
        if sync.state is State.IDENTIFY:
            if target in self._unconfirmed:
                line = ""  # a warning has said how the trigger went
            self._unconfirmed.discard(target)
        if not sync.not_taken.lasts:
            self._not_taken.discard(target)
        if line:
            logged.at = self._clock()
            self._log.info("%s: %s", target, line)

    def _tell_readable(self, target: SyncTarget, sync: Sync) -> None:
        problem = sync.unreadable_reason
        if problem and sync.result is None and target not in self._unreadable:
            self._unreadable.add(target)
            if self._each or len(self._unreadable) == 1:
                self._log.warning(
                    "%s: %s That may last %g s (outage_tolerance). Trying again.",
                    target,
                    sentence(problem),
                    sync.rules.outage_tolerance,
                )
        elif not problem and target in self._unreadable:
            self._unreadable.discard(target)
            if self._each or not self._unreadable:
                self._log.info("%s: Peaka answers again.", target)

    def _tell_hanging(self, target: SyncTarget, sync: Sync) -> None:
        """One warning for an execution that shows no sign of life; as a job does that nobody picks up."""
        execution = sync.execution
        seconds = sync.unchanged.surely
        if seconds < HANGING or sync.result is not None or execution is None or execution.id in self._hanging:
            return
        self._hanging.add(execution.id)
        self._log.warning(
            "%s: %s is %s, and neither its progress nor its time of update has changed for %.0f s: perhaps "
            "nobody picks it up. Look at it in Peaka; stuck_timeout fails a step after a time of your choice.",
            target,
            target.execution(execution.id),
            _status(execution),
            seconds,
        )

    def _warn_of_odd_status(self, target: SyncTarget, logged: _Logged, sync: Sync) -> None:
        execution = sync.execution
        status = execution.status if execution else ""
        if execution is None or status in _EXPECTED_STATUSES or status == logged.odd_status:
            return
        logged.odd_status = status
        self._log.warning(
            "%s: %s shows status %r, which this package does not know; waiting for one that it knows.",
            target,
            target.execution(execution.id),
            status,
        )

    def cancelled(self, syncs: Sequence[tuple[SyncTarget, Sync]]) -> None:
        """These executions were asked to stop."""
        if syncs:
            named = _named([(target, sync, "") for target, sync in syncs])
            self._log.info("Run terminated: Peaka was asked to cancel %s.", named)

    def left(self, syncs: Sequence[tuple[SyncTarget, Sync, str]]) -> None:
        """These were left alone, each for the reason given."""
        if syncs:
            self._log.warning(
                "The step was stopped; left alone, and may still run or start in Peaka: %s.", _named(syncs)
            )


_STAGES = ("to be triggered", "triggered", "running", "completed", "failed")


def _stage(sync: Sync) -> str:
    if sync.result is not None and not sync.result.deferred:
        return "completed" if sync.result.ok else "failed"
    if sync.state is State.FOLLOW:
        return "running"
    return "triggered" if sync.triggers or sync.origin is Origin.ADOPTED else "to be triggered"


def _moment(sync: Sync) -> tuple[object, ...]:
    """What a new line is worth: it changes with each state, trigger and status, not with each count of rows."""
    followed = sync.execution if sync.state in (State.FOLLOW, State.DONE) else None
    return (
        sync.state,
        sync.triggers,
        sync.record.baseline,
        followed.id if followed else None,
        followed.status if followed else None,
    )


def _line(target: SyncTarget, sync: Sync, reading: Reading | None, logged: _Logged) -> str:
    """What is said about a sync that has come to another moment; empty where that needs no words."""
    execution = sync.execution
    if sync.result is not None:
        if not sync.result.ok or execution is None:
            return ""  # whoever asked for the sync says why it failed
        seconds = execution.duration_seconds
        took = "" if seconds is None else f" in {seconds:.1f} s"
        return f"{target.execution(execution.id)} COMPLETED{took}{_rows(execution)}"
    if sync.state is State.POSTED:
        return _triggering(target, sync, reading)
    if sync.state is State.IDENTIFY:
        if not sync.triggers:
            return "an earlier attempt triggered it already; looking for that execution"
        if logged.baseline not in (None, sync.record.baseline):
            return f"{target.execution(sync.record.baseline or '')} began before the trigger; waiting for the next one"
        return "triggered; waiting for its execution to appear"
    if sync.state is State.POLL and sync.origin is Origin.ADOPTED:
        return "the earlier attempt has left nothing to adopt; beginning anew"
    if sync.state is not State.FOLLOW or execution is None:
        return ""
    if execution.id == logged.execution:
        return f"{target.execution(execution.id)} is {_status(execution)} now{_rows(execution)}"
    return (
        f"{_FOLLOWING[sync.origin]} {target.execution(execution.id)} ({_status(execution)}){_rows(execution)}"
    )


_FOLLOWING = {
    Origin.TRIGGERED: "following",
    Origin.ATTACHED: "attached to",
    Origin.ADOPTED: "an earlier attempt had triggered",
}


def _triggering(target: SyncTarget, sync: Sync, reading: Reading | None) -> str:
    words = with_article(target.update(sync.mode))
    if sync.triggers > 1:
        quiet = f"{sync.rules.start_timeout:g} s"
        return f"no new execution has appeared for {quiet}; triggering {words} once more"
    running = _running(reading)
    if running is not None:
        return (
            f"{target.execution(running.id)} is {_status(running)} already; triggering {words} to follow it"
        )
    newest = target.execution(sync.record.baseline) if sync.record.baseline else "none"
    return f"triggering {words} (the newest so far: {newest})"


def _standing(target: SyncTarget, sync: Sync, reading: Reading | None, elapsed: float) -> str:
    """What is said about a sync that has come no further for a while."""
    if sync.unreadable_reason:
        tolerance = f"{sync.rules.outage_tolerance:g} s (outage_tolerance)"
        return f"Peaka could not be read for {sync.unreadable_for:.0f} s of {tolerance}"
    if sync.state is State.FOLLOW and sync.execution is not None:
        execution = sync.execution
        unchanged = sync.unchanged.surely
        hangs = f", unchanged for {unchanged:.0f} s" if unchanged >= HANGING else ""
        named = target.execution(execution.id)
        return f"{named} is {_status(execution)} after {elapsed:.0f} s{hangs}{_rows(execution)}"
    if sync.state is State.IDENTIFY:
        running = _running(reading)
        meanwhile = (
            f"{target.execution(running.id)} is {_status(running)}{_rows(running)}"
            if running
            else "nothing runs"
        )
        return f"no new execution after {elapsed:.0f} s; {meanwhile}"
    return ""


def _running(reading: Reading | None) -> CacheExecution | None:
    """What runs by the last reading; of both modes the sync's own."""
    if reading is None:
        return None
    return next(
        (each for each in (reading.newest, reading.other) if each is not None and not each.ended), None
    )


def _status(execution: CacheExecution) -> str:
    return execution.status or "without a status"


def _rows(execution: CacheExecution) -> str:
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


def _named(syncs: Sequence[tuple[SyncTarget, Sync, str]]) -> str:
    parts: list[str] = []
    for target, sync, why in syncs:
        execution = (
            target.execution(sync.execution.id) if sync.execution else "an execution not yet identified"
        )
        parts.append(f"{target}: {execution}" + (f" ({why})" if why else ""))
    return few(parts, NAMED_AT_MOST, "; ")
