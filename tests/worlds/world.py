"""A whole generated world: Peaka, its strangers, runs of ours, their workers, an event log, and a polling sensor.

Peaka is the one of `tests/sync/world.py`, which knows the truth. Runs die, are evicted, terminated, retried and
re-executed; their workers have clocks of their own; ticks die before they have stored everything, or lose their events.
What decides is the package's own: the machine of each sync, the records that it leaves and how they are read, and what
a tick makes of it all. Time is simulated, nothing is read or written, and everything is made from one integer.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias

from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.records.attempts import AttemptRecord, RunEvent, RunStory, Seen, follows_up, left_by
from dagster_peaka.sensors.claims import Logged, Trigger
from dagster_peaka.sensors.cursor import PollingCursor, UnreadableCursor
from dagster_peaka.sensors.event_log import triggers_of
from dagster_peaka.sensors.review import Outcome, Review, Start
from dagster_peaka.sync.history import History
from dagster_peaka.sync.identity import Record
from dagster_peaka.sync.machine import Reading, State, Sync, Task
from dagster_peaka.sync.outcome import Origin, Posted
from dagster_peaka.sync.stopping import may_cancel
from dagster_peaka.sync.timing import SyncRules
from tests.sync.world import EPOCH, Open, Truth, World

CACHE_ID, ASSET, UPSTREAM, STEP = "5f3c", "orders", "raw", "orders"
ADDRESS = b"abcde"
FIRST_PAGE, NEXT_PAGE = 4, 9
"""Short pages, so that stories of a few dozen executions have several."""

Process: TypeAlias = Generator[float, None, None]
"""What goes on: each value that it yields is the moment until which it waits."""

_NOT_TAKEN = (Posted.NOT_TAKEN, Posted.REFUSED, Posted.REFUSED_FOR_GOOD)


@dataclass(frozen=True)
class Materialized:
    """A materialization in the event log; ``run_id`` is empty for a sensor's, ``names`` the run that those name."""

    id: int
    at: float
    asset: str
    run_id: str = ""
    execution: Truth | None = None
    names: str | None = None


@dataclass(frozen=True)
class Fate:
    """What happens to one attempt at a step, in seconds after it began, and what comes after it."""

    dies_after: float | None = None
    terminated_after: float | None = None
    then: str = "nothing"
    """``retry`` in the same run, ``re-execute`` in another, or ``nothing``."""
    pause: float = 1.0


@dataclass(eq=False)
class Attempt:
    """One attempt at a run's only step."""

    run_id: str
    mode: SyncMode
    waits: bool
    clock: float
    """How far the clock of its worker is ahead, in seconds."""
    lineage: tuple[str, ...]
    """The run's id, and those of the runs that it was re-executed from."""
    fates: tuple[Fate, ...]

    began: float = 0.0
    upstream: Materialized | None = None
    """The newest materialization of the dependency when it began."""
    sync: Sync | None = None
    noted: Record | None = None
    seen: Seen | None = None
    polls: list[float] = field(default_factory=list[float])
    posts: list[float] = field(default_factory=list[float])
    started: list[Truth] = field(default_factory=list[Truth])
    """What its triggers really started."""
    answers: list[Posted] = field(default_factory=list[Posted])
    answered: list[float] = field(default_factory=list[float])
    recorded: Truth | None = None
    cancelled: Truth | None = None
    cancelled_at: float = 0.0
    done: bool = False
    killed: bool = False
    before: Attempt | None = None
    """The attempt that this one takes up, if any."""


