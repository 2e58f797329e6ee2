"""The rule of data versions in thousands of generated stories: a change of rows is never passed over in silence.

A story is a cache that is synced several times while others sync it, too. What really changed is known to the world
(`tests/sync/world.py`). `PEAKA_WORLDS` and `PEAKA_FIRST_SEED` as in `test_worlds.py`.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from dagster_peaka import (
    CacheExecution,
    PeakaError,
    PeakaNotFoundError,
    PeakaServerError,
    PeakaUnknownOutcomeError,
    SyncMode,
)
from dagster_peaka.api.calls import Call
from dagster_peaka.api.models import ExecutionProgress
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sync.machine import (
    DATE_RESOLUTION,
    PROMPT,
    Baseline,
    Look,
    Origin,
    Posted,
    Result,
    State,
    Sync,
    SyncRules,
    Task,
)
from dagster_peaka.sync.runner import SyncJob
from dagster_peaka.versions import Known, Version, next_version
from tests.sync.scripted import NOON, Scripted, execution, status
from tests.sync.test_runner import runner
from tests.sync.world import FULL_REFRESH, INCREMENTAL, Open, Truth, World, generated_reading

STORIES = int(os.environ.get("PEAKA_WORLDS", "4000")) // 2
FIRST = int(os.environ.get("PEAKA_FIRST_SEED", "0"))
PARTS = 2


@dataclass(frozen=True)
class Recorded:
    """A materialization, and the moments of its sync, in seconds of the world."""

    version: Version
    kept: bool
    execution: Truth
    mode: SyncMode
    shown: float
    """The time whose state the look before the trigger showed."""
    answered: float
    """When the last trigger was answered."""
    promptly: bool
    """Whether the execution was shown by the next look, soon after the answer."""
    last_shown: float
    """The time whose state the last look showed."""
    at: float
    origin: Origin


@dataclass
class Story:
    """One cache and its materializations, oldest first."""

    world: World
    recorded: list[Recorded] = field(default_factory=list[Recorded])

    def sync(self, mode: SyncMode) -> None:
        """Sync the cache; a success becomes a materialization."""
        world = self.world
        world.mode, world.first_look = mode, None
        readings, answers = len(world.readings), len(world.post_answers)
        result = world.run()
        if result is None or not result.ok:
            return
        assert result.execution is not None
        assert world.first_look is not None
        execution = next(each for each in world.executions if each.id == result.execution.id)
        shown = world.readings[readings:]
        answered = max([world.first_look, *world.post_answers[answers:]])
        looked_again, showed = next(each for each in shown if each[0] >= answered)
        previous = self.recorded[-1].version if self.recorded else None
        version = next_version(
            previous, mode, result.execution, before=result.before, covers=result.covers, alone=result.alone
        )
        self.recorded.append(
            Recorded(
                version,
                previous is not None and version.text == previous.text,
                execution,
                mode,
                shown[0][1],
                answered,
                execution.visible_at <= showed and looked_again < answered + PROMPT,
                shown[-1][1],
                world.now,
                result.origin,
            )
        )


def told(seed: int) -> Story:
    """The story of ``seed``: some caches are left in peace, others are synced by strangers and schedules, too."""
    pick = random.Random(seed)
    rules = SyncRules(
        poll_interval=pick.choice([0.2, 1.0, 2.0, 2.0]),
        start_timeout=pick.choice([20.0, 60.0]),
        poll_timeout=600.0,
        outage_tolerance=30.0,
        on_running=pick.choices(["queue", "attach"], [6, 1])[0],
    )
    world = World(
        seed,
        open=Open() if pick.random() < 0.3 else generated_reading(pick),
        rules=rules,
        durations=[pick.choice([0.05, 0.05, 0.2, 1.0, 5.0, 30.0]) for _ in range(7)],
        outcomes=[pick.choices(["COMPLETED", "FAILED", "CANCELLED"], [12, 1, 2])[0] for _ in range(11)],
        rows=[pick.choices([0, 3], [4, 1])[0] for _ in range(13)],
        post_fates=[
            pick.choices(["taken", "lost after", "lost before", "not taken"], [20, 1, 1, 1])[0]
            for _ in range(12)
        ],
        latency=pick.choice([0.01, 0.05, 0.5]),
    )
    world.open.counts = pick.random() < 0.95
    if pick.random() < 0.7:
        world.advance(1.0)
        world.start(pick.choice([INCREMENTAL, FULL_REFRESH]), ours=False)
    strangers = pick.choice([0.0, 0.4, 0.7])
    story = Story(world)
    for _ in range(pick.choice([3, 5, 7])):
        gap = pick.choice([0.5, 3.0, 20.0, 200.0])
        while pick.random() < strangers:
            when = world.now + gap + pick.choice([pick.uniform(-3.0, 2.5), pick.uniform(0.0, 30.0)])
            mode = pick.choice([INCREMENTAL, INCREMENTAL, FULL_REFRESH])
            world.strangers = sorted([*world.strangers, (max(world.now, when), mode)])
        if pick.random() < 0.15:
            away = world.now + gap + pick.uniform(0.0, 2.0)
            world.outages.append((away, away + pick.choice([1.0, 10.0])))
        world.advance(world.now + gap)
        story.sync(pick.choices([INCREMENTAL, FULL_REFRESH], [6, 1])[0])
    return story


def no_change_is_passed_over(story: Story) -> Counter[str]:
    """Whatever changed a row after a version was made, and shows in Peaka, has ended that version.

    Left out: a stranger's execution between our look and the trigger's answer, or not shown yet at that look.
    """
    seen: Counter[str] = Counter()
    made = 0
    for number, recorded in enumerate(story.recorded):
        if not recorded.kept:
            made = number
            continue
        seen["kept"] += 1
        since = story.recorded[made]
        for changed in story.world.executions:
            if not changed.changes or changed.finished is None or changed.finished <= since.at:
                continue
            if changed.finished > recorded.last_shown or changed.visible_at > recorded.last_shown:
                continue
            excused = any(
                in_window(story.world, changed, each) for each in story.recorded[made + 1 : number + 1]
            )
            assert excused, f"seed {story.world.seed}: {changed.id} changed rows, {recorded} kept its version"
            seen["in the window"] += 1
    return seen


def in_window(world: World, changed: Truth, recorded: Recorded) -> bool:
    """Whether ``changed`` came, or hid behind a stranger's that came, where the README says that none is seen."""
    skew = abs(world.open.clock_skew) if abs(world.open.clock_skew) < 2.0 else 0.0
    until = recorded.answered + DATE_RESOLUTION.total_seconds() + skew
    candidates = [
        each
        for each in world.executions
        if each.mode is recorded.mode and (each is changed or (changed.ours and not each.ours))
    ]
    return any(
        recorded.shown < each.created <= until
        or (recorded.promptly and each.created <= recorded.shown < each.visible_at)
        for each in candidates
    )


