"""A generated Peaka that knows the truth: which execution each POST really started, what ran when, who started it.

Time is simulated. Everything that the contract leaves open is a choice of the generator: when executions become
visible, whether triggers are queued or coalesced, what the other mode does, lost replies, outages, stale statuses,
clocks that are off, missing modes and timestamps, strangers, schedules, deletions. A world is made from one integer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from dagster_peaka.api.models import CacheExecution, ExecutionProgress, SyncMode
from dagster_peaka.sync.identity import Record
from dagster_peaka.sync.machine import Reading, State, Sync, Task
from dagster_peaka.sync.outcome import Origin, Posted, Result
from dagster_peaka.sync.stopping import may_cancel
from dagster_peaka.sync.timing import SyncRules

EPOCH = datetime(2026, 7, 1, tzinfo=timezone.utc)
INCREMENTAL, FULL_REFRESH = SyncMode.INCREMENTAL, SyncMode.FULL_REFRESH


@dataclass
class Truth:
    """One execution as it really is; times are seconds of the world."""

    id: str
    mode: SyncMode
    ours: bool
    created: float
    duration: float
    outcome: str
    visible_at: float
    rows: int = 0
    """Rows of the source that it meets: what an incremental update changes, and a full refresh that COMPLETED."""
    started: float | None = None
    finished: float | None = None

    @property
    def changes(self) -> bool:
        """True when it changes a row of the cache: a full refresh that comes to nothing keeps the old ones."""
        return self.rows > 0 and (self.mode is INCREMENTAL or self.outcome == "COMPLETED")

    @property
    def over(self) -> bool:
        """True when it has ended."""
        return self.finished is not None


@dataclass
class Open:
    """One reading of everything that the contract leaves open."""

    visible_after: float = 0.0
    visible_when_started: bool = False
    coalesce: bool = False
    other_mode: str = "parallel"
    shows_mode: bool = True
    shows_times: bool = True
    created_when_started: bool = False
    clock_skew: float = 0.0
    """How far the clock of createdAt is ahead of that of the Date header, in seconds."""
    has_date: bool = True
    stale_by: float = 0.0
    """Status and history lag so many seconds behind, now and then."""
    queued_status: str = "RUNNING"
    counts: bool = True
    """Whether rows are reported."""


@dataclass
class World:
    """The generated Peaka, and the conversation that one sync has with it."""

    seed: int
    open: Open = field(default_factory=Open)
    rules: SyncRules = field(default_factory=SyncRules)
    mode: SyncMode = INCREMENTAL
    executions: list[Truth] = field(default_factory=list[Truth])
    strangers: list[tuple[float, SyncMode]] = field(default_factory=list[tuple[float, SyncMode]])
    outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    deleted_at: float | None = None
    post_fates: list[str] = field(default_factory=list[str])
    outcomes: list[str] = field(default_factory=list[str])
    durations: list[float] = field(default_factory=list[float])
    rows: list[int] = field(default_factory=lambda: [0])
    latency: float = 0.05
    interrupt_at: float | None = None

    now: float = 0.0
    looks: list[float] = field(default_factory=list[float])
    readings: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Each answered look, and the time whose state it showed."""
    histories: int = 0
    posts: list[float] = field(default_factory=list[float])
    post_answers: list[float] = field(default_factory=list[float])
    last_answers: list[Posted] = field(default_factory=list[Posted])
    _answers: dict[tuple[object, ...], CacheExecution] = field(
        default_factory=dict[tuple[object, ...], CacheExecution]
    )
    """Executions as they were shown before: most polls show what the one before has shown."""
    first_look: float | None = None
    cancelled: Truth | None = None
    would_cancel: bool = False

    # What happens inside

    def advance(self, until: float) -> None:
        """Let the world go on to ``until``: executions start and end, strangers come."""
        while True:
            moments = [when for when, _ in self.strangers]
            moments += [
                execution.started + execution.duration
                for execution in self.executions
                if execution.started is not None and not execution.over
            ]
            upcoming = [moment for moment in moments if moment <= until]
            if not upcoming:
                break
            moment = max(self.now, min(upcoming))
            self.now = moment
            for execution in self.executions:
                if execution.started is None or execution.over:
                    continue
                if execution.started + execution.duration <= moment:
                    execution.finished = execution.started + execution.duration
            while self.strangers and self.strangers[0][0] <= moment:
                _, mode = self.strangers.pop(0)
                self.start(mode, ours=False)
            self._start_queued()
        self.now = max(self.now, until)

    def start(self, mode: SyncMode, *, ours: bool) -> str:
        """A trigger arrives; returns what became of it."""
        busy = [execution for execution in self.executions if execution.mode is mode and not execution.over]
        other = [
            execution for execution in self.executions if execution.mode is not mode and not execution.over
        ]
        if self.open.coalesce and busy:
            return "coalesced"
        if other and self.open.other_mode == "coalesce":
            return "coalesced"
        if other and self.open.other_mode == "refuse":
            return "refused"
        number = len(self.executions)
        execution = Truth(
            id=f"e{number}",
            mode=mode,
            ours=ours,
            created=self.now,
            duration=self.durations[number % len(self.durations)],
            outcome=self.outcomes[number % len(self.outcomes)] if ours or number else "COMPLETED",
            visible_at=self.now + self.open.visible_after,
            rows=self.rows[number % len(self.rows)],
        )
        self.executions.append(execution)
        self._start_queued()
        return "started"

    def _start_queued(self) -> None:
        for execution in self.executions:
            if execution.started is not None:
                continue
            blockers = [
                other
                for other in self.executions
                if other is not execution
                and other.started is not None
                and not other.over
                and (other.mode is execution.mode or self.open.other_mode == "queue")
            ]
            if not blockers:
                execution.started = self.now
                if self.open.visible_when_started:
                    execution.visible_at = max(execution.visible_at, self.now + self.open.visible_after)

    # What it shows

    def visible(self, mode: SyncMode | None, at: float) -> list[Truth]:
        """What a reading shows that is as old as ``at``, newest first."""
        shown = [
            execution
            for execution in reversed(self.executions)
            if execution.created <= at
            and execution.visible_at <= at
            and (mode is None or execution.mode is mode)
            and not (self.open.visible_when_started and (execution.started is None or execution.started > at))
        ]
        return sorted(shown, key=self._created, reverse=True)

    def _created(self, execution: Truth) -> float:
        if self.open.created_when_started and execution.started is not None:
            return execution.started
        return execution.created

    def _shown(self, execution: Truth, at: float, with_mode: bool) -> CacheExecution:
        finished = execution.finished is not None and execution.finished <= at
        running = execution.started is not None and execution.started <= at
        status = execution.outcome if finished else "RUNNING" if running else self.open.queued_status
        times = self.open.shows_times
        rows = execution.rows if finished and self.open.counts else None
        known = (execution.id, status, with_mode, self._created(execution), finished)
        if known not in self._answers:
            self._answers[known] = CacheExecution(
                id=execution.id,
                status=status,
                mode=execution.mode if with_mode else None,
                progress=ExecutionProgress(inserted=0, updated=rows, deleted=0)
                if rows is not None
                else ExecutionProgress(),
                created_at=self._clock(self._created(execution)) if times else None,
                finished_at=self._clock(execution.finished)
                if finished and times and execution.finished
                else None,
            )
        return self._answers[known]

    def _clock(self, moment: float) -> datetime:
        return EPOCH + timedelta(seconds=round(moment + self.open.clock_skew, 3))

    def date(self) -> datetime | None:
        """The Date header of an answer given now."""
        if not self.open.has_date:
            return None
        return (EPOCH + timedelta(seconds=self.now)).replace(microsecond=0)

    def _as_old_as(self) -> float:
        if not self.open.stale_by:
            return self.now
        random_now = random.Random(self.seed * 1_000_003 + len(self.looks) + self.histories)
        return self.now - (self.open.stale_by if random_now.random() < 0.3 else 0.0)

    def away(self) -> bool:
        """True during an outage."""
        return any(start <= self.now < end for start, end in self.outages)

    # The requests

    def look(self) -> Reading | None:
        """Answer a request for the status; None when it fails."""
        self.looks.append(self.now)
        if self.away():
            self.advance(self.now + self.latency)
            return None
        at = self._as_old_as()
        self.readings.append((self.now, at))
        date = self.date()
        newest = self.visible(self.mode, at)
        other = self.visible(self.mode.other, at)
        look = Reading(
            self._shown(newest[0], at, True) if newest else None,
            self._shown(other[0], at, True) if other else None,
            date,
            self.deleted_at is not None and self.now >= self.deleted_at,
        )
        if self.first_look is None:
            self.first_look = self.now
        self.advance(self.now + self.latency)
        return look

    def history(self) -> list[CacheExecution] | None:
        """Answer a request for the history; None when it fails."""
        self.histories += 1
        if self.away():
            self.advance(self.now + self.latency)
            return None
        at = self._as_old_as()
        entries = [self._shown(execution, at, self.open.shows_mode) for execution in self.visible(None, at)]
        self.advance(self.now + self.latency)
        return entries

    def post(self) -> tuple[Posted, datetime | None]:
        """Answer a trigger: what its sender learns, and the Date header."""
        self.posts.append(self.now)
        fate = self.post_fates[min(len(self.posts), len(self.post_fates)) - 1]
        if self.away():
            fate = "not taken"
        answer = Posted.ACCEPTED
        if fate in ("taken", "lost after"):
            self.advance(self.now + self.latency / 2)
            became = self.start(self.mode, ours=True)
            if became == "refused":
                answer = Posted.REFUSED
            if fate == "lost after":
                answer = Posted.UNKNOWN
        else:
            answer = {"lost before": Posted.UNKNOWN, "not taken": Posted.NOT_TAKEN}[fate]
        date = self.date()
        self.advance(self.now + self.latency)
        self.post_answers.append(self.now)
        self.last_answers.append(answer)
        return answer, date if answer is Posted.ACCEPTED else None

    # The conversation

    def run(self, earlier: Record | None = None, earlier_age: float = 0.0) -> Result | None:
        """Do what the machine asks for until it is done; None when interrupted first."""
        sync = Sync(self.mode, self.rules, self.now, earlier=earlier, earlier_age=earlier_age)
        self.sync = sync
        for _ in range(20_000):
            if sync.result is not None:
                return sync.result
            if self.interrupt_at is not None and self.now >= self.interrupt_at:
                return self._interrupted(sync)
            until = max(self.now, sync.due)
            if self.interrupt_at is not None:
                until = min(until, max(self.now, self.interrupt_at))
            self.advance(until)
            if self.now < sync.due:
                continue
            self._do(sync)
        raise AssertionError(f"world {self.seed}: the sync never ends")

    def crash(self, after: float) -> tuple[Record, float] | None:
        """Begin a sync and let its process die; returns what it had written down, and when, if it had triggered."""
        sync = Sync(self.mode, self.rules, self.now)
        dies_at = self.now + after
        written_at = self.now
        while sync.result is None and max(self.now, sync.due) < dies_at:
            self.advance(max(self.now, sync.due))
            if sync.task is Task.TRIGGER:
                written_at = self.now
            self._do(sync)
        self.advance(max(self.now, dies_at))
        adoptable = sync.triggers and sync.result is None and sync.origin is not Origin.ATTACHED
        return (sync.record, written_at) if adoptable else None

    def _do(self, sync: Sync) -> None:
        if sync.task is Task.POLL:
            look = self.look()
            if look is None:
                sync.unreadable("away", self.now)
            else:
                sync.polled(look, self.now)
        elif sync.task is Task.HISTORY:
            entries = self.history()
            if entries is None:
                sync.unreadable("away", self.now)
            else:
                sync.history_read(entries, self.now)
        elif sync.task is Task.TRIGGER:
            if sync.posting(self.now):
                answer, date = self.post()
                sync.posted(answer, self.now, server_time=date)
        else:
            raise AssertionError(f"world {self.seed}: nothing to do in {sync.state}")

    def _interrupted(self, sync: Sync) -> None:
        """As the runner stops: one more look, one history, and then the decision."""
        if sync.state is State.POLL or not (sync.triggers or sync.execution):
            return
        look = self.look()
        if look is None:
            return
        sync.polled(look, self.now)
        entries = self.history()
        if entries is None or sync.result is not None:
            return
        if sync.task is Task.HISTORY:
            sync.history_read(entries, self.now)
        if sync.result is None and may_cancel(sync, look, entries):
            self.would_cancel = True
            running = [
                e for e in self.executions if e.mode is self.mode and e.started is not None and not e.over
            ]
            self.cancelled = running[0] if running else None


