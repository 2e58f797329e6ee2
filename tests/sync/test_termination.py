"""Guarantee 3: a terminated run cancels its own execution, and no other, at every stage of a sync."""

import os
import signal

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.sync.steps import Steps, wait_until

CACHE = "ops.public.t"
FOR_EVER = 3600.0
"""Seconds that no test waits."""
FOLLOWING = "following execution"


def newest_status(sandbox: PeakaSandbox) -> str:
    """The true status of the newest execution."""
    return sandbox.executions(CACHE)[-1].status


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_running_execution_of_ours_is_cancelled(steps: Steps, executor: str) -> None:
    """Interrupted while its own execution runs, the step cancels exactly that one, and says so."""
    steps.sandbox.plan(CACHE, hold=True)
    process = steps.start(EXECUTOR=executor)
    process.wait_until_said(FOLLOWING)
    ended = steps.interrupt(process)
    ours = steps.sandbox.executions(CACHE)[-1]
    steps.sandbox.wait_idle()
    assert (steps.cancels(), newest_status(steps.sandbox)) == (1, "CANCELLED")
    assert f"asked to cancel {CACHE}" in ended.log
    assert ours.id in ended.log
    assert not ended.success


def test_an_interrupt_of_a_run_that_nobody_terminated_cancels_nothing(steps: Steps) -> None:
    """An evicted pod, a dying worker, Ctrl-C: the execution goes on, and the re-execution follows it."""
    steps.sandbox.plan(CACHE, times=1, hold=True)
    process = steps.start(EXECUTOR="in_process")
    process.wait_until_said(FOLLOWING)
    ended = steps.evict(process)
    assert (steps.cancels(), newest_status(steps.sandbox)) == (0, "RUNNING")
    assert "the run was interrupted, not terminated" in ended.log
    assert not ended.success
    steps.sandbox.release(CACHE)


def test_a_termination_that_the_step_never_hears_of_ends_it_all_the_same(steps: Steps) -> None:
    """The run's own status tells: the execution is cancelled, and the run ends as CANCELED."""
    steps.sandbox.plan(CACHE, hold=True)
    process = steps.start(EXECUTOR="in_process")
    process.wait_until_said(FOLLOWING)
    ended = steps.terminate_unheard(process)
    steps.sandbox.wait_idle()
    assert (steps.cancels(), newest_status(steps.sandbox)) == (1, "CANCELLED")
    assert not ended.success
    assert steps.status() is dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_no_cancel(steps: Steps, number: int) -> None:
    """Ctrl-C comes from the terminal and from the executor; an executor's may come after the run's status was read."""
    steps.sandbox.plan(CACHE, hold=True)
    cancel = steps.sandbox.fault(operation="cancelIncrementalCache", delay=FOR_EVER, status=None, times=1)
    process = steps.start(EXECUTOR="in_process", STOP_BUDGET="3")
    process.wait_until_said(FOLLOWING)
    steps.terminate(process)
    wait_until(lambda: cancel.hits == 1, "the cancel")
    os.kill(process.pid, number)
    ended = steps.end(process)
    assert "the cancel was not answered" in ended.log
    assert steps.status() is dg.DagsterRunStatus.CANCELED


def test_nothing_is_sent_when_nothing_was_triggered(steps: Steps) -> None:
    """Interrupted before its trigger, the step triggers nothing and cancels nothing."""
    look = steps.sandbox.fault(operation="getCacheStatus", delay=FOR_EVER, status=None, times=1)
    process = steps.start(EXECUTOR="in_process")
    wait_until(lambda: look.hits == 1, "the first look")
    ended = steps.interrupt(process)
    assert (steps.triggers(), steps.cancels(), ended.success) == (0, 0, False)


def test_a_queued_execution_is_left_alone_and_named(steps: Steps) -> None:
    """While a stranger's execution runs, a cancel would stop that one; ours, queued behind it, is only named."""
    steps.sandbox.plan(CACHE, hold=True)
    steps.sandbox.start_execution(CACHE)
    process = steps.start(EXECUTOR="in_process")
    process.wait_until_said(FOLLOWING)
    ended = steps.interrupt(process)
    stranger, ours = steps.sandbox.executions(CACHE)[-2:]
    assert steps.cancels() == 0
    assert (stranger.status, stranger.origin) == ("RUNNING", "stranger")
    assert f"execution {ours.id}" in ended.log
    assert "left alone" in ended.log


