"""The one sync of ``--sync``: an incremental update, triggered once, watched to its end. The only thing that changes
anything.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from dagster_peaka.api import calls
from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.caches.names import TableName
from dagster_peaka.doctor import shapes
from dagster_peaka.doctor.account import PAGE, Account, count
from dagster_peaka.doctor.asking import Asking, OutOfTime, Seen
from dagster_peaka.errors import PeakaApiError, PeakaError, PeakaUnknownOutcomeError

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two polls: a tenth of the time since the trigger, within these bounds."""

COUNTERS = ("cached", "inserted", "updated", "deleted")


@dataclass
class _Watch:
    """What polls have shown since the trigger was sent. Times are seconds since then."""

    sent_at: float
    known: frozenset[str]
    quiet: bool
    ours: str | None = None
    newest: CacheExecution | None = None
    raw: shapes.Json = field(default_factory=dict[str, Any])
    unseen_in_status: float = 0.0
    unseen_in_history: float = 0.0
    in_history: bool = False
    replaced: bool = False
    """Whether a newer execution has taken its place in the status: then the history shows its end."""
    ahead: bool | None = None
    ended_after: float = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the trigger was sent."""
        return time.monotonic() - self.sent_at

    def status(self, seen: Seen[CacheStatus], at: float) -> None:
        """Take in a status that was asked for ``at`` seconds after the trigger."""
        shown = seen.value.last_incremental
        if shown is not None and shown.id not in self.known:
            self.ours = self.ours or shown.id
        if shown is not None and shown.id == self.ours:
            self.newest = shown
            self.raw = seen.raw.get("lastIncrementalCacheExecution", {})
            self.ended_after = self.elapsed
        self.replaced = self.ours is not None and (shown is None or shown.id != self.ours)
        if self.ours is None:
            self.unseen_in_status = at
            if self.quiet:
                self.ahead = bool(self.ahead) or seen.value.status == "RUNNING"

    def history(self, seen: Seen[list[CacheExecution]], at: float) -> None:
        """Take in a history that was asked for ``at`` seconds after the trigger."""
        new = [
            entry
            for entry in seen.value
            if entry.id not in self.known and entry.mode is not SyncMode.FULL_REFRESH
        ]
        if new and not self.in_history and new[-1].id != self.ours:  # the oldest is ours
            self.ours, self.replaced = new[-1].id, self.ours is not None
        for entry in new:
            if entry.id == self.ours:
                self.in_history = True
                if self.replaced:
                    self.newest, self.ended_after = entry, self.elapsed
                    raw = {str(other.get("id")): other for other in shapes.objects(seen.raw)}
                    self.raw = raw.get(entry.id, {})
        if not self.in_history:
            self.unseen_in_history = at


def possible(asking: Asking, account: Account, table: TableName) -> CacheStatus | None:
    """The cache to sync; None, and the reading that says why, where nothing can be triggered."""
    name = asking.name("table", table)
    cache = account.cache_of(table)
    modes = account.modes.get(table)
    if cache is None:
        asking.take("sync", "not possible", name, said="The project lists no cache of that table.")
    elif modes is not None and SyncMode.INCREMENTAL not in modes:
        said = "The table does not support incremental updates."
        asking.take("sync", "not possible", name, said=said)
    else:
        return cache
    return None


def sync(asking: Asking, cache: CacheStatus, table: TableName) -> None:
    """Tell the readings of one incremental update."""
    name = asking.name("table", table)
    sent = False
    try:
        _count(asking, table, "rows_before", name)
        before = asking.ask(calls.get_cache_status(cache.id)).value
        past: list[CacheExecution] = []
        with suppress(PeakaError):
            past = asking.ask(calls.get_execution_history(cache.id, PAGE)).value
        shown = before.last_incremental
        if shown is not None and not shown.ended:
            asking.take("sync", "running already", name)
            return
        known = frozenset({entry.id for entry in past} | ({shown.id} if shown else set()))
        watch = _Watch(time.monotonic(), known, before.status != "RUNNING")
        sent = True
        _trigger(asking, cache)
        _follow(asking, cache, watch)
        _of_sync(asking, watch, name)
        asking.more_time(60)
        _count(asking, table, "rows_after", name)
        _beside(asking, cache, watch)
    except PeakaError as error:
        refused = sent and isinstance(error, PeakaApiError)
        asking.take("sync", "refused" if refused else "not possible", name, said=str(error))


def _count(asking: Asking, table: TableName, what: str, name: str) -> None:
    rows = count(asking, table)
    if rows is not None:
        asking.take(what, rows, name)


def _trigger(asking: Asking, cache: CacheStatus) -> None:
    call = calls.trigger(cache.id, SyncMode.INCREMENTAL, resent=False)
    try:
        answer = asking.ask(replace(call, parse=_answer_kind))
    except (PeakaUnknownOutcomeError, OutOfTime) as error:  # it may have been taken: what shows next, tells
        asking.take("trigger_answer", "lost", said=str(error))
        return
    asking.take("trigger_answer", answer.value)
    asking.take("trigger_seconds", round(answer.seconds, 1))


def _follow(asking: Asking, cache: CacheStatus, watch: _Watch) -> None:
    """Poll status and history until the new execution has ended, or the time is over."""
    while asking.left > 0:
        with suppress(PeakaError):
            at = watch.elapsed
            watch.status(asking.ask(calls.get_cache_status(cache.id)), at)
            if watch.replaced or not watch.in_history:
                at = watch.elapsed
                watch.history(asking.ask(calls.get_execution_history(cache.id, PAGE)), at)
        if watch.newest is not None and watch.newest.ended:
            return
        state = watch.newest.status if watch.newest else "nothing to see yet"
        asking.waiting(f"waiting for its end: {state}, {watch.elapsed:.0f} s since the trigger")
        time.sleep(min(max(FIRST_PAUSE, watch.elapsed / 10), LONGEST_PAUSE, asking.left))


def _of_sync(asking: Asking, watch: _Watch, name: str) -> None:
    if watch.ahead is not None:
        asking.take("status_ahead", watch.ahead)
    if watch.newest is None:
        asking.take("sync", "not seen", name)
        return
    asking.take("visible_after", round(watch.unseen_in_status, 1))
    if watch.in_history:
        asking.take("history_after", round(watch.unseen_in_history, 1))
    word = shapes.shortened_word(watch.newest.status)
    if not watch.newest.ended:
        asking.take("never_picked_up", shapes.is_unattended(watch.raw))
        asking.take("sync", "RUNNING", name, said=word)
        return
    asking.take("never_picked_up", False)
    length = watch.newest.duration_seconds
    asking.take("execution_seconds", round(watch.ended_after if length is None else length, 1))
    counters = {key: getattr(watch.newest.progress, key) for key in COUNTERS}
    asking.take("counters", {key: rows for key, rows in counters.items() if rows is not None})
    asking.take("sync", word, name, said=watch.newest.reason)


def _beside(asking: Asking, cache: CacheStatus, watch: _Watch) -> None:
    with suppress(PeakaError):
        history = asking.ask(calls.get_execution_history(cache.id, PAGE)).value
        others = [entry for entry in history if entry.id not in (*watch.known, watch.ours)]
        if others:
            asking.take("others", len(others))


def _answer_kind(text: Any) -> str:
    """The kind of a trigger's answer, in the words of the sandbox's switch."""
    if not str(text).strip():
        return "empty"
    try:
        return "object" if isinstance(json.loads(text), dict) else "text"
    except ValueError:
        return "text"
