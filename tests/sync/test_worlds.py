"""Every guarantee in thousands of generated worlds (`tests/sync/world.py`), judged by what really happened in them.

`PEAKA_WORLDS` sets how many (default 4,000) and `PEAKA_FIRST_SEED` where to begin; a violation names its seed:
`PEAKA_WORLDS=1 PEAKA_FIRST_SEED=<seed>` repeats it.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from dagster_peaka.sync.identity import ANSWER_WINDOW, LATE_TOLERANCE
from dagster_peaka.sync.outcome import Origin, Posted, Trouble
from tests.sync.world import Open, Truth, World, generated

WORLDS = int(os.environ.get("PEAKA_WORLDS", "4000"))
FIRST = int(os.environ.get("PEAKA_FIRST_SEED", "0"))
PARTS = 4


def judge(world: World) -> str:
    """Run one world and check every guarantee that can be checked in it; returns how it ended, for the count."""
    result = world.run()
    truth = {execution.id: execution for execution in world.executions}
    no_needless_trigger(world)
    if result is None:
        no_foreign_cancel(world)
        return "interrupted"
    always_ends(world)
    if result.ok:
        assert result.execution is not None
        no_false_success(world, truth[result.execution.id], result.origin)
        return "completed"
    assert result.trouble is not None
    says_why(world, result.trouble, truth.get(result.execution.id) if result.execution else None)
    return result.trouble.value


def no_false_success(world: World, execution: Truth, origin: Origin) -> None:
    """Guarantee 1: of our mode, COMPLETED by now, and begun after our look."""
    assert execution.mode is world.mode, f"seed {world.seed}: another mode's execution"
    assert execution.outcome == "COMPLETED", f"seed {world.seed}: not completed"
    assert execution.finished is not None, f"seed {world.seed}: not finished"
    assert execution.finished <= world.now
    if origin is Origin.ATTACHED:
        return
    assert world.first_look is not None
    shown_before = execution.created <= execution.visible_at <= world.first_look - world.open.stale_by
    if world.open.visible_when_started:
        shown_before = (
            shown_before and execution.started is not None and execution.started <= world.first_look
        )
    assert not shown_before, f"seed {world.seed}: was there at our look"
    if not (world.open.shows_times and world.open.has_date) or len(taken(world)) > 1:
        # Without clocks "late to show" cannot be told; after a second trigger the next new one is ours.
        return
    begun = execution.started if world.open.created_when_started else execution.created
    slack = LATE_TOLERANCE.total_seconds() + 1.0 + max(0.0, world.open.clock_skew)
    assert begun is not None
    assert begun >= world.first_look - slack, f"seed {world.seed}: began before our look"


def taken(world: World) -> list[float]:
    """When the POSTs went out that may have had an effect."""
    return [
        at
        for at, answer in zip(world.posts, world.last_answers, strict=True)
        if answer is not Posted.NOT_TAKEN
    ]


def no_needless_trigger(world: World) -> None:
    """Guarantee 2: at most two, the second after start_timeout of nothing new and nothing running."""
    posts = taken(world)
    assert len(posts) <= 2, f"seed {world.seed}: {len(posts)} triggers"
    if len(posts) < 2:
        return
    first, second = posts
    assert second - first >= world.rules.start_timeout, f"seed {world.seed}: triggered again too early"
    seen_at = max(look for look in world.looks if look < second)
    stale = world.open.stale_by
    baseline_looks = [look for look in world.looks if look < first]
    assert seen_at > first, f"seed {world.seed}: triggered again without looking"
    for execution in world.visible(world.mode, seen_at - stale):
        ran = execution.finished is None or execution.finished > seen_at - stale
        assert not ran, f"seed {world.seed}: triggered again while one was running"
        known = execution.created <= max(baseline_looks)
        late_possible = not known and world.open.clock_skew < -2
        missed = not world.open.shows_times and stale > 0
        assert known or late_possible or missed, (
            f"seed {world.seed}: triggered again although a new one was there"
        )


def no_foreign_cancel(world: World) -> None:
    """Guarantee 3: what a cancel would have stopped is ours, but for the two windows that the docs state."""
    if not world.would_cancel or world.cancelled is None or world.cancelled.ours:
        return
    if abs(world.open.clock_skew) > LATE_TOLERANCE.total_seconds():
        return  # Peaka's own clocks disagree: nothing that it says tells when an execution was created
    cancelled = world.cancelled
    assert world.first_look is not None
    windows = zip(world.posts, world.post_answers, strict=True)
    resolution = ANSWER_WINDOW.total_seconds() + 1.0
    looked = world.first_look - resolution - max(0.0, world.open.clock_skew)
    first_window = any(looked <= cancelled.created <= answered + resolution for _, answered in windows)
    seen_at = world.looks[-1]
    last_request = cancelled.started is not None and cancelled.started >= seen_at - world.open.stale_by
    assert first_window or last_request, f"seed {world.seed}: would have cancelled a stranger's execution"


def always_ends(world: World) -> None:
    """Guarantee 5: no later than poll_timeout and one last round of requests."""
    assert world.now <= 500.0 + world.rules.poll_timeout + 60.0 + 5.0, f"seed {world.seed}: ended late"


def says_why(world: World, trouble: Trouble, execution: Truth | None) -> None:
    """No false failure: what the sync complains about is there in the world."""
    seed = world.seed
    outage = max((end - start for start, end in world.outages), default=0.0)
    if trouble in (Trouble.FAILED, Trouble.CANCELLED, Trouble.UNKNOWN_END):
        wanted = {Trouble.FAILED: "FAILED", Trouble.CANCELLED: "CANCELLED", Trouble.UNKNOWN_END: "TIMED_OUT"}
        assert execution is not None
        assert execution.outcome == wanted[trouble], f"seed {seed}: it did not end so"
    elif trouble is Trouble.GONE:
        assert world.deleted_at is not None, f"seed {seed}: not deleted"
    elif trouble is Trouble.ALREADY_RUNNING:
        assert world.rules.on_running == "fail", f"seed {seed}: not asked to fail"
    elif trouble in (Trouble.UNREADABLE, Trouble.NOT_TAKEN):
        assert outage >= world.rules.outage_tolerance * 0.5 or "not taken" in world.post_fates, f"seed {seed}"
        assert trouble is not Trouble.UNREADABLE or outage > 0, f"seed {seed}: readable all the time"
    elif trouble is Trouble.REFUSED:
        assert world.open.other_mode == "refuse", f"seed {seed}: never refused"
    elif trouble is Trouble.NOT_STARTED:
        lost = "lost before" in world.post_fates
        swallowed = world.open.coalesce or world.open.other_mode in ("coalesce", "refuse")
        hidden = world.open.visible_after >= world.rules.start_timeout
        stale = not world.open.shows_times and world.open.stale_by > 0
        assert lost or swallowed or hidden or stale, f"seed {seed}: a new execution was overlooked"
    elif trouble is Trouble.TIMED_OUT:
        longest = max(world.durations)
        assert longest * 4 + 700 > world.rules.poll_timeout or "TIMED_OUT" in world.outcomes, (
            f"seed {seed}: no hurry"
        )
    else:
        assert trouble is Trouble.VANISHED
        assert world.open.stale_by > 0, f"seed {seed}: it was there all the time"


@pytest.mark.parametrize("part", range(PARTS))
def test_every_guarantee_holds_in_every_generated_world(part: int) -> None:
    """No false success, no needless trigger, no foreign cancel, always an end, never a failure without a cause."""
    ended: Counter[str] = Counter()
    for seed in range(FIRST + part, FIRST + max(WORLDS, PARTS if WORLDS > 1 else 1), PARTS):
        ended[judge(generated(seed))] += 1
    print(dict(ended))  # noqa: T201 - the counts that a nightly run reports
    if WORLDS >= 1000:
        assert ended["completed"] > ended.total() / 3, (
            "the generator makes too few worlds in which a sync succeeds"
        )
        assert {"failed", "cancelled", "interrupted", "already running", "gone"} <= set(ended)


def test_nothing_starts_twice_after_a_crash() -> None:
    """Guarantee 4: the next attempt follows what the dead one triggered, if that is good, and else triggers."""
    ended: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + max(1, WORLDS // 2)):
        ended[judge_after_a_crash(seed)] += 1
    if WORLDS >= 1000:
        assert min(ended["adopted"], ended["triggered anew"]) > ended.total() / 50, ended


def judge_after_a_crash(seed: int) -> str:
    """One world in which the first attempt dies; returns what became of the second."""
    world = generated(seed)
    world.interrupt_at = None
    pick = random.Random(seed + 7)
    left = world.crash(pick.choice([0.6, 2.0, 10.0, 100.0]))
    if left is None:
        return "nothing written down"
    baseline, written_at = left
    dead_posts, dead_look = len(world.posts), world.first_look
    world.advance(world.now + pick.choice([0.1, 5.0, 60.0]))
    began = world.now
    result = world.run(earlier=baseline, earlier_age=began - written_at)
    assert result is not None
    truth = {execution.id: execution for execution in world.executions}
    if not result.ok:
        return "failed"
    assert result.execution is not None
    followed = truth[result.execution.id]
    assert dead_look is not None
    assert followed.outcome == "COMPLETED", f"seed {seed}: not completed"
    assert followed.mode is world.mode, f"seed {seed}: another mode's execution"
    if result.origin is Origin.ATTACHED:
        return "attached"
    if world.open.shows_times and world.open.has_date and len(world.posts) - dead_posts < 2:
        slack = LATE_TOLERANCE.total_seconds() + 1.0 + max(0.0, world.open.clock_skew)
        begun = followed.started if world.open.created_when_started else followed.created
        assert begun is not None
        assert begun >= dead_look - slack, f"seed {seed}: began before the dead attempt's look"
    ours = [execution for execution in world.executions if execution.ours and execution.created <= began]
    plain = world.open == Open(
        shows_mode=True, shows_times=True, has_date=True, queued_status=world.open.queued_status
    )
    if plain and ours and not world.outages and followed.outcome == ours[0].outcome == "COMPLETED":
        assert len(world.posts) == dead_posts, (
            f"seed {seed}: triggered although the dead attempt's execution was good"
        )
        newer = followed.created > ours[0].created
        assert followed.id == ours[0].id or newer, f"seed {seed}: followed another one"
    return "adopted" if result.origin is Origin.ADOPTED else "triggered anew"
