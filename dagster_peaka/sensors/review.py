"""What a tick of the polling sensor makes of one cache: which executions are to be recorded. Pure.

No I/O, no clock, no Dagster: a :class:`Review` is given a cache's status, what the last tick left (a :class:`Mark`) and
as much of the history as it asks for. It says which executions the event log has to be asked about, and, once told
what that holds, what is to be reported and what the next tick has to know.

How nothing is lost and nothing is recorded twice:

- Executions are recognized by id, and their order is that of Peaka's history, newest first. What lies above the newest
  execution of its mode that was seen before is new, and so is each that had not ended then. Times help only where an
  id that was seen is not to be found any more.
- The event log is the judge: what it holds is not reported again, whatever the cursor says. Events are stored before
  the cursor, so a tick that died in between has left some.
- What a run of ours that is still under way may have triggered is left to that run, and stays unfinished until it has
  ended.
- The first poll of a cache reports nothing, but remembers what runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from dagster_peaka.api.fields import TERMINAL_STATUSES
from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.sensors.claims import Claims, Logged, Trigger
from dagster_peaka.sensors.cursor import CACHE, Mark, short
from dagster_peaka.sensors.entries import Entries
from dagster_peaka.sync.history import History
from dagster_peaka.sync.identity import LATE_TOLERANCE

CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far Peaka's clocks may disagree before an end counts as one that the last poll had seen."""

STALE_AT_MOST = timedelta(minutes=10)
"""How old an answer of Peaka's may be that shows less than the last poll."""


class Start(Enum):
    """What is reported of a cache that the cursor does not know."""

    SILENT = "silent"
    """What ends from now on: the sensor's first tick."""
    SINCE = "since"
    """What has ended since the last tick: a cache, or an asset, that has come later."""
    EVERYTHING = "everything"
    """All that the history shows: a backfill."""