@dataclass
class Story:
    """What happens, from one integer."""

    seed: int
    world: World
    pick: random.Random
    rules: SyncRules
    runs: list[tuple[float, Attempt]]
    """When each of our runs begins its step."""
    upstreams: list[float]
    """When the dependency is materialized."""
    backfill: bool = False
    kept_for: float = float("inf")
    """Seconds after its end for which the history shows an execution; the status shows the last of a mode for ever."""
    most: Sequence[int] = (1, 2, 100)
    """How many executions a tick may report."""
    odd_daemon: bool = True
    """Whether ticks die, lose their events, and find a damaged cursor."""

    materialized: list[Materialized] = field(default_factory=list[Materialized])
    events: dict[str, list[RunEvent]] = field(default_factory=dict[str, "list[RunEvent]"])
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    by: dict[str, Attempt] = field(default_factory=dict[str, Attempt])
    """Who really started an execution, by its id; strangers' are not in it."""
    failures: list[str] = field(default_factory=list[str])
    evaluations: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    cursor: str | None = None
    begun: tuple[float, float] = (0.0, 0.0)
    """When the first tick polled: its listing, and its last request; again after its cursor was damaged."""
    deaths: int = 0
    resets: int = 0
    dropped: int = 0
    blind_ticks: list[float] = field(default_factory=list[float])
    """When a tick could not read."""
    read: Counter[str] = field(default_factory=Counter[str])
    """How many ticks that stored their cursor had an execution in the history that they read."""
    read_over: set[str] = field(default_factory=set[str])
    """Executions that one of these ticks has read as ended, and whose events were stored."""
    adrift: set[str] = field(default_factory=set[str])
    """Executions that a tick has read in a history that had lost what the tick before had seen."""
    at_rest: int = 0
    """Ticks in a row that left nothing new to the next one."""
    _queue: list[tuple[float, int, Process, Attempt | None]] = field(
        default_factory=list["tuple[float, int, Process, Attempt | None]"]
    )
    _count: int = 0
    _histories: list[float] = field(default_factory=list[float])

    # Time

    @property
    def now(self) -> float:
        """Seconds of the world."""
        return self.world.now

    def tell(self) -> Story:
        """Let everything happen, until all is over and the sensor has had the time to say so."""
        for begins, attempt in self.runs:
            self._start(self._attempt(attempt), begins, attempt)
        for moment in self.upstreams:
            self._start(self._upstream(), moment)
        self._start(self._daemon(), self.pick.uniform(0.0, 40.0))
        while self._queue:
            moment, _, process, attempt = heapq.heappop(self._queue)
            if attempt is not None and attempt.killed:
                continue
            self.world.advance(max(moment, self.now))
            until = next(process, None)
            if until is not None:
                self._start(process, until, attempt)
        return self

    def _start(self, process: Process, moment: float, attempt: Attempt | None = None) -> None:
        self._count += 1
        heapq.heappush(self._queue, (max(moment, self.now), self._count, process, attempt))

    def _requested(self) -> Process:
        yield self.now + self.pick.choice([0.0, 0.02, 0.3])

    # The event log

    def newest(self, asset: str, *, lag: float = 0.0) -> int | None:
        """The storage id of an asset's newest materialization, as it was so many seconds ago."""
        found = [each.id for each in self.materialized if each.asset == asset and each.at <= self.now - lag]
        return found[-1] if found else None

    def _materialize(
        self, asset: str, run_id: str = "", execution: Truth | None = None, names: str | None = None
    ) -> None:
        number = len(self.materialized) + sum(map(len, self.events.values())) + 1
        self.materialized.append(Materialized(number, self.now, asset, run_id, execution, names))

    def _log(self, attempt: Attempt, event: RunEvent) -> None:
        self.events.setdefault(attempt.run_id, []).append(
            replace(event, at=self.now + attempt.clock, step=STEP)
        )

    def _upstream(self) -> Process:
        self._materialize(UPSTREAM)
        yield self.now

    # A run of ours

    def _attempt(self, attempt: Attempt) -> Process:
        """A step, as steps and runner do it: adopt or trigger, follow, record."""
        attempt.began = self.now
        self.attempts.append(attempt)
        upstreams = [each for each in self.materialized if each.asset == UPSTREAM]
        attempt.upstream = upstreams[-1] if upstreams else None
        self._bring(attempt)
        place = (CACHE_ID, attempt.mode, ASSET)
        if ASSET not in RunStory(self.events.get(attempt.run_id, [])).materialized:
            lineage = (RunStory(self.events.get(run_id, [])) for run_id in attempt.lineage)
            adopted, _ = left_by(
                lineage,
                [place],
                {ASSET: [UPSTREAM]},
                self.newest,
                self.now + attempt.clock,
                self.rules.poll_timeout,
            )
            left = adopted.get(place)
            attempt.seen = left.seen if left else None
            if not (left and left.ours and left.deferred and not attempt.waits):
                attempt.sync = Sync(
                    attempt.mode,
                    replace(self.rules, follow=attempt.waits),
                    self.now,
                    left.record if left else None,
                    left.age if left else 0.0,
                    left is None or left.adopts_completed,
                )
                yield from self._follow(attempt, attempt.sync)
                yield from self._end(attempt, attempt.sync, bool(left and left.deferred))
        self._log(attempt, RunEvent(0.0, ended=True))
        attempt.done = True
        if attempt.sync is None or attempt.sync.result is None or attempt.sync.result.trouble is None:
            # Only what failed is retried; but anybody may execute a run again.
            attempt.fates = tuple(fate for fate in attempt.fates if fate.then != "retry")
        self._come_again(attempt)

    def _follow(self, attempt: Attempt, sync: Sync) -> Process:
        while sync.result is None:
            yield sync.due
            if self.now < sync.due:
                continue
            if sync.task is Task.POLL:
                yield from self._poll(attempt, sync)
            elif sync.task is Task.HISTORY:
                yield from self._history(sync)
            else:
                self._note(attempt, sync)
                yield self.now + self.pick.choice([0.0, 0.01])
                if sync.posting(self.now):
                    yield from self._post(attempt, sync)
            if sync.state is State.FOLLOW and sync.origin is not Origin.TRIGGERED:
                self._note(attempt, sync)

    def _poll(self, attempt: Attempt, sync: Sync) -> Process:
        reading = None if self.world.away() else self._reading(attempt.mode)
        if reading is not None:
            attempt.polls.append(self.now)
        yield from self._requested()
        if reading is None:
            sync.unreadable("away", self.now)
        else:
            sync.polled(reading, self.now)

    def _reading(self, mode: SyncMode) -> Reading:
        status = self._status(self.world._as_old_as())
        return Reading.of(status, mode, self.world.date())

    def _history(self, sync: Sync) -> Process:
        history = History()
        while not (history.whole or sync.history_suffices(history.entries)):
            page = None if self.world.away() else self._page(history.offset, NEXT_PAGE)
            yield from self._requested()
            if page is None:
                return sync.unreadable("away", self.now)
            history.add(page)
        sync.history_read(history.entries, self.now)

    def _post(self, attempt: Attempt, sync: Sync) -> Process:
        attempt.posts.append(self.now)
        fate = self.pick.choices(["taken", "lost after", "lost before", "not taken"], [16, 1, 1, 1])[0]
        answer = Posted.ACCEPTED
        if fate in ("lost before", "not taken") or self.world.away():
            answer = Posted.UNKNOWN if fate == "lost before" else Posted.NOT_TAKEN
        yield from self._requested()
        if answer is Posted.ACCEPTED:
            became = self.world.start(attempt.mode, ours=True)
            if became == "started":
                attempt.started.append(self.world.executions[-1])
                self.by[self.world.executions[-1].id] = attempt
            answer = Posted.REFUSED if became == "refused" else answer
            answer = Posted.UNKNOWN if fate == "lost after" else answer
        date = self.world.date()
        yield from self._requested()
        attempt.answers.append(answer)
        attempt.answered.append(self.now)
        sync.posted(answer, self.now, server_time=date if answer is Posted.ACCEPTED else None)
        if answer in _NOT_TAKEN and sync.triggers <= 1:
            attempt.noted = None
            self._write(attempt, sync.record, sync.origin, taken=False)

    def _note(self, attempt: Attempt, sync: Sync) -> None:
        if attempt.noted != sync.record:
            attempt.noted = sync.record
            self._write(attempt, sync.record, sync.origin)

    def _write(
        self, attempt: Attempt, record: Record, origin: Origin, *, taken: bool = True, answered: bool = False
    ) -> None:
        lag = self.pick.choice([0.0, 0.0, 0.02])
        repeated = attempt.sync is not None and attempt.sync.triggers > 0
        if attempt.seen is None or not follows_up(origin, repeated=repeated):
            attempt.seen = Seen(self.newest(ASSET, lag=lag), {UPSTREAM: self.newest(UPSTREAM, lag=lag)})
        written = AttemptRecord(
            CACHE_ID,
            attempt.mode,
            ASSET,
            record,
            waits=attempt.waits,
            answered=answered,
            taken=taken,
            attached=origin is Origin.ATTACHED,
            notices_within=self.rules.notices_within,
            seen=attempt.seen,
        )
        self._log(attempt, RunEvent(0.0, written=(written,)))

    def _end(self, attempt: Attempt, sync: Sync, was_deferred: bool) -> Process:
        """What the step does about a sync's result."""
        assert sync.result is not None
        if sync.result.ok and sync.result.execution is not None:
            yield self.now + self.pick.choice([0.0, 0.0, 0.3, 3.0])
            truth = self._truth(sync.result.execution.id)
            attempt.recorded = truth
            self._materialize(ASSET, attempt.run_id, truth)
            self._log(attempt, RunEvent(0.0, materialized=ASSET))
            self.evaluations.append((truth.id, True))
        elif sync.result.deferred and not (was_deferred and not sync.result.triggers):
            self._write(attempt, sync.result.record, sync.origin, answered=True)
        yield self.now + self.pick.choice([0.0, 0.05])

    def _truth(self, execution_id: str) -> Truth:
        return next(each for each in self.world.executions if each.id == execution_id)

    # How attempts end before their end, and what follows

    def _bring(self, attempt: Attempt) -> None:
        fate = attempt.fates[0] if attempt.fates else Fate()
        if fate.dies_after is not None:
            self._start(self._kill(attempt), self.now + fate.dies_after)
        if fate.terminated_after is not None:
            self._start(self._terminate(attempt), self.now + fate.terminated_after)

    def _kill(self, attempt: Attempt) -> Process:
        if not attempt.done:
            attempt.killed = True
            self._come_again(attempt)
        yield self.now

    def _terminate(self, attempt: Attempt) -> Process:
        """As the runner stops: one more poll, one history, and then the decision."""
        sync = attempt.sync
        if attempt.done or attempt.killed:
            return
        attempt.killed = True
        if sync is not None and sync.result is None and (sync.triggers or sync.execution):
            if sync.state is State.POSTED:
                sync.posted(Posted.UNKNOWN, self.now)
            reading = None if self.world.away() else self._reading(attempt.mode)
            yield from self._requested()
            if reading is not None:
                sync.polled(reading, self.now)
                entries = self._page(0, 25)
                seen_at = self.now
                yield from self._requested()
                if sync.task is Task.HISTORY:
                    sync.history_read(entries, self.now)
                if sync.result is None and may_cancel(sync, reading, entries):
                    attempt.cancelled_at = seen_at
                    attempt.cancelled = self._cancel(attempt.mode)
        self._log(attempt, RunEvent(0.0, ended=True))
        attempt.done = True
        self._come_again(attempt)

    def _cancel(self, mode: SyncMode) -> Truth | None:
        """Cancel whichever execution of the mode runs, as Peaka does."""
        for execution in self.world.executions:
            if execution.mode is mode and execution.started is not None and not execution.over:
                execution.outcome = "CANCELLED"
                execution.duration = self.now - execution.started
                return execution
        return None

    def _come_again(self, attempt: Attempt) -> None:
        fate, fates = (attempt.fates[0], attempt.fates[1:]) if attempt.fates else (Fate(), ())
        if fate.then == "nothing":
            return
        new = fate.then == "re-execute"
        run_id = f"{attempt.run_id}'" if new else attempt.run_id
        again = Attempt(
            run_id,
            attempt.mode,
            attempt.waits,
            self.pick.choice([attempt.clock, attempt.clock, -60.0, 90.0]),
            (run_id, *attempt.lineage) if new else attempt.lineage,
            fates,
            before=attempt,
        )
        self._start(self._attempt(again), self.now + fate.pause, again)

    # What Peaka shows

    def _status(self, at: float) -> CacheStatus:
        shown = {mode: self.world.visible(mode, at) for mode in SyncMode}
        newest = {
            mode: self.world._shown(found[0], at, True) if found else None for mode, found in shown.items()
        }
        return CacheStatus(
            id=CACHE_ID,
            last_incremental=newest[SyncMode.INCREMENTAL],
            last_full_refresh=newest[SyncMode.FULL_REFRESH],
        )

    def _page(self, offset: int, limit: int) -> list[CacheExecution]:
        at = self.world._as_old_as()
        self._histories.append(at)
        self.world.histories += 1
        kept = [each for each in self.world.visible(None, at) if not self._is_forgotten(each, at)]
        return [self.world._shown(found, at, self.world.open.shows_mode) for found in kept[offset:][:limit]]

    @property
    def forgets(self) -> bool:
        """Whether the history loses executions in time."""
        return self.kept_for < float("inf")

    def _is_forgotten(self, execution: Truth, at: float) -> bool:
        return execution.finished is not None and execution.finished + self.kept_for <= at

    # The polling sensor

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on any more but the sensor's ticks."""
        ended = all(execution.over for execution in self.world.executions)
        shown = all(
            execution.visible_at + self.world.open.stale_by < self.now for execution in self.world.executions
        )
        return ended and shown and not self.world.strangers and not self._queue

    def _daemon(self) -> Process:
        while self.now < 200.0:
            yield from self._tick()
            # An answer is never so old that two ticks in a row are given it.
            pauses = [3.0, 5.0, 30.0] if self.world.open.stale_by else [0.2, 1.0, 5.0, 30.0]
            yield self.now + self.pick.choice(pauses)
        while not self.is_over:
            yield self.now + 30.0
            yield from self._tick()
        self.at_rest = 0
        for _ in range(50 + 4 * len(self.world.executions)):
            yield from self._tick()
            yield self.now + 5.0
            # What a dead run holds back is told later.
            if self.at_rest > 3 + self.rules.notices_within / 5.0:
                return

    def _tick(self) -> Process:
        """One evaluation of the sensor: read, decide, store the events and then the cursor, unless it dies before."""
        last = self._last_cursor()
        if self.world.away():
            return self._was_away(last)
        looked_at = self.now
        date = self.world.date() or EPOCH + timedelta(seconds=looked_at)  # without Peaka's clock, ours
        as_old_as = self.world._as_old_as()
        self.world.histories += 1
        review = Review(
            self._status(as_old_as),
            last.marks.get(ADDRESS) if last else None,
            Start.EVERYTHING if self.backfill else Start.SILENT if last is None else Start.SINCE,
            since=date - timedelta(seconds=looked_at - last.reported_until(ADDRESS)) if last else None,
            now=date,
            our_now=int(looked_at),
        )
        yield from self._requested()
        self._histories.clear()
        readings = [as_old_as]
        if review.moved:
            if last is not None or self.backfill:
                review.followed = [
                    trigger
                    for run_id, events in self.events.items()
                    for trigger in triggers_of(run_id, RunStory(events), CACHE_ID, ASSET)
                ]
            if last is not None and self.pick.random() < 0.05:
                return self._was_away(last)  # the history cannot be read
            limit = FIRST_PAGE
            while not review.suffices:
                if self.world.away():
                    return self._was_away(last)
                review.add(self._page(review.history.offset, limit))
                readings.append(self._histories[-1])
                limit = NEXT_PAGE
                yield from self._requested()
                if review.history.failed:
                    return self._was_away(last)
        elif review.mark is not None:
            self.cursor = PollingCursor(int(looked_at), 0, last.marks if last else {}).encode()
            self.at_rest += 1
            return
        read = {entry.id for entry in review.history.entries}
        over = {entry.id for entry in review.history.entries if entry.ended}
        asked = review.choose(self.pick.choice(self.most))
        yield from self._requested()
        told = self._told(asked)
        verdict = review.judge(told)
        if last is None:
            self.begun = min(readings), max(readings)
        yield self.now + self.pick.choice([0.0, 0.02])
        dropped = self.dropped
        if not self._store(verdict.outcomes):
            self.deaths += 1
            return
        if self.dropped == dropped:
            self.read_over |= over
        marks = dict(last.marks) if last else {}
        if verdict.mark is not None:
            marks[ADDRESS] = verdict.mark
        self.read.update(read)
        if not review.reaches_back:
            self.adrift |= read
        behind = {} if verdict.complete or last is None else {ADDRESS: last.reported_until(ADDRESS)}
        self.cursor = PollingCursor(int(looked_at), 0, marks, behind).encode()
        self.at_rest = self.at_rest + 1 if last is not None and marks == last.marks else 0

    def _was_away(self, last: PollingCursor | None) -> None:
        self.blind_ticks.append(self.now)
        if last is not None:
            self.cursor = last.after_outage().encode()

    def _last_cursor(self) -> PollingCursor | None:
        if self.cursor is None:
            return None
        if self.odd_daemon and self.pick.random() < 0.005 and self.now < 200.0:
            self.resets += 1
            self.cursor = self.cursor[: self.pick.randrange(len(self.cursor))] + "x"
        try:
            return PollingCursor.decode(self.cursor)
        except UnreadableCursor:
            return None

    def _told(self, asked: list[CacheExecution]) -> Logged:
        wanted = {execution.id for execution in asked}
        held = [each for each in self.materialized if each.execution and each.execution.id in wanted]
        deferred = [
            Trigger(run_id, written.mode, written.record)
            for run_id, events in self.events.items()
            for event in events
            for written in event.written
            if written.answered
        ]
        return Logged(
            recorded={each.execution.id: each.run_id for each in reversed(held) if each.execution},
            deferred=deferred,
            named={
                each.execution.id: each.names for each in self.materialized if each.execution and each.names
            },
            evaluated=self.evaluations[-1][0] if self.evaluations else None,
        )

    def _store(self, outcomes: Sequence[Outcome]) -> bool:
        """Store the events as Dagster does, one by one; False when the tick dies on the way.

        Of a previewed tick that somebody commits, only the cursor is stored.
        """
        odd = self.pick.random() if self.odd_daemon else 1.0
        stored = self.pick.randrange(len(outcomes) + 1) if odd < 0.1 else len(outcomes)
        if 0.1 <= odd < 0.13 and self.now < 200.0:
            self.dropped += len(outcomes)
            stored = 0
        for outcome in outcomes[:stored]:
            execution = outcome.execution
            if outcome.record:
                self._materialize(ASSET, "", self._truth(execution.id), outcome.run_id)
            elif not execution.succeeded:
                self.failures.append(execution.id)
            self.evaluations.append((execution.id, execution.succeeded))
        return odd >= 0.1