def is_quiet(story: Story, number: int) -> bool:
    """Whether nothing but two syncs of ours happened from one materialization's beginning to the next one's end."""
    before, recorded = story.recorded[number - 1], story.recorded[number]
    others = [
        each
        for each in story.world.executions
        if each not in (before.execution, recorded.execution)
        and (each.finished is None or each.finished >= before.shown)
        and each.created <= recorded.at
    ]
    return (
        not others
        and before.execution.finished is not None
        and before.execution.finished <= recorded.shown
        and (before.origin, recorded.origin) == (Origin.TRIGGERED, Origin.TRIGGERED)
        and recorded.mode is INCREMENTAL
        and recorded.execution.rows == 0
        and story.world.open.counts
    )


@pytest.mark.parametrize("part", range(PARTS))
def test_no_change_of_rows_is_passed_over(part: int) -> None:
    """A version is kept only where no execution changed a row since it was made; where all is quiet, it is kept."""
    seen: Counter[str] = Counter()
    for seed in range(FIRST + part, FIRST + max(STORIES, PARTS), PARTS):
        story = told(seed)
        seen += no_change_is_passed_over(story)
        seen += quiet_ones_are_kept(story)
    print(dict(seen))  # noqa: T201 - the counts that a nightly run reports
    if STORIES >= 1000:
        assert seen["in the window"] < seen["kept"] / 50
        assert seen["kept"] > seen["new"] / 10
        assert seen["quiet"] > seen["kept"] / 2
        assert seen["quiet, kept"] > seen["quiet"] * 0.9


