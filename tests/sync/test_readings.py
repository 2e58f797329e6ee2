"""What Peaka's contract leaves open: one test, over HTTP, for each reading. Worlds of several at once are elsewhere.

Guarantees 1 and 2 are judged by the sandbox's own records: which execution each trigger really started.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from dagster_peaka import PeakaResource, PeakaSyncError
from dagster_peaka.api import CacheExecution
from dagster_peaka.sandbox import ExecutionRecord, PeakaSandbox
from tests.materializing import TRIGGERS, acting_when, is_followed
from tests.sync.readings import Readings, answered
from tests.sync.steps import PATIENCE, wait_until

CACHE = "ops.public.t"
Sync = Callable[..., CacheExecution]


@pytest.fixture
def sync(sandbox: PeakaSandbox) -> Sync:
    """Sync the cache through the resource; settings may be given. Only a wait that has to end is short."""

    def run(mode: str = "incremental", **settings: Any) -> CacheExecution:
        fields: dict[str, Any] = {
            "poll_interval": 0.05,
            "start_timeout": PATIENCE,
            "poll_timeout": 60.0,  # which a sync that follows the wrong execution takes to fail
            **settings,
        }
        peaka = PeakaResource(
            api_key=sandbox.api_key, project_id=sandbox.project_id, base_url=sandbox.base_url, **fields
        )
        return peaka.sync(CACHE, mode)

    return run


def triggered(sandbox: PeakaSandbox) -> list[ExecutionRecord]:
    """The executions that our triggers really started."""
    return [execution for execution in sandbox.executions(CACHE) if execution.origin == "api"]


def triggers(sandbox: PeakaSandbox) -> int:
    """How many triggers the sandbox was sent."""
    return sum(record.operation in TRIGGERS for record in sandbox.requests)


@contextmanager
def between_two_polls(looks: Readings, act: Callable[[], object]) -> Generator[None]:
    """In the block a sync's trigger is answered, `act` is done, and only then looks are taken again."""
    looks.allowed.clear()

    def then() -> None:
        try:
            act()
        finally:
            looks.allowed.set()

    with acting_when(lambda: answered(looks.sandbox), then):
        yield


def change(sandbox: PeakaSandbox, execution_id: str, *, later: float = 0.0, shown: bool = True) -> None:
    """Date an execution's creation some seconds later, and show it or hide it."""

    def do() -> None:
        (execution,) = [each for each in sandbox._engine.truth if each.id == execution_id]
        execution.visible_at = 0.0 if shown else float("inf")
        execution.created_at += later

    sandbox._loop.call(do)


def start_later(sandbox: PeakaSandbox) -> str:
    """A stranger's execution that Peaka's clock dates past the second of the trigger's answer; returns its id."""
    sandbox.wait_idle()
    started = sandbox.start_execution(CACHE, origin="schedule")
    change(sandbox, started, later=5.0)
    return started


def when_triggered(sandbox: PeakaSandbox) -> Any:
    """In the block, let what is held go on as soon as a trigger was answered."""
    return acting_when(lambda: answered(sandbox), lambda: sandbox.release(CACHE))


def test_visible_at_once(sandbox: PeakaSandbox, sync: Sync) -> None:
    """A triggered execution that shows at once is followed: one trigger."""
    assert sync().id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


