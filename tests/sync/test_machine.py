"""The state machine in conversations written by hand, for what generated worlds seldom meet."""

from datetime import datetime, timedelta, timezone
from typing import Any

from dagster_peaka import CacheExecution, SyncMode
from dagster_peaka.sync.machine import Posted, Reading, State, Sync, SyncRules, Task

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
    assert not sync.may_cancel(Reading(newest), history)
    assert sync.may_cancel(Reading(newest), [history[0], history[2]])


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