def quiet_ones_are_kept(story: Story) -> Counter[str]:
    """Not vacuous: where nothing else happened, the version stays, unless Peaka's answers lag behind."""
    seen: Counter[str] = Counter()
    for number, recorded in enumerate(story.recorded):
        seen["new"] += not recorded.kept
        if not number or not is_quiet(story, number):
            continue
        seen["quiet"] += 1
        seen["quiet, kept"] += recorded.kept
        lags = story.world.open.stale_by > 0 or story.world.outages
        assert recorded.kept or lags, f"seed {story.world.seed}: {recorded} has a new version for nothing"
    return seen


# Single conversations, on a clock that moves only when the runner waits


def counted(name: str, created: float, **rows: int | None) -> CacheExecution:
    """A COMPLETED incremental update, created so many seconds after noon, that changed nothing but ``rows``."""
    progress = ExecutionProgress(**{"inserted": 0, "updated": 0, "deleted": 0, **rows})
    return execution(name, created).model_copy(update={"progress": progress})


def result_of(scripted: Scripted) -> Result:
    """How the sync of a cache ended, in that conversation."""
    job = SyncJob(SyncTarget("c"), INCREMENTAL, SyncRules(outage_tolerance=300.0))
    ((_, result),) = runner(scripted, [job]).run()
    return result


def conversation(
    first_shown: float = 0.0,
    history: Callable[[], tuple[float, Any]] | None = None,
    posted_as: PeakaError | None = None,
    rows: Mapping[str, int | None] = {},
) -> Scripted:
    """A Peaka with one execution before ours; ours is over at once, and shows after so many seconds."""
    posted: list[float] = []

    def script(call: Call[Any], now: float) -> tuple[float, Any]:
        if call.method == "POST":
            posted.append(now)
            return 0.1, posted_as
        if call.segments[-1] == "executionHistory":
            assert history is not None, "the history was asked"
            return history()
        visible = posted and now >= posted[0] + first_shown
        return 0.1, status("c", counted("ours", posted[0], **rows) if visible else counted("before", -60))

    return Scripted(script)


def test_a_quiet_sync_takes_a_look_a_trigger_and_a_look() -> None:
    """Where ours shows at once and its date tells that nothing came before it, no request is added."""
    scripted = conversation()
    result = result_of(scripted)

    assert (result.ok, result.alone) == (True, True)
    assert result.before == Known("before", None)
    assert result.covers == Known("ours", None)
    assert [call.method for call in scripted.calls] == ["GET", "POST", "GET"]


CHANGES = [{kind: rows} for kind in ("inserted", "updated", "deleted") for rows in (3, None)]


@pytest.mark.parametrize("rows", CHANGES, ids=str)
def test_only_a_sync_without_changes_asks_the_history(rows: dict[str, int | None]) -> None:
    """Whether ours was alone decides nothing where it changed rows, or may have."""
    result = result_of(conversation(first_shown=3.0, rows=rows))

    assert (result.ok, result.alone) == (True, False)


@pytest.mark.parametrize(
    ("newer", "alone", "chosen"),
    [
        (["ours"], True, "ours"),
        (["ours", "hidden"], False, "hidden"),
        (["later", "ours"], False, "ours"),
        ([], False, "ours"),
        (["hidden"], True, "hidden"),
    ],
    ids=str,
)
def test_what_the_history_lists_decides(newer: list[str], alone: bool, chosen: str) -> None:
    """Alone is what follows directly upon the newest at our look; an older one that COMPLETED is ours instead."""
    created = {"later": 3.0, "ours": 0.3, "hidden": 0.2}
    entries = [*(counted(name, created[name]) for name in newer), counted("before", -60)]
    result = result_of(conversation(3.0, lambda: (0.1, entries)))

    assert (result.ok, result.alone) == (True, alone)
    assert result.execution is not None
    assert result.execution.id == chosen


@pytest.mark.parametrize(
    "posted_as", [PeakaUnknownOutcomeError("lost"), PeakaServerError("busy", status_code=409)]
)
def test_after_a_trigger_that_was_not_accepted_the_history_is_asked(posted_as: PeakaError) -> None:
    """What appears then may be a stranger's, and the time without an answer was long."""
    scripted = conversation(
        history=lambda: (0.1, [counted("ours", 0.3), counted("before", -60)]), posted_as=posted_as
    )

    assert result_of(scripted).alone
    assert scripted.calls[-1].segments[-1] == "executionHistory"