def test_visible_after_some_seconds(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """A triggered execution that shows late is waited for: one trigger."""
    sandbox.behaviour.visible_after = PATIENCE

    def show() -> None:
        looks.are_seen(2)
        change(sandbox, triggered(sandbox)[0].id)

    with acting_when(lambda: answered(sandbox), show):
        execution = sync()
    assert execution.id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


def test_visible_when_it_leaves_the_queue(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """While a stranger's execution runs ours does not show; the grace begins only when that one has ended."""
    sandbox.behaviour.hide_queued = True
    sandbox.plan(CACHE, hold=True)
    sandbox.start_execution(CACHE)

    def release() -> None:
        answered = time.monotonic()
        wait_until(lambda: time.monotonic() > answered + 0.3, "the end of a grace that begins too early")
        looks.are_seen(2)
        sandbox.release(CACHE)

    with acting_when(lambda: answered(sandbox), release):
        execution = sync(start_timeout=0.2)
    assert execution.id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


def test_an_older_one_that_shows_late_is_not_ours(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """An execution from before our look, which showed only after it, may have read past the newest rows."""
    sandbox.behaviour.visible_after = PATIENCE
    sandbox.plan(CACHE, hold=True)
    stranger = sandbox.start_execution(CACHE)
    change(sandbox, stranger, later=-10.0, shown=False)

    def show() -> None:
        change(sandbox, stranger)
        looks.are_seen(2)
        sandbox.release(CACHE)
        looks.are_seen(2)
        change(sandbox, triggered(sandbox)[0].id)

    with acting_when(lambda: answered(sandbox), show):
        execution = sync()
    assert execution.id != stranger
    assert execution.id == triggered(sandbox)[0].id


def test_a_trigger_while_one_runs_is_queued(sandbox: PeakaSandbox, sync: Sync) -> None:
    """The queued execution is ours, not the one that ran at our look."""
    sandbox.plan(CACHE, hold=True)
    stranger = sandbox.start_execution(CACHE)
    with when_triggered(sandbox):
        execution = sync()
    assert execution.id != stranger
    assert [execution.id] == [record.id for record in triggered(sandbox)]


def test_a_trigger_while_one_runs_is_coalesced(sandbox: PeakaSandbox, sync: Sync) -> None:
    """A swallowed trigger is repeated once, after the running execution has ended and start_timeout has passed."""
    sandbox.behaviour.coalesce = True
    sandbox.plan(CACHE, hold=True)
    stranger = sandbox.start_execution(CACHE)
    with when_triggered(sandbox):
        execution = sync(start_timeout=0.2)
    assert execution.id != stranger
    assert [execution.id] == [record.id for record in triggered(sandbox)]
    assert triggers(sandbox) == 2


@pytest.mark.parametrize("spelling", ["upper", "lower", "kebab"])
@pytest.mark.parametrize("stranger_fails", [False, True])
def test_ours_is_over_and_replaced_between_two_polls(
    sandbox: PeakaSandbox, sync: Sync, looks: Readings, spelling: Any, stranger_fails: bool
) -> None:
    """Of two executions between two polls only the history still shows ours, however it spells the modes."""
    sandbox.behaviour.mode_spelling = spelling

    def schedule() -> None:
        sandbox.wait_idle()
        sandbox.plan(CACHE, hold=not stranger_fails, fail={"message": "no"} if stranger_fails else None)
        started = start_later(sandbox)
        wait_until(lambda: not stranger_fails or status_of(sandbox, started) == "FAILED", "its end")

    with between_two_polls(looks, schedule):
        execution = sync()
    assert execution.id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


def status_of(sandbox: PeakaSandbox, execution_id: str) -> str:
    """The true status of an execution."""
    (found,) = [each for each in sandbox.executions(CACHE) if each.id == execution_id]
    return found.status


def histories(sandbox: PeakaSandbox) -> int:
    """How often the history was asked for."""
    return sum(record.operation == "getCacheExecutionHistory" for record in sandbox.requests)


def and_a_later_one(looks: Readings, sync: Sync) -> CacheExecution:
    """Sync while a stranger's execution follows ours, and both are over before the next poll."""

    def start() -> None:
        start_later(looks.sandbox)
        looks.sandbox.wait_idle()

    with between_two_polls(looks, start):
        return sync()


def test_a_later_completed_one_is_not_taken_for_ours(
    sandbox: PeakaSandbox, sync: Sync, looks: Readings
) -> None:
    """The status shows a stranger's that COMPLETED; the history, read once, has ours beneath it."""
    execution = and_a_later_one(looks, sync)
    assert execution.id == triggered(sandbox)[0].id
    assert histories(sandbox) == 1


@pytest.mark.parametrize("other_mode", ["parallel", "queue", "coalesce", "refuse"])
def test_the_other_mode_runs(sandbox: PeakaSandbox, sync: Sync, other_mode: Any) -> None:
    """Beside it, behind it, swallowed or refused: in the end one of our triggers' executions COMPLETED."""
    sandbox.behaviour.other_mode = other_mode
    sandbox.behaviour.full_refresh_gap = 0.0  # start_timeout is shorter than it here
    sandbox.plan(CACHE, hold=True)
    sandbox.start_execution(CACHE, mode="full_refresh")
    with when_triggered(sandbox):
        execution = sync(start_timeout=0.2)
    assert [execution.id] == [record.id for record in triggered(sandbox)]
    assert triggers(sandbox) == (2 if other_mode in ("coalesce", "refuse") else 1)


@pytest.mark.parametrize("first", ["incremental", "full_refresh"])
@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_the_mode_of_a_first_sync(sandbox: PeakaSandbox, sync: Sync, first: Any, mode: str) -> None:
    """Whatever mode a new cache's first sync has, it is no execution of ours."""
    sandbox.delete_cache(CACHE)
    sandbox.behaviour.first_sync_mode = first
    sandbox.create_cache(CACHE)
    sandbox.wait_idle()
    execution = sync(mode)
    assert [execution.id] == [record.id for record in triggered(sandbox)]


def test_a_lost_answer_of_a_trigger_that_was_taken(sandbox: PeakaSandbox, sync: Sync) -> None:
    """The execution appears, so the trigger is not repeated."""
    sandbox.fault("incrementalUpdateCache", lose_reply=True, status=None)
    assert sync().id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_trigger_that_was_answered_with_5xx_and_not_taken(
    sandbox: PeakaSandbox, sync: Sync, status: int
) -> None:
    """Nothing appears for start_timeout, so the trigger is repeated once."""
    sandbox.fault("incrementalUpdateCache", status=status)
    assert sync(start_timeout=0.2).id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 2


@pytest.mark.parametrize(("status", "permanent"), [(400, True), (409, False)])
def test_a_trigger_that_is_refused_twice(
    sandbox: PeakaSandbox, sync: Sync, status: int, permanent: bool
) -> None:
    """The failure repeats Peaka's reason; only a request that is wrong in itself makes it permanent."""
    sandbox.fault("incrementalUpdateCache", status=status, body={"message": "no such mode"}, times=None)
    with pytest.raises(PeakaSyncError, match="no such mode") as raised:
        sync(start_timeout=0.3)
    assert raised.value.permanent is permanent
    assert triggers(sandbox) == 2


def test_triggers_that_start_nothing(sandbox: PeakaSandbox, sync: Sync) -> None:
    """After two triggers without an execution the sync fails, and says that one may still start."""
    sandbox.fault("incrementalUpdateCache", status=500, times=None)
    with pytest.raises(PeakaSyncError, match="may still start late"):
        sync(start_timeout=0.3)
    assert triggers(sandbox) == 2


@pytest.mark.parametrize("case", ["lower", "title", "upper"])
def test_statuses_in_any_letter_case(sandbox: PeakaSandbox, sync: Sync, case: Any) -> None:
    """`completed` and `Completed` mean COMPLETED."""
    sandbox.behaviour.status_case = case
    assert sync().id == triggered(sandbox)[0].id


@pytest.mark.parametrize("word", ["PENDING", "QUEUED", "SCHEDULED"])
def test_a_status_that_nobody_has_seen_yet(sandbox: PeakaSandbox, sync: Sync, word: str) -> None:
    """An unknown status is neither success nor failure: ours is followed through it to its end."""
    sandbox.behaviour.queued_status = word
    sandbox.plan(CACHE, hold=True)
    sandbox.start_execution(CACHE)
    with acting_when(lambda: is_followed(sandbox), lambda: sandbox.release(CACHE)):
        execution = sync()
    assert execution.id == triggered(sandbox)[0].id


@pytest.mark.parametrize("word", ["TIMED_OUT", "TERMINATED"])
def test_an_end_that_nobody_has_seen_yet(sandbox: PeakaSandbox, sync: Sync, word: str) -> None:
    """An unknown status with an end is never a success."""
    sandbox.plan(CACHE, status=word)
    with pytest.raises(PeakaSyncError, match=word):
        sync(start_timeout=0.2)


def test_a_history_without_modes(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """Where the history names no modes, the newest execution known to be of the mode is followed."""
    sandbox.behaviour.mode_spelling = "absent"
    execution = and_a_later_one(looks, sync)
    assert execution.id in {record.id for record in sandbox.executions(CACHE)[1:]}
    assert triggers(sandbox) == 1


@pytest.mark.parametrize("timestamps", ["z", "offset", "no_fraction", "null", "absent"])
def test_timestamps_in_any_form(sandbox: PeakaSandbox, sync: Sync, timestamps: Any) -> None:
    """With a zone, an offset, no fraction, null or none at all: ours is found with one trigger."""
    sandbox.behaviour.timestamps = timestamps
    assert sync().id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


@pytest.mark.parametrize("offset", [-7200.0, 7200.0])
def test_a_clock_that_is_off(sandbox: PeakaSandbox, sync: Sync, offset: float) -> None:
    """Only Peaka's own clock is compared with itself, so that ours may differ by hours."""
    sandbox.behaviour.clock_offset = offset
    assert sync().id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


@pytest.mark.parametrize(
    ("shape", "words"), [("object", "source is locked"), ("string", "source is locked"), ("null", "FAILED")]
)
def test_an_error_in_any_shape(sandbox: PeakaSandbox, sync: Sync, shape: Any, words: str) -> None:
    """An object's message, a string, or nothing: the failure says what there is."""
    sandbox.behaviour.error_shape = shape
    sandbox.plan(CACHE, fail={"message": "source is locked"})
    with pytest.raises(PeakaSyncError, match=words) as raised:
        sync()
    assert raised.value.execution_id == triggered(sandbox)[0].id


@pytest.mark.parametrize("answer", ["object", "empty", "text"])
def test_whatever_a_trigger_answers(sandbox: PeakaSandbox, sync: Sync, answer: Any) -> None:
    """The body of a trigger's answer says nothing, so it may be anything."""
    sandbox.behaviour.trigger_answer = answer
    assert sync().id == triggered(sandbox)[0].id


def test_unknown_fields_and_ids_as_numbers(sandbox: PeakaSandbox, sync: Sync) -> None:
    """Fields that no document names are ignored, and catalog ids beyond 2^53 stay exact."""
    sandbox.behaviour.extra_fields = True
    sandbox.behaviour.ids_as_numbers = True
    assert sync().id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


@pytest.mark.parametrize(("choice", "expected"), [("attach", 0), ("queue", 1)])
def test_what_on_running_does(sandbox: PeakaSandbox, sync: Sync, choice: str, expected: int) -> None:
    """`attach` follows the execution that runs already, `queue` triggers another."""
    sandbox.plan(CACHE, hold=True)
    stranger = sandbox.start_execution(CACHE)
    with acting_when(lambda: is_followed(sandbox), lambda: sandbox.release(CACHE)):
        execution = sync(on_running=choice)
    assert (execution.id == stranger) == (choice == "attach")
    assert triggers(sandbox) == expected


def test_on_running_fail(sandbox: PeakaSandbox, sync: Sync) -> None:
    """`fail` triggers nothing and names the execution that runs."""
    sandbox.plan(CACHE, hold=True)
    stranger = sandbox.start_execution(CACHE)
    with pytest.raises(PeakaSyncError, match=stranger):
        sync(on_running="fail")
    assert triggers(sandbox) == 0


def test_a_short_outage(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """The server away for less than outage_tolerance: as if nothing had happened."""
    sandbox.plan(CACHE, hold=True)

    def away_for_a_while() -> None:
        looks.are_seen(2)
        sandbox.stop()
        looks.are_seen(2)
        sandbox.start()
        sandbox.release(CACHE)

    with acting_when(lambda: answered(sandbox), away_for_a_while):
        execution = sync(outage_tolerance=PATIENCE, request_max_retries=0)
    assert execution.id == triggered(sandbox)[0].id
    assert triggers(sandbox) == 1


def test_a_long_outage(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """The server away for longer: the sync names the execution that may still run, and nothing is cancelled."""
    sandbox.plan(CACHE, hold=True)

    def away() -> None:
        looks.are_seen(2)
        sandbox.stop()

    with (
        acting_when(lambda: answered(sandbox), away),
        pytest.raises(PeakaSyncError, match="could not be read .* may still run") as raised,
    ):
        sync(outage_tolerance=0.3, request_max_retries=0)
    sandbox.start()
    assert raised.value.execution_id == triggered(sandbox)[0].id
    assert not [record for record in sandbox.requests if (record.operation or "").startswith("cancel")]


def test_an_execution_that_vanishes(sandbox: PeakaSandbox, sync: Sync, looks: Readings) -> None:
    """Gone from status and history, it is waited for as long as for a new one, and then named."""
    sandbox.plan(CACHE, vanish=True, hold=True)

    def release() -> None:
        looks.are_seen(2)
        sandbox.release(CACHE)

    with (
        acting_when(lambda: answered(sandbox), release),
        pytest.raises(PeakaSyncError, match="neither") as raised,
    ):
        sync(start_timeout=0.2)
    assert raised.value.execution_id == triggered(sandbox)[0].id


def test_two_syncs_of_one_cache_at_the_same_time(sandbox: PeakaSandbox, sync: Sync) -> None:
    """Each ends with an execution that was created after it asked."""
    sandbox.behaviour.execution_seconds = 0.2
    results: dict[str, tuple[float, CacheExecution]] = {}

    def one(name: str) -> None:
        asked = time.time()
        results[name] = (asked, sync())

    threads = [threading.Thread(target=one, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    truth = {record.id: record for record in sandbox.executions(CACHE)}
    assert len(results) == 2
    for asked, execution in results.values():
        assert truth[execution.id].created_at >= asked
        assert truth[execution.id].status == "COMPLETED"