def generated(seed: int) -> Story:
    """The story of ``seed``, not yet told."""
    pick = random.Random(seed)
    odd = pick.random
    started = odd() < 0.3
    plain = odd() < 0.3
    reading = (
        Open(queued_status="QUEUED", other_mode=pick.choice(["parallel", "queue"]))
        if plain
        else Open(
            visible_after=pick.choice([0.0, 0.0, 0.5, 3.0, 15.0]),
            visible_when_started=started,
            coalesce=odd() < 0.35,
            other_mode=pick.choice(["parallel", "queue", "coalesce", "refuse"]),
            shows_mode=odd() < 0.8,
            shows_times=odd() < 0.9,
            created_when_started=started and odd() < 0.5,
            clock_skew=pick.choice([0.0] * 6 + [0.4, -0.9, 30.0, -30.0]),
            has_date=odd() < 0.9,
            stale_by=pick.choice([0.0, 0.0, 0.0, 2.0]),
            queued_status=pick.choice(["RUNNING", "QUEUED", "PENDING"]),
        )
    )
    modes = [SyncMode.INCREMENTAL, SyncMode.INCREMENTAL, SyncMode.FULL_REFRESH]
    strangers: list[tuple[float, SyncMode]] = []
    moment = 0.0
    pauses = pick.choice([[0.1, 1.0, 5.0, 20.0], [20.0, 60.0]])
    while moment < 200.0:
        strangers.append((moment, pick.choice(modes)))
        moment += pick.choice(pauses)
    world = World(
        seed,
        open=reading,
        strangers=strangers,
        outcomes=[pick.choice(["COMPLETED"] * 5 + ["FAILED", "CANCELLED"]) for _ in range(11)],
        rows=[pick.choice([0, 0, 0, 2]) for _ in range(7)],
        durations=[pick.choice([0.01, 0.5, 2.0, 8.0, 40.0]) for _ in range(13)],
    )
    if odd() < 0.1:
        start = pick.uniform(0.0, 200.0)
        world.outages = [(start, start + pick.choice([5.0, 25.0, 60.0]))]
    rules = SyncRules(
        poll_interval=pick.choice([0.2, 1.0, 2.0]),
        poll_max_interval=10.0,
        start_timeout=pick.choice([20.0, 60.0]),
        poll_timeout=600.0,
        outage_tolerance=pick.choice([30.0, 300.0]),
        on_running=pick.choices(["queue", "attach", "fail"], [6, 1, 1])[0],
    )
    backfill = odd() < 0.2
    # What a run may follow, or a full tick leaves, may be kept back for longer than Peaka remembers it.
    forgets = odd() < 0.2
    runs = [] if forgets else [_run(pick, number, modes) for number in range(pick.randrange(6))]
    upstreams = sorted(pick.uniform(0.0, 200.0) for _ in range(pick.randrange(5)))
    story = Story(seed, world, pick, rules, runs, upstreams, backfill)
    if forgets:
        story.kept_for, story.most = 150.0, [100]
    else:
        story.most = pick.choice([[1], [1, 2, 100], [100]])
    return story


def _run(pick: random.Random, number: int, modes: Sequence[SyncMode]) -> tuple[float, Attempt]:
    """One of our runs, when its step begins, and what happens to its attempts."""
    fates: list[Fate] = []
    while pick.random() < 0.5:
        ends = pick.choice([0.05, 0.5, 2.0, 5.0, 30.0])
        how = pick.random()
        fates.append(
            Fate(
                dies_after=ends if how < 0.5 else None,
                terminated_after=ends if how > 0.7 else None,
                then=pick.choice(["retry", "re-execute", "re-execute", "nothing"]),
                pause=pick.choice([0.1, 3.0, 30.0, 100.0]),
            )
        )
    run_id = f"run{number}"
    clock = pick.choice([0.0, 0.0, -60.0, 90.0])
    attempt = Attempt(run_id, pick.choice(modes), pick.random() < 0.75, clock, (run_id,), tuple(fates))
    return pick.uniform(0.0, 200.0), attempt
