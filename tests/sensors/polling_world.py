"""A generated story of one cache, of runs of ours and of a polling sensor whose ticks die now and then.

Peaka is the engine's generated world: everything that its contract leaves open is a choice of the generator. The event
log is a list here; a tick reads as the sensor does, with time passing between its requests. Everything is made from one
integer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.sensors.cursor import PollingCursor, UnreadableCursor
from dagster_peaka.sensors.review import Outcome, Review, Start, Told, Trigger
from dagster_peaka.sync.identity import Record as Trail
from dagster_peaka.sync.identity import started_by
from tests.sync.world import EPOCH, Open, Truth, World

CACHE_ID = "5f3c"
ADDRESS = b"abcde"
FIRST_PAGE, NEXT_PAGE = 4, 9
"""Short pages, so that stories of a few dozen executions have several."""


@dataclass(eq=False)
class Run:
    """A run of ours: it polls, writes down, triggers, follows what it takes for its own, and records it."""

    id: str
    mode: SyncMode
    waits: bool
    dies_at: float
    trail: Trail
    posts_at: float
    trail_at: float
    execution: Truth | None = None
    """What its trigger really started."""
    follows: Truth | None = None
    records_at: float | None = None
    ended: bool = False


@dataclass(frozen=True)
class Record:
    """A materialization in the event log; ``run_id`` is empty for the sensor's, ``names`` the run that those name."""

    execution: Truth
    run_id: str
    names: str | None = None


