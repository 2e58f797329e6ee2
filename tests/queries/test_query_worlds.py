"""Generated worlds for a query's status: stale words, old answers, refreshes and cancels by others, outages.

The world is told by true times, what Peaka shows follows from them; the step's own machines go through it by a clock of
the test's. What must hold in every one: a success stands for a refresh that really completed and began after the poll,
as far as the times could have shown it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from math import floor

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dagster_peaka.api.query_models import UNCHANGED_WORD, QueryStatus
from dagster_peaka.queries.refreshes import MODE, Refreshes
from dagster_peaka.sync.machine import Reading, Sync, SyncRules, Task
from dagster_peaka.sync.outcome import Posted, Trouble
from tests.examples import EXAMPLES

EPOCH = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
RULES = SyncRules(start_timeout=20.0, poll_timeout=900.0, outage_tolerance=60.0)
BEGIN = 100.0
"""When the step begins, in seconds of the world."""
ENDS = ("COMPLETED", "COMPLETED", "FAILED", "CANCELED")
TOLERANCE = 3.0
"""Seconds by which a refresh may have begun before the poll: 2 of tolerance, and one that the Date header cuts off."""


@dataclass(frozen=True)
class Asked:
    """A refresh that somebody asks for: when, how long it takes, and how it ends."""

    at: float
    seconds: float
    end: str
    ours: bool = False


@dataclass(frozen=True)
class Ran:
    """What became of it."""

    start: float
    finish: float
    end: str
    ours: bool


@dataclass
class World:
    """How Peaka plays a query.

    ``gap`` is the time from a trigger to the start, ``word_lag`` how long the old word stays after that, ``lags`` how
    old the answers to our polls are, in turn; None for one that fails.
    """

    others: list[Asked]
    own: list[tuple[float, str]]
    gap: float
    word_lag: float
    updates: str
    lags: list[float | None]
    coalesces: bool
    lost: bool
    posts: list[Asked] = field(default_factory=list[Asked])
    polls: int = 0

    def ran(self) -> list[Ran]:
        """The refreshes of the query, one after the other."""
        ran: list[Ran] = []
        for asked in sorted([*self.others, *self.posts], key=lambda each: each.at):
            free = ran[-1].finish if ran else 0.0
            if self.coalesces and asked.at < free:
                continue
            start = round(max(asked.at + self.gap, free + 0.001), 3)
            ran.append(Ran(start, start + asked.seconds, asked.end, asked.ours))
        return ran

    def status(self, now: float) -> QueryStatus:
        """What Peaka shows."""
        started = [each for each in self.ran() if each.start <= now]
        if not started:
            return QueryStatus(query_id="7", status="COMPLETED")
        newest = started[-1]
        lagging = now < newest.start + self.word_lag
        shown = (started[-2] if len(started) > 1 else None) if lagging else newest
        word, updated = "COMPLETED", None
        if shown is not None:
            ended = shown.finish <= now
            word = shown.end if ended else "RUNNING"
            updated = shown.finish if ended else (shown.start if self.updates == "moves" else None)
        return QueryStatus(
            query_id="7",
            status=word,
            started_at=moment(newest.start),
            updated_at=None if updated is None or self.updates == "absent" else moment(updated),
        )

    def poll(self, now: float) -> QueryStatus | None:
        """What a poll is answered, perhaps from a while ago."""
        lag = self.lags[self.polls % len(self.lags)] if self.lags else 0.0
        self.polls += 1
        return None if lag is None else self.status(now - lag)

    def post(self, now: float) -> Posted:
        """A trigger of ours."""
        seconds, end = self.own[min(len(self.posts), len(self.own) - 1)]
        self.posts.append(Asked(now, seconds, end, ours=True))
        return Posted.UNKNOWN if self.lost else Posted.ACCEPTED


def moment(seconds: float) -> datetime:
    """A time of the world as Peaka writes it."""
    return EPOCH + timedelta(milliseconds=round(seconds * 1000))


def date(seconds: float) -> datetime:
    """The Date header: whole seconds."""
    return EPOCH + timedelta(seconds=floor(seconds))


@dataclass(frozen=True)
class Story:
    """How a step went through a world: the machine at its end, when its first poll was, and when it ended."""

    sync: Sync
    polled_at: float
    ended_at: float


def gone_through(world: World) -> Story:
    """A step from its first poll to its result."""
    now = BEGIN
    sync, refreshes = Sync(MODE, RULES, now), Refreshes("7", RULES.start_timeout)
    polled_at = now
    while sync.result is None:
        now = max(now, sync.due) + 0.02
        if sync.task is Task.POLL:
            status = world.poll(now)
            if status is None:
                refreshes.unreadable()
                sync.unreadable("away", now)
            else:
                if not sync.triggers:
                    polled_at = now
                sync.polled(Reading.of(refreshes.read(status, now), MODE, date(now)), now)
        elif sync.task is Task.HISTORY:
            sync.history_read(refreshes.history, now)
        elif sync.task is Task.TRIGGER:
            if sync.posting(now):
                answer = world.post(now)
                now += 0.1
                sync.posted(answer, now, server_time=date(now))
        else:
            raise AssertionError(f"nothing to do at {now}: {sync.state}")
    return Story(sync, polled_at, now)


SECONDS = st.floats(0.0, 40.0).map(lambda number: round(number, 3))
WORLDS = st.builds(
    World,
    others=st.lists(
        st.builds(
            Asked,
            at=st.floats(0.0, 160.0).map(lambda number: round(number, 3)),
            seconds=SECONDS,
            end=st.sampled_from(ENDS),
        ),
        max_size=5,
    ),
    own=st.lists(st.tuples(SECONDS, st.sampled_from(ENDS)), min_size=1, max_size=2),
    gap=st.sampled_from([0.0, 0.1, 1.0, 7.0]),
    word_lag=st.sampled_from([0.0, 0.3, 2.0, 30.0]),
    updates=st.sampled_from(["moves", "ends", "absent"]),
    lags=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.5, 4.0, None]), max_size=8),
    coalesces=st.booleans(),
    lost=st.booleans(),
)
QUIET = st.builds(
    World,
    others=st.just([]),
    own=st.lists(st.tuples(SECONDS, st.sampled_from(ENDS)), min_size=1, max_size=1),
    gap=st.sampled_from([0.0, 0.1, 1.0, 7.0]),
    word_lag=st.sampled_from([0.0, 0.3, 2.0]),
    updates=st.sampled_from(["moves", "ends"]),
    lags=st.just([]),
    coalesces=st.booleans(),
    lost=st.booleans(),
)
MANY = settings(
    max_examples=100 * EXAMPLES,
    phases=[Phase.generate],
    database=None,
    derandomize=True,
)


@MANY
@given(world=WORLDS)
def test_no_false_success_that_the_times_could_have_shown(world: World) -> None:
    """In whatever world: the step ends, and a success is the one refresh that it says."""
    story = gone_through(world)
    result = story.sync.result
    assert result is not None
    if not result.ok:
        return
    assert result.execution is not None
    (ran,) = [each for each in world.ran() if moment(each.start).isoformat() == result.execution.id]
    assert ran.start >= story.polled_at - TOLERANCE
    if not times_are_silent(world, ran):
        assert ran.end == "COMPLETED"
        assert ran.finish <= story.ended_at


def times_are_silent(world: World, ran: Ran) -> bool:
    """Whether no time tells an old word, and it stays for half a minute, or old answers bring it back.

    Before a query's first refresh there is no time of update, either.
    """
    lags = [lag for lag in world.lags if lag]
    untold = world.updates == "absent" or ran == world.ran()[0]
    return untold and world.word_lag > 0 and (bool(lags) or world.word_lag >= UNCHANGED_WORD)


@MANY
@given(world=QUIET)
def test_where_nobody_else_is_there_the_step_says_what_happened(world: World) -> None:
    """COMPLETED is a success of one trigger, and every other end is told as it is."""
    result = gone_through(world).sync.result
    assert result is not None
    ((_, end),) = world.own
    assert result.triggers == 1
    assert result.trouble == {"COMPLETED": None, "FAILED": Trouble.FAILED, "CANCELED": Trouble.CANCELLED}[end]
    assert result.execution is not None
    assert result.execution.id == moment(world.ran()[0].start).isoformat()


@MANY
@given(world=WORLDS, at=st.floats(0.0, 300.0), since=st.sampled_from([0.0, 0.01, 0.9, UNCHANGED_WORD, 31.0]))
def test_what_one_status_proves_has_happened(world: World, at: float, since: float) -> None:
    """What the polling sensor goes by, at any moment and in the moments after a start: an end, as it really was."""
    starts = [each.start for each in world.ran()]
    now = starts[int(at) % len(starts)] + since if starts and at % 1 < 0.5 else at
    shown = world.status(now).ended(date(now))
    if shown is None:
        return
    (ran,) = [each for each in world.ran() if moment(each.start).isoformat() == shown.id]
    if world.word_lag < UNCHANGED_WORD or not times_are_silent(world, ran):
        assert ran.finish <= now
        assert ran.end == {"CANCELLED": "CANCELED"}.get(shown.status, shown.status)


def test_a_refresh_of_somebody_else_that_cannot_be_told_from_ours_counts() -> None:
    """It began after the poll, so it has read what the caches held then. Peaka took our trigger for it."""
    world = World(
        [Asked(BEGIN + 0.03, 5.0, "COMPLETED")], [(5.0, "COMPLETED")], 0.0, 0.0, "moves", [], True, False
    )

    result = gone_through(world).sync.result

    assert result is not None
    assert result.ok
    assert result.execution is not None
    assert result.execution.id == moment(BEGIN + 0.03).isoformat()
    assert result.triggers == 1