@pytest.mark.parametrize(
    "looks",
    [
        [(1.0, "ours", 1.8)],
        [(1.0, "before", -60.0), (2.0, "ours", 0.3)],
        [(1.0, "late", -3.0), (2.0, "ours", 0.3)],
        [(6.0, "ours", 0.3)],
    ],
    ids=["created after the answer", "shown by a later look", "behind one that was late", "a late look"],
)
def test_the_history_is_asked_where_dates_do_not_tell(looks: list[tuple[float, str, float]]) -> None:
    """Another execution may have been created after ours, or have been hidden at our look."""
    sync = Sync(INCREMENTAL, SyncRules(), 0.0)
    sync.looked(Look(counted("before", -60), server_time=NOON), 0.0)
    sync.posting(0.0)
    sync.posted(Posted.ACCEPTED, 0.2, server_time=NOON)
    for now, name, created in looks:
        sync.looked(Look(counted(name, created), server_time=NOON), now)

    assert (sync.state, sync.task, sync.result) == (State.CONFIRM, Task.HISTORY, None)


def test_an_adopted_execution_is_never_alone() -> None:
    """Nobody has kept what the status showed when the attempt that died had looked."""
    sync = Sync(INCREMENTAL, SyncRules(), 0.0, earlier=Baseline("before", NOON, NOON), earlier_age=1.0)
    sync.looked(Look(counted("before", 0), server_time=NOON), 0.0)
    sync.looked(Look(counted("ours", 1), server_time=NOON), 1.0)
    sync.history_read([counted("ours", 1), counted("before", 0)], 1.1)

    assert sync.result is not None
    assert (sync.result.ok, sync.result.origin, sync.result.alone) == (True, Origin.ADOPTED, False)


@pytest.mark.parametrize(
    "answer",
    [
        (0.1, PeakaServerError("bad gateway", status_code=502)),
        (0.1, PeakaNotFoundError("no history", status_code=404)),
        (0.1, []),
        (1000.0, []),
    ],
    ids=["error", "not found", "empty", "never"],
)
def test_a_history_that_says_nothing_costs_a_few_seconds_and_no_failure(answer: tuple[float, Any]) -> None:
    """One answer that fails or does not come ends the question; the sync has succeeded all the same."""
    scripted = conversation(3.0, lambda: answer)
    result = result_of(scripted)

    assert (result.ok, result.alone) == (True, False)
    assert [call.segments[-1] for call in scripted.calls].count("executionHistory") == 1
    assert scripted.now < 15.0  # it showed after 3 s of the simulated clock


# The rule by itself

BEFORE, AFTER = Known("i1", "f1"), Known("i2", "f1")


@pytest.mark.parametrize(
    ("difference", "kept"),
    [
        ({}, True),
        ({"alone": False}, False),
        ({"mode": FULL_REFRESH, "covers": Known("i1", "i2")}, False),
        *(({"execution": counted("i2", 0, **rows)}, False) for rows in CHANGES),
        ({"before": Known("i0", "f1")}, False),
        ({"before": Known("i1", "f0")}, False),
        ({"before": None}, False),
        ({"covers": Known("i2", "f2")}, False),
        ({"covers": Known("i3", "f1")}, False),
        ({"covers": None}, False),
        ({"previous": None}, False),
        ({"previous": Version("v")}, False),
        ({"previous": Version("v"), "before": None, "covers": None}, False),
    ],
    ids=str,
)
def test_each_condition_of_the_rule_is_needed(difference: dict[str, Any], kept: bool) -> None:
    """The version before is kept only when everything fits; otherwise the version is the execution's id."""
    case: dict[str, Any] = {
        "previous": Version("v", BEFORE),
        "mode": INCREMENTAL,
        "execution": counted("i2", 0),
        "before": BEFORE,
        "covers": AFTER,
        "alone": True,
        **difference,
    }

    version = next_version(**case)

    assert version == Version("v" if kept else "i2", case["covers"])


@pytest.mark.parametrize("known", [Known("a", "b"), Known(None, "b"), Known("a", None)])
def test_what_is_known_survives_its_way_through_metadata(known: Known) -> None:
    """As JSON and back it is the same."""
    assert Known.from_json(json.loads(json.dumps(known.as_json()))) == known


@pytest.mark.parametrize(
    "value", [None, [], "a", {}, {"incremental": "a"}, {"incremental": 1, "full_refresh": None}]
)
def test_what_was_not_written_so_is_not_known(value: object) -> None:
    """Metadata that somebody else wrote, or cut, counts as nothing."""
    assert Known.from_json(value) is None