@dataclass
class Story:
    """What happens, tick by tick."""

    seed: int
    world: World
    pick: random.Random
    starts: list[tuple[float, SyncMode, bool, float, float]]
    """Our runs to come: when, which mode, whether it waits, after how long it posts, when it dies."""
    backfill: bool = False
    kept_for: float = float("inf")
    """Seconds after its end for which the history shows an execution; the status shows the last of a mode for ever."""
    most: Sequence[int] = (1, 2, 100)
    """How many executions a tick may report."""

    log: list[Record] = field(default_factory=list[Record])
    failures: list[str] = field(default_factory=list[str])
    evaluations: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    runs: list[Run] = field(default_factory=list[Run])
    cursor: str | None = None
    begun: tuple[float, float] = (0.0, 0.0)
    """When the first tick polled: its listing, and its last request; again after its cursor was damaged."""
    deaths: int = 0
    longest_cursor: int = 0
    _histories: list[float] = field(default_factory=list[float])
    """How old the answers about the history were, in the last tick."""
    resets: int = 0
    at_rest: int = 0
    """Ticks in a row that left nothing new to the next one."""

    # What goes on beside the ticks

    def advance(self, until: float) -> None:
        """Let the world and our runs go on to ``until``."""
        while True:
            moments = [start[0] for start in self.starts[:1]]
            for run in self.runs:
                if not run.ended:
                    moments.append(run.dies_at)
                    if run.execution is None:
                        moments.append(run.posts_at)
                    if run.records_at is not None:
                        moments.append(run.records_at)
            due = [moment for moment in moments if self.world.now < moment <= until]
            if not due:
                break
            self._at(min(due))
        self._at(until)

    def _at(self, moment: float) -> None:
        self.world.advance(moment)
        while self.starts and self.starts[0][0] <= moment:
            _, mode, waits, posts_after, lives = self.starts.pop(0)
            shown = self.world.visible(mode, moment)
            newest = self.world._shown(shown[0], moment, True) if shown else None
            trail = Trail(newest and newest.id, self.world.date(), self.world.date())
            run = Run(
                f"run{len(self.runs)}", mode, waits, moment + lives, trail, moment + posts_after, moment
            )
            self.runs.append(run)
        for run in self.runs:
            if not run.ended:
                self._go_on(run, moment)

    def _go_on(self, run: Run, moment: float) -> None:
        if run.dies_at <= moment:
            run.ended = True
            return
        if run.execution is None and run.posts_at <= moment:
            run.posts_at = float("inf")
            if self.world.start(run.mode, ours=True) != "started":
                run.ended = True
                return
            run.execution = self.world.executions[-1]
            if not run.waits:
                run.ended = True
                return
        if run.execution is not None and run.follows is None:
            run.follows = self._identified(run, moment)
            run.ended = run.follows is None and moment > run.trail_at + 300.0  # it gives up
        execution = run.follows
        if execution is None or not execution.over:
            return
        if run.records_at is None:
            assert execution.finished is not None
            delay = self.pick.choice([0.0, 0.3, 3.0])
            run.records_at = max(moment, execution.visible_at, execution.finished) + delay
        if run.records_at <= moment:
            run.ended = True
            if execution.outcome == "COMPLETED":
                self.log.append(Record(execution, run.id))
                self.evaluations.append((execution.id, True))

    def _identified(self, run: Run, moment: float) -> Truth | None:
        """The execution that a run takes for its own: it asks as the sensor does."""
        history = [
            self.world._shown(each, moment, self.world.open.shows_mode)
            for each in self.world.visible(None, moment)
        ]
        shown = self.world.visible(run.mode, moment)
        newest = self.world._shown(shown[0], moment, True) if shown else None
        ours = started_by(history, run.trail, run.mode, newest=newest).ours
        return next((each for each in self.world.executions if ours and each.id == ours.id), None)

    def is_reported(self, execution: Truth) -> bool:
        """Whether somebody has said that an execution did not succeed."""
        return execution.id in self.failures

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on any more but the sensor's ticks."""
        ended = all(execution.over for execution in self.world.executions)
        shown = all(
            execution.visible_at + self.world.open.stale_by < self.world.now
            for execution in self.world.executions
        )
        return (
            ended
            and shown
            and not self.world.strangers
            and not self.starts
            and all(run.ended for run in self.runs)
        )

    # A tick

    def tick(self) -> None:
        """One evaluation of the sensor: read, decide, store the events and then the cursor, unless it dies before."""
        last = self._last_cursor()
        polled_at = self.world.now
        date = self.world.date() or EPOCH + timedelta(seconds=polled_at)  # without Peaka's clock, ours
        as_old_as = self.world._as_old_as()
        status = self._status(as_old_as)
        self.advance(self.world.now + self.pick.choice([0.0, 0.05, 0.5]))
        review = Review(
            status,
            last.marks.get(ADDRESS) if last else None,
            Start.EVERYTHING if self.backfill else Start.SILENT if last is None else Start.SINCE,
            since=date - timedelta(seconds=polled_at - last.looked_at) if last else None,
            now=date,
            our_now=int(polled_at),
        )
        under_way = [run for run in self.runs if not run.ended and run.posts_at == float("inf")]
        review.followed = [Trigger(run.id, run.mode, run.trail, 10.0) for run in under_way if run.waits]
        self._histories.clear()
        if review.moved and last is not None and self.pick.random() < 0.05:
            return  # the history cannot be read: the cursor stays as it is
        if review.moved:
            self._read_history(review)
        elif review.mark is not None:
            self.cursor = PollingCursor(int(polled_at), 0, last.marks if last else {}).encode()
            self.at_rest += 1
            return
        asked = review.choose(self.pick.choice(self.most))
        known = self._known(asked)
        verdict = review.judge(known)
        if last is None:
            readings = [as_old_as, *self._histories]
            self.begun = min(readings), max(readings)
        if not self._store(verdict.outcomes, min(self._histories, default=as_old_as)):
            self.deaths += 1
            return
        marks = dict(last.marks) if last else {}
        if verdict.mark is not None:
            marks[ADDRESS] = verdict.mark
        reported_until = int(polled_at) if verdict.complete or last is None else last.looked_at
        self.cursor = PollingCursor(reported_until, 0, marks).encode()
        self.at_rest = self.at_rest + 1 if last is not None and marks == last.marks else 0
        self.longest_cursor = max(self.longest_cursor, len(self.cursor))

    def _last_cursor(self) -> PollingCursor | None:
        if self.cursor is None:
            return None
        if self.pick.random() < 0.005 and self.world.now < 200.0:
            self.resets += 1
            self.cursor = self.cursor[: self.pick.randrange(len(self.cursor))] + "x"
        try:
            return PollingCursor.decode(self.cursor)
        except UnreadableCursor:
            return None

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

    def _read_history(self, review: Review) -> None:
        limit = FIRST_PAGE
        while not review.suffices:
            at = self.world._as_old_as()
            self._histories.append(at)
            self.world.histories += 1
            kept = [each for each in self.world.visible(None, at) if not self._is_forgotten(each, at)]
            shown = kept[review.history.offset :][:limit]
            page = [self.world._shown(found, at, self.world.open.shows_mode) for found in shown]
            review.add(page)
            limit = NEXT_PAGE if review.history.entries else FIRST_PAGE
            self.advance(self.world.now + self.pick.choice([0.0, 0.05, 0.5]))

    def _is_forgotten(self, execution: Truth, at: float) -> bool:
        return execution.finished is not None and execution.finished + self.kept_for <= at

    def _known(self, asked: list[CacheExecution]) -> Told:
        self.advance(self.world.now + self.pick.choice([0.0, 0.05, 0.5]))
        gone = [run for run in self.runs if not run.waits and run.posts_at == float("inf")]
        return Told(
            recorded={record.execution.id: record.run_id for record in reversed(self.log)},
            handed_over=[Trigger(run.id, run.mode, run.trail) for run in gone],
            named={record.execution.id: record.names for record in self.log if record.names},
            evaluated=self.evaluations[-1][0] if self.evaluations else None,
        )

    def _store(self, outcomes: Sequence[Outcome], seen_at: float) -> bool:
        """Store the events as Dagster does, one by one; False when the tick dies on the way."""
        dies = self.pick.random() < 0.1
        stored = self.pick.randrange(len(outcomes) + 1) if dies else len(outcomes)
        for outcome in outcomes[:stored]:
            execution = outcome.execution
            if outcome.record:
                truth = next(each for each in self.world.executions if each.id == execution.id)
                self.log.append(Record(truth, "", outcome.run_id))
            elif not execution.succeeded:
                self.failures.append(execution.id)
            self.evaluations.append((execution.id, execution.succeeded))
        return not dies


