"""The state machine in conversations written by hand, for what generated worlds seldom meet."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from dagster_peaka.api import CacheExecution, SyncMode
from dagster_peaka.sync.machine import Reading, State, Sync, Task
from dagster_peaka.sync.outcome import Posted, Trouble
from dagster_peaka.sync.stopping import may_cancel
from dagster_peaka.sync.timing import SyncRules

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)


def execution(name: str, created: float, status: str = "COMPLETED", **fields: Any) -> CacheExecution:
    """An execution created so many seconds after noon."""
    return CacheExecution(
        id=name,
        status=status,
        mode=SyncMode.INCREMENTAL,
        created_at=NOON + timedelta(seconds=created),
        **fields,
    )


def triggered(baseline: CacheExecution) -> Sync:
    """A sync that has looked at noon and was told at noon that its trigger was accepted."""
    sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 0.0)
    sync.polled(Reading(baseline, server_time=NOON), 0.0)
    assert sync.task is Task.TRIGGER
    assert sync.posting(0.1)
    sync.posted(Posted.ACCEPTED, 0.2, server_time=NOON)
    return sync


def test_a_stale_status_that_shows_an_older_execution_is_no_success() -> None:
    """A status from before the look, with an execution older than the baseline, decides nothing."""
    sync = triggered(execution("baseline", -0.5))
    sync.polled(Reading(execution("older", -1.5), server_time=NOON), 1.2)
    sync.history_read([execution("baseline", -0.5), execution("older", -1.5)], 1.3)
    assert (sync.state, sync.result) == (State.IDENTIFY, None)


def test_ours_may_already_be_over_when_a_stranger_runs_in_the_same_second() -> None:
    """What runs was created in our trigger's window, but an earlier one was, too: it is not surely ours."""
    sync = triggered(execution("baseline", -60))
    newest = execution("second", 0.9, "RUNNING")
    history = [newest, execution("first", 0.15), execution("baseline", -60)]
    sync.polled(Reading(newest, server_time=NOON), 1.2)
    assert sync.task is Task.HISTORY
    sync.history_read([history[0], history[2]], 1.3)
    assert sync.state is State.FOLLOW
    assert not may_cancel(sync, Reading(newest), history)
    assert may_cancel(sync, Reading(newest), [history[0], history[2]])


def test_a_deleted_cache_ends_the_sync_at_any_time() -> None:
    """DELETED, whatever else the status says, is a failure that names the execution."""
    sync = triggered(execution("baseline", -60))
    ours = execution("ours", 0.1, "RUNNING")
    sync.polled(Reading(ours, server_time=NOON), 1.2)
    sync.history_read([ours, execution("baseline", -60)], 1.3)
    sync.polled(Reading(ours, server_time=NOON, deleted=True), 2.3)
    assert sync.result is not None
    assert not sync.result.ok
    assert sync.result.execution is not None
    assert sync.result.execution.id == "ours"


def test_an_earlier_attempt_whose_trigger_left_no_trace_is_begun_anew() -> None:
    """After start_timeout since the earlier trigger, the first look becomes the new baseline."""
    earlier = triggered(execution("baseline", -60)).record
    sync = Sync(SyncMode.INCREMENTAL, SyncRules(start_timeout=10), 100.0, earlier=earlier, earlier_age=9.0)
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 100.0)
    assert sync.task is Task.POLL
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 111.0)
    assert sync.state is State.POLL
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 111.1)
    assert sync.task is Task.TRIGGER


def test_an_outage_is_no_quiet() -> None:
    """Longer than start_timeout, right after an accepted trigger: the first poll after it does not trigger again."""
    sync = triggered(execution("baseline", -60))
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 1.2)
    sync.unreadable("no answer", 2.3)
    sync.unreadable("no answer", 150.0)
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 200.0)
    assert sync.task is Task.POLL
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 319.0)
    assert sync.task is Task.POLL
    sync.polled(Reading(execution("baseline", -60), server_time=NOON), 320.5)
    assert sync.task is Task.TRIGGER


def polled(sync: Sync, newest: CacheExecution, now: float) -> None:
    """Tell the sync of a status that shows this."""
    sync.polled(Reading(newest, server_time=NOON), now)


def test_a_baseline_whose_clock_is_ahead_hides_nothing() -> None:
    """Stamped 20 s ahead by another node, it does not make ours, which has completed, an older one."""
    baseline = execution("baseline", 20)
    sync = triggered(baseline)
    ours = execution("ours", 0.1)
    polled(sync, ours, 1.2)
    sync.history_read([ours, baseline], 1.3)
    assert sync.result is not None
    assert (sync.result.ok, sync.result.execution) == (True, ours)


def test_a_strangers_running_one_of_the_same_second_is_not_followed() -> None:
    """Ours, between the baseline and it, has completed."""
    sync = triggered(execution("baseline", -60))
    stranger, ours = execution("stranger", 0.15, "RUNNING"), execution("ours", 0.1)
    polled(sync, stranger, 1.2)
    sync.history_read([stranger, ours, execution("baseline", -60)], 1.3)
    assert sync.result is not None
    assert sync.result.execution == ours


def test_a_history_that_lags_makes_no_strangers_failure_ours() -> None:
    """It lists nothing above the baseline although the status does: that decides nothing."""
    sync = triggered(execution("baseline", -60))
    polled(sync, execution("stranger", 0.5, "FAILED"), 1.2)
    sync.history_read([execution("baseline", -60)], 1.3)
    assert (sync.state, sync.result) == (State.IDENTIFY, None)
    stranger, ours = execution("stranger", 0.5, "FAILED"), execution("ours", 0.1)
    polled(sync, stranger, 2.2)
    assert sync.task is Task.HISTORY
    sync.history_read([stranger, ours, execution("baseline", -60)], 2.3)
    assert sync.result is not None
    assert sync.result.execution == ours