@dataclass(frozen=True)
class Outcome:
    """An execution that has ended, to be reported.

    ``mode`` is None where Peaka does not tell it. ``record`` is False where no materialization is to be reported:
    it did not succeed, or has one already and only the check has to say so. ``run_id`` names the run that triggered
    it without waiting for it.
    """

    execution: CacheExecution
    mode: SyncMode | None
    record: bool = False
    run_id: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of one cache: the outcomes in the order of their ends, and what the next tick has to know.

    ``mark`` None leaves what the cursor holds. ``complete`` is False where some executions are left to the next tick.
    """

    outcomes: Sequence[Outcome]
    mark: Mark | None
    complete: bool


@dataclass
class Review:
    """One cache at one tick.

    Args:
        status: its entry in the listing.
        mark: what the last tick left; None when the cursor does not know the cache.
        start: what is reported then.
        since: Peaka's clock at the last poll; None when there was none or that clock is not known.
        now: Peaka's clock now, or the best guess at it.
        patience: seconds after which an unknown status with an end counts as a failure.
    """

    status: CacheStatus
    mark: Mark | None
    start: Start = Start.SILENT
    since: datetime | None = None
    now: datetime | None = None
    patience: float = 120.0
    our_now: int = 0
    """Our clock, in epoch seconds: only what it said at an earlier tick is compared with it."""
    followed: Sequence[Trigger] = ()
    """Triggers of runs whose steps have not ended: if they live, they record the outcome themselves."""

    history: History = field(default_factory=History, init=False)

    def __post_init__(self) -> None:
        self._recreated = self.mark is not None and self.mark.cache != short(self.status.id, CACHE)
        if self._recreated:  # another cache of the same table
            self.mark, self.start = None, Start.SINCE
        self._entries = Entries(self.status, self.mark)
        self._listed_short: set[bytes] = set()
        self._chosen: list[int] = []
        self._cut = False
        self._first = 0
        """The place of the newest execution that this tick looks into; where it is cut, others are above it."""

    @property
    def shown(self) -> Collection[CacheExecution]:
        """The newest execution of each mode, as the status shows them."""
        return self._entries.shown.values()

    # What has to be read

    @property
    def moved(self) -> bool:
        """Whether the status differs from what the last tick left, or something lies beneath it: ask the history."""
        if self.mark is None:
            return any(self._counts_at_first(execution) for execution in self._entries.shown.values())
        if self.mark.beneath:
            return True
        return any(self._has_moved(mode) or self._has_ended(mode) for mode in SyncMode)

    def add(self, page: Sequence[CacheExecution]) -> None:
        """Take in the page from the history's offset on."""
        self.history.add(page)
        self._listed_short = {short(execution_id) for execution_id in self.history.ids}

    @property
    def suffices(self) -> bool:
        """Whether the history was read far enough."""
        if self.history.whole or not self.history.entries:
            return self.history.whole
        if self.mark is None:
            return self._reaches_the_start()
        # The history may be ahead of the status: what it lists of a mode is new down to what was seen of that.
        listed = {self._entries.entry(execution).mode for execution in self.history.entries}
        moved = [mode for mode in SyncMode if mode in listed or self._has_moved(mode)]
        if moved and not any(self.mark.newest.values()):
            return False  # nothing was seen before: all of it is new
        wanted = {self.mark.newest[mode] or self.mark.newest[mode.other] for mode in moved}
        beneath = self.mark.unfinished - {short(execution_id) for execution_id in self._entries.shown}
        # Whose an execution is only shows where the history reaches back to what was there before the trigger.
        baselines = {
            short(trigger.record.baseline)
            for trigger in self.followed
            if trigger.record.baseline and not trigger.record.follows
        }
        return wanted | beneath | baselines <= self._listed_short

    @property
    def reaches_back(self) -> bool:
        """Whether all that is new was there to be read: False where the history begins after the last poll."""
        if self.mark is None:
            return True
        there = self._listed_short | {short(execution_id) for execution_id in self._entries.shown}
        marks = (self.mark.newest[mode] for mode in SyncMode if self._has_moved(mode))
        return all(mark is None or mark in there for mark in marks)

    def _reaches_the_start(self) -> bool:
        """Whether the history was read past all that counts at a first poll, for each mode that has such."""
        wanted = {
            mode for mode, newest in self._entries.newest.items() if newest and self._counts_at_first(newest)
        }
        history = [execution for execution in self.history.entries if not self._counts_at_first(execution)]
        passed = {self._entries.entry(execution).mode for execution in history}
        return passed.issuperset(wanted)

    def _has_moved(self, mode: SyncMode) -> bool:
        assert self.mark is not None
        newest = self._entries.newest[mode]
        return self.mark.newest[mode] != (None if newest is None else short(newest.id))

    def _has_ended(self, mode: SyncMode) -> bool:
        assert self.mark is not None
        newest = self._entries.newest[mode]
        return newest is not None and newest.ended and short(newest.id) in self.mark.unfinished

    # What is new

    def choose(self, most: int) -> list[CacheExecution]:
        """The ended executions that the log has to be asked about: the oldest, ``most`` of them at most."""
        self._entries.order(self.history.entries, trusted=self._elapsed >= STALE_AT_MOST)
        unseen = [place for place in range(len(self._entries)) if self._is_unseen(place)]
        over = [place for place in unseen if self._is_over(self._entries[place].execution)]
        # What perhaps only came late is mostly recorded already: it must not keep back what is not.
        sure = [place for place in over if not self._came_late(place)]
        self._cut = len(sure) > most
        self._first = sure[-most] if self._cut else 0
        self._chosen = [place for place in unseen if place >= self._first]
        return [self._entries[place].execution for place in over if place >= self._first]

    def _is_unseen(self, place: int) -> bool:
        """Whether an execution is to be looked into: it is new, or had not ended at the last poll."""
        entry = self._entries[place]
        if self.mark is None:
            return self._counts_at_first(self._entries.shown.get(entry.execution.id, entry.execution))
        if entry.short in self.mark.unfinished:
            return True
        modes = [entry.mode] if entry.mode is not None else list(SyncMode)
        marks = [mark for mode in modes if (mark := self.mark.newest[mode]) is not None]
        found = [self._entries.seen_places[mark] for mark in marks if mark in self._entries.seen_places]
        if entry.short in marks or self._waits:
            return False
        if not marks:
            return True
        if not found:
            return self._ended_since(place)
        return place < min(found) or self._came_late(place)

    @property
    def _waits(self) -> bool:
        """Whether the next tick decides what is new, because what was seen is missed, perhaps by an old answer."""
        assert self.mark is not None
        seen = {mark for mark in self.mark.newest.values() if mark is not None}
        return not (seen <= self._entries.seen_places.keys() or self._is_no_old_answer())

    def _came_late(self, place: int) -> bool:
        """Whether an execution without a mode was perhaps queued invisibly, beneath the newest of the other mode.

        Such a one shows when a mode's newest has come late as well, between that and the one that was seen before.
        """
        entry = self._entries[place]
        end = entry.execution.finished_at
        if self.mark is None or entry.mode is not None or end is None or self.since is None:
            return False
        if end <= self.since + LATE_TOLERANCE:
            return False
        for mode in SyncMode:
            newest, seen = self._entries.newest[mode], self._entries.seen_place(mode)
            if newest is not None and self._has_moved(mode):
                above = max(self._entries.newest_place(mode), self._entries.seen_place(mode.other))
                if above < place < seen:
                    return True
        return False

    def _ended_since(self, place: int) -> bool:
        """Whether an execution is new although what was seen before of its mode is not there to compare it with.

        Peaka forgets executions in time.
        """
        execution, mode = self._entries[place].execution, self._entries[place].mode
        if not execution.ended:
            return True
        if execution.finished_at is None or self.since is None:
            is_above = mode is not None and place < self._entries.seen_place(mode.other) < len(self._entries)
            return is_above or execution.id in self._entries.shown
        return execution.finished_at > self.since - CLOCK_TOLERANCE

    def _is_no_old_answer(self) -> bool:
        """Whether an answer that shows less than was seen before is no old one: it was so at the last tick as well."""
        assert self.mark is not None
        return self.mark.missed or self._elapsed >= STALE_AT_MOST

    @property
    def _elapsed(self) -> timedelta:
        """How long ago everything was recorded the last time."""
        return self.now - self.since if self.now is not None and self.since is not None else timedelta(0)

    def _counts_at_first(self, execution: CacheExecution) -> bool:
        """Whether an execution is reported although the cache was never polled before."""
        if self.start is Start.EVERYTHING or not execution.ended:
            return True
        if self.start is Start.SILENT:
            return False
        if execution.finished_at is None or self.since is None:
            return self._recreated
        return execution.finished_at > self.since - CLOCK_TOLERANCE

    def _is_over(self, execution: CacheExecution) -> bool:
        """Whether an execution has ended for good. An unknown status with an end may still become a known one."""
        if self.mark is None and self.start is Start.SILENT:
            return False  # what ends while the first tick polls is recorded by the next
        if execution.status in TERMINAL_STATUSES or not execution.ended:
            return execution.status in TERMINAL_STATUSES
        if self.now is None or execution.finished_at is None:
            return False
        return execution.finished_at + timedelta(seconds=self.patience) <= self.now

    # What is to be done

    def judge(self, logged: Logged) -> Verdict:
        """What is to be reported of the chosen executions, and what the next tick has to know."""
        ended = [place for place in self._chosen if self._is_over(self._entries[place].execution)]
        claims = Claims(self._entries, self.followed, self.our_now)
        runs = claims.runs(ended, logged)
        held = claims.held(ended, logged.recorded, self.mark.held if self.mark is not None else {})
        over = [place for place in ended if self._entries[place].short not in held]
        outcomes = self._outcomes(self._by_end(over), logged, runs)
        # What is reported now counts as recorded only once the event log is seen to hold it: of a tick whose result is
        # dropped, the cursor may be kept.
        reported = {outcome.execution.id for outcome in outcomes if outcome.record}
        entries = [self._entries[place] for place in over]
        mark = self._next_mark({each.short for each in entries if each.execution.id not in reported}, held)
        if mark is None or not mark.fits:
            return Verdict(outcomes, None, complete=False)
        # What is new where something is missed is sought as far back at the next tick.
        return Verdict(outcomes, mark, complete=not (self._cut or mark.missed))

    def _outcomes(self, places: Sequence[int], logged: Logged, runs: Mapping[str, str]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        failed = False
        for number, place in enumerate(places, 1):
            entry = self._entries[place]
            execution = entry.execution
            outcome = Outcome(execution, entry.mode, run_id=runs.get(execution.id))
            if not execution.succeeded:
                if execution.id != logged.evaluated:
                    failed = True
                    outcomes.append(outcome)
            elif execution.id not in logged.recorded:
                outcomes.append(replace(outcome, record=True))
            elif number == len(places):
                # Its materialization is there. What the check says last has to be this one's outcome.
                half_recorded = not logged.recorded[execution.id] and execution.id != logged.evaluated
                if failed or half_recorded:
                    outcomes.append(outcome)
        return outcomes

    def _by_end(self, places: Sequence[int]) -> list[int]:
        """In the order of the ends where all are known, and oldest first otherwise."""
        oldest_first = sorted(places, reverse=True)
        ends = {place: self._entries[place].execution.finished_at for place in places}
        known = {place: end for place, end in ends.items() if end is not None}
        return (
            sorted(oldest_first, key=lambda place: known[place]) if len(known) == len(ends) else oldest_first
        )

    def _next_mark(self, recorded: set[bytes], held: Mapping[bytes, int]) -> Mark | None:
        cache = short(self.status.id, CACHE)
        unfinished = {self._entries[place].short for place in self._chosen} - recorded
        if self.mark is None:
            read = range(self._first, len(self._entries))
            newest = {mode: self._top(mode, read) for mode in SyncMode}
            return Mark(cache, newest, frozenset(unfinished), held)
        new = [place for place in self._chosen if self._entries[place].short not in self.mark.unfinished]
        newest = {mode: self._top(mode, self._above(mode, new)) or self._kept(mode) for mode in SyncMode}
        unfinished |= self.mark.unfinished - recorded
        there = self._entries.seen_places.keys()
        lost = unfinished - there
        gone = [mode for mode in SyncMode if newest[mode] is not None and newest[mode] not in there]
        if not self._entries.lags and not (self.history.whole and (lost or gone)):
            return Mark(cache, newest, frozenset(unfinished), held)
        if not self.mark.missed:  # an old answer, perhaps
            return Mark(cache, newest, frozenset(unfinished), held, missed=True)
        newest.update({mode: self._top(mode, range(len(self._entries))) for mode in gone})
        return Mark(cache, newest, frozenset(unfinished - lost), held)

    def _above(self, mode: SyncMode, places: Iterable[int]) -> Iterator[int]:
        """The places above the newest execution of a mode that was seen before."""
        limit = self._entries.seen_place(mode)
        return (place for place in places if place < limit)

    def _kept(self, mode: SyncMode) -> bytes | None:
        """The newest execution of a mode that was seen before, or in its place what the status shows now."""
        assert self.mark is not None
        mark = self.mark.newest[mode]
        place = None if mark is None else self._entries.seen_places.get(mark)
        if place is None or self._cut or self._entries[place].mode is mode:
            return mark
        return self._top(mode, range(place, len(self._entries))) or mark

    def _top(self, mode: SyncMode, places: Iterable[int]) -> bytes | None:
        """The newest execution of a mode among these places.

        Where only a part is reported of a mode, because its newest is above the cut, any without a mode may be of it.
        """
        newest = self._entries.newest[mode]
        any_may = self._cut and newest is not None and self._entries.newest_place(mode) < self._first
        for place in places:
            entry = self._entries[place]
            if entry.mode is mode or (entry.mode is None and any_may):
                return entry.short
        return None