def generated_reading(pick: random.Random) -> Open:
    """A reading of what the contract leaves open."""
    odd = pick.random
    return Open(
        visible_after=pick.choice([0.0, 0.0, 0.5, 3.0, 15.0]),
        visible_when_started=odd() < 0.3,
        coalesce=odd() < 0.35,
        other_mode=pick.choice(["parallel", "queue", "coalesce", "refuse"]),
        shows_mode=odd() < 0.8,
        shows_times=odd() < 0.9,
        created_when_started=odd() < 0.2,
        clock_skew=pick.choice([0.0] * 6 + [0.4, -0.9, 30.0, -30.0]),
        has_date=odd() < 0.9,
        stale_by=pick.choice([0.0, 0.0, 0.0, 2.0]),
        queued_status=pick.choice(["RUNNING", "QUEUED", "PENDING"]),
    )


def generated(seed: int) -> World:
    """The world of ``seed``."""
    pick = random.Random(seed)
    odd = pick.random
    rules = SyncRules(
        poll_interval=pick.choice([0.2, 1.0, 2.0]),
        poll_max_interval=pick.choice([10.0, 60.0]),
        start_timeout=pick.choice([20.0, 60.0, 120.0]),
        poll_timeout=pick.choice([600.0, 3600.0]),
        outage_tolerance=pick.choice([30.0, 300.0]),
        on_running=pick.choices(["queue", "attach", "fail"], [6, 1, 1])[0],
    )
    world = World(
        seed,
        open=generated_reading(pick),
        rules=rules,
        mode=pick.choice([INCREMENTAL, INCREMENTAL, FULL_REFRESH]),
        durations=[pick.choice([0.05, 0.2, 1.0, 5.0, 30.0, 100.0]) for _ in range(5)],
        outcomes=[
            pick.choices(["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"], [12, 2, 1, 1])[0]
            for _ in range(5)
        ],
        post_fates=[
            pick.choices(["taken", "lost after", "lost before", "not taken"], [8, 1, 1, 1])[0]
            for _ in range(4)
        ],
        latency=pick.choice([0.01, 0.05, 0.5]),
    )
    if odd() < 0.8:
        world.advance(1.0)
        world.start(world.mode, ours=False)
    if odd() < 0.3:
        world.start(world.mode.other, ours=False)
    begin = pick.choice([1.5, 3.0, 10.0, 500.0])
    strangers = [
        (begin + pick.uniform(-8.0, 60.0), pick.choice([INCREMENTAL, FULL_REFRESH])) for _ in range(3)
    ]
    kept = pick.randrange(4)
    world.strangers = sorted((max(1.0, when), mode) for when, mode in strangers[:kept])
    if odd() < 0.2:
        start = begin + pick.uniform(0.0, 30.0)
        world.outages = [(start, start + pick.choice([5.0, 25.0, 60.0, 400.0]))]
    if odd() < 0.05:
        world.deleted_at = begin + pick.uniform(0.0, 60.0)
    if odd() < 0.25:
        world.interrupt_at = begin + pick.uniform(0.0, 60.0)
    world.rows = [pick.choice([0, 0, 3]) for _ in range(5)]
    world.advance(begin)
    return world