def generated(seed: int) -> Story:
    """The story of ``seed``."""
    pick = random.Random(seed)
    odd = pick.random
    started = odd() < 0.3
    reading = Open(
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
    modes = [SyncMode.INCREMENTAL, SyncMode.INCREMENTAL, SyncMode.FULL_REFRESH]
    strangers: list[tuple[float, SyncMode]] = []
    moment = 0.0
    while moment < 200.0:
        strangers.append((moment, pick.choice(modes)))
        moment += pick.choice([0.1, 1.0, 5.0, 20.0])
    starts = sorted(
        (
            pick.uniform(0.0, 200.0),
            pick.choice(modes),
            odd() < 0.7,
            pick.choice([0.05, 0.5]),
            pick.choice([1.0, 10.0, 1e9, 1e9, 1e9, 1e9]),
        )
        for _ in range(pick.randrange(8))
    )
    world = World(
        seed,
        open=reading,
        strangers=strangers,
        outcomes=[pick.choice(["COMPLETED"] * 5 + ["FAILED", "CANCELLED"]) for _ in range(11)],
        rows=[pick.choice([0, 0, 0, 2]) for _ in range(7)],
        durations=[pick.choice([0.01, 0.5, 2.0, 8.0, 40.0]) for _ in range(13)],
    )
    backfill = odd() < 0.2
    if (
        odd() < 0.3
    ):  # what a run may follow, or a full tick leaves, may be kept back for longer than Peaka remembers it
        return Story(seed, world, pick, [], backfill, kept_for=150.0, most=[100])
    return Story(seed, world, pick, starts, backfill, most=pick.choice([[1], [1, 2, 100]]))


def played(seed: int) -> Story:
    """The story of ``seed``, to its end: all is over, and the sensor has had the time to say so."""
    story = generated(seed)
    story.advance(story.pick.uniform(0.0, 40.0))
    while story.world.now < 200.0:
        story.tick()
        # An answer is never so old that two ticks in a row are given it.
        pauses = [3.0, 5.0, 30.0] if story.world.open.stale_by else [0.2, 1.0, 5.0, 30.0]
        story.advance(story.world.now + story.pick.choice(pauses))
    while not story.is_over:
        story.advance(story.world.now + 30.0)
        story.tick()
    story.at_rest = 0
    for _ in range(5 + 2 * len(story.world.executions)):
        story.tick()
        story.advance(story.world.now + 5.0)
        if story.at_rest > 3:
            break
    return story