def test_a_finished_execution_is_not_cancelled(steps: Steps) -> None:
    """Interrupted after its execution has ended but before that was read, the step cancels nothing."""
    process = steps.start(EXECUTOR="in_process", POLL_INTERVAL="30")
    wait_until(lambda: steps.triggers() == 1, "the trigger")
    steps.sandbox.wait_idle()
    steps.interrupt(process)
    assert (steps.cancels(), newest_status(steps.sandbox)) == (0, "COMPLETED")


def test_where_nothing_runs_any_more_the_log_says_so(steps: Steps) -> None:
    """An execution may end just before its cancel arrives: 404 is an answer."""
    steps.sandbox.plan(CACHE, hold=True)
    steps.sandbox.fault(operation="cancelIncrementalCache", status=404)
    process = steps.start(EXECUTOR="in_process")
    process.wait_until_said(FOLLOWING)
    ended = steps.interrupt(process)
    assert steps.cancels() == 1
    assert "Peaka found nothing to cancel any more" in ended.log


def test_an_execution_whose_trigger_was_not_answered_is_left_alone(steps: Steps) -> None:
    """Whether Peaka has accepted the POST nobody knows: what runs may be a stranger's, and is named in the log."""
    steps.sandbox.plan(CACHE, hold=True)
    steps.sandbox.fault(operation="incrementalUpdateCache", lose_reply=True, status=None, delay=0.0, times=1)
    process = steps.start(EXECUTOR="in_process", POLL_INTERVAL="30")
    wait_until(lambda: len(steps.sandbox.executions(CACHE)) == 2, "the execution")
    ended = steps.interrupt(process)
    assert (steps.cancels(), newest_status(steps.sandbox)) == (0, "RUNNING")
    assert "left alone" in ended.log


def test_an_attached_execution_is_left_alone(steps: Steps) -> None:
    """A stranger's execution that the step merely follows is not cancelled."""
    steps.sandbox.plan(CACHE, hold=True)
    steps.sandbox.start_execution(CACHE)
    process = steps.start(EXECUTOR="in_process", ON_RUNNING="attach")
    process.wait_until_said("attached to execution")
    ended = steps.interrupt(process)
    assert (steps.triggers(), steps.cancels(), newest_status(steps.sandbox)) == (0, 0, "RUNNING")
    assert "left alone" in ended.log


def test_cancelling_can_be_switched_off(steps: Steps) -> None:
    """With cancel_on_termination=False the execution goes on, and the log names it."""
    steps.sandbox.plan(CACHE, hold=True)
    process = steps.start(EXECUTOR="in_process", CANCEL="no")
    process.wait_until_said(FOLLOWING)
    ended = steps.interrupt(process)
    assert (steps.cancels(), newest_status(steps.sandbox)) == (0, "RUNNING")
    assert steps.sandbox.executions(CACHE)[-1].id in ended.log


def test_a_terminated_step_is_not_retried_into_a_new_trigger(steps: Steps) -> None:
    """A retry policy does not turn the interrupt into another sync."""
    steps.sandbox.plan(CACHE, hold=True)
    process = steps.start(EXECUTOR="in_process", RETRIES="2")
    process.wait_until_said(FOLLOWING)
    steps.interrupt(process)
    assert (steps.triggers(), steps.cancels()) == (1, 1)


def test_a_server_that_does_not_answer_holds_up_no_termination(steps: Steps) -> None:
    """With Peaka silent, the step gives up cancelling within its budget, and names what it left."""
    steps.sandbox.plan(CACHE, hold=True)
    process = steps.start(EXECUTOR="in_process", STOP_BUDGET="0.5")
    process.wait_until_said(FOLLOWING)
    steps.sandbox.fault(delay=FOR_EVER, status=None, times=None)
    before = len(steps.sandbox.requests)
    ended = steps.interrupt(process)
    assert steps.cancels() == 0
    assert "left alone" in ended.log
    assert len(steps.sandbox.requests) - before <= 3


def test_a_fleet_is_cancelled_side_by_side(steps: Steps) -> None:
    """Of several caches in one step, those that run are all cancelled after one look."""
    for table in ("t", "u"):
        steps.sandbox.plan(f"ops.public.{table}", hold=True)
    process = steps.start(EXECUTOR="in_process", TABLES="ops.public.t,ops.public.u")
    caches = steps.sandbox.caches.items()
    process.wait_until_said(*(f"{table} ({cache_id}): {FOLLOWING}" for table, cache_id in caches))
    steps.interrupt(process)
    steps.sandbox.wait_idle()
    assert steps.cancels() == 2
    assert [execution.status for execution in steps.sandbox.executions()].count("CANCELLED") == 2