def test_no_trigger_follows_an_old_poll() -> None:
    """A trigger that had to wait for its turn for more than five seconds goes out after another poll."""
    sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 0.0)
    polled(sync, execution("baseline", -60), 0.0)
    assert not sync.posting(5.1)
    assert (sync.task, sync.triggers) == (Task.POLL, 0)
    polled(sync, execution("baseline", -60), 5.2)
    assert sync.posting(5.3)


def test_a_second_trigger_that_was_not_taken_is_not_repeated_once_the_first_has_shown() -> None:
    """After the 429 comes a poll, and that shows the execution of the first trigger."""
    sync = triggered(execution("baseline", -60))
    polled(sync, execution("baseline", -60), 1.0)
    polled(sync, execution("baseline", -60), 125.0)
    assert sync.task is Task.TRIGGER
    assert sync.posting(125.1)
    sync.posted(Posted.NOT_TAKEN, 125.2, reason="429")
    assert sync.task is Task.POLL
    ours = execution("ours", 0.1)
    polled(sync, ours, 126.0)
    sync.history_read([ours, execution("baseline", -60)], 126.1)
    assert sync.result is not None
    assert (sync.result.execution, sync.result.triggers) == (ours, 1)


@pytest.mark.parametrize("why", ["not taken", "an old poll"])
def test_what_is_late_stays_late_until_a_second_trigger_goes_out(why: str) -> None:
    """One that was to go out, and did not, changes nothing about what began before the first poll."""
    sync = triggered(execution("baseline", -600))
    for now in (1.0, 125.0):
        polled(sync, execution("baseline", -600), now)
    assert sync.task is Task.TRIGGER
    if why == "an old poll":
        assert not sync.posting(131.0)
    else:
        assert sync.posting(125.1)
        sync.posted(Posted.NOT_TAKEN, 125.2, reason="429")
    late = execution("late", -60)
    polled(sync, late, 132.0)
    sync.history_read([late, execution("baseline", -600)], 132.1)
    assert sync.result is None
    assert sync.record.baseline == "late"


def test_a_first_trigger_that_was_not_taken_begins_with_another_baseline() -> None:
    """What a stranger has started meanwhile is no execution of ours."""
    sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 0.0)
    polled(sync, execution("baseline", -60), 0.0)
    assert sync.posting(0.1)
    sync.posted(Posted.NOT_TAKEN, 0.2, reason="429")
    polled(sync, execution("stranger", 0.4), 1.0)
    assert sync.task is Task.TRIGGER
    assert sync.record.baseline == "stranger"


def test_an_unknown_word_may_still_become_completed() -> None:
    """Shown with an end, it is waited for."""
    sync = triggered(execution("baseline", -60))
    odd = execution("ours", 0.1, "FLUSHING", finished_at=NOON + timedelta(seconds=1))
    polled(sync, odd, 1.2)
    sync.history_read([odd, execution("baseline", -60)], 1.3)
    assert sync.result is None
    polled(sync, execution("ours", 0.1), 60.0)
    assert sync.result is not None
    assert sync.result.ok


def unreadable_history(newest: CacheExecution) -> Sync:
    """A sync whose history cannot be read for outage_tolerance, while the status shows this."""
    sync = triggered(execution("baseline", -60))
    for now in range(2, 320, 10):
        polled(sync, newest, float(now))
        if sync.task is Task.HISTORY:
            sync.unreadable("bad gateway", now + 0.1)
    return sync


def test_without_a_history_only_completed_counts() -> None:
    """After outage_tolerance what the status shows as COMPLETED counts, unproven; a failure is not concluded."""
    completed = unreadable_history(execution("newest", 0.1)).result
    assert completed is not None
    assert (completed.ok, completed.unproven) == (True, True)
    failed = unreadable_history(execution("newest", 0.1, "FAILED")).result
    assert failed is not None
    assert (failed.trouble, failed.reason) == (Trouble.UNREADABLE, "bad gateway")


def test_after_a_trigger_that_was_not_accepted_nothing_is_cancelled() -> None:
    """Refused, or of unknown outcome: what runs may be a stranger's."""
    for answer in (Posted.ACCEPTED, Posted.REFUSED, Posted.UNKNOWN):
        sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 0.0)
        polled(sync, execution("baseline", -60), 0.0)
        assert sync.posting(0.1)
        sync.posted(answer, 0.2, server_time=NOON if answer is Posted.ACCEPTED else None)
        newest = execution("ours", 0.1, "RUNNING")
        polled(sync, newest, 1.2)
        history = [newest, execution("baseline", -60)]
        sync.history_read(history, 1.3)
        assert may_cancel(sync, Reading(newest), history) is (answer is Posted.ACCEPTED)


def test_a_deferred_one_that_has_been_recorded_is_not_adopted() -> None:
    """A re-execution that wants fresh rows triggers; one that runs is adopted all the same."""
    earlier = triggered(execution("baseline", -60)).record
    for status, task in (("COMPLETED", Task.POLL), ("RUNNING", Task.POLL)):
        sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 9.0, earlier, 9.0, adopts_completed=False)
        ours = execution("ours", 0.1, status)
        polled(sync, ours, 9.1)
        sync.history_read([ours, execution("baseline", -60)], 9.2)
        assert sync.task is task
        assert (sync.state is State.FOLLOW) is (status == "RUNNING")
