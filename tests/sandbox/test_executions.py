"""The life of executions over the API: queues, cancels, schedules, history."""

import sqlite3
import time
from typing import Any

import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.sandbox.conftest import FLIGHTS, Api

LAST = "lastIncrementalCacheExecution"


def wait_for(condition: Any, seconds: float = 300) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def test_executions_of_a_mode_run_one_after_the_other(sandbox: PeakaSandbox, api: Api) -> None:
    """A trigger while one runs is queued; each starts when the one before it has ended, in the order of triggers."""
    sandbox.plan(FLIGHTS, hold=True)
    sandbox.plan(FLIGHTS, duration=0.1, times=None)
    for _ in range(3):
        assert api.trigger().status_code == 200
    assert [e.status for e in sandbox.executions(FLIGHTS)[1:]] == ["RUNNING", "QUEUED", "QUEUED"]
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    _, first, second, third = sandbox.executions(FLIGHTS)
    assert [e.status for e in (first, second, third)] == ["COMPLETED"] * 3
    assert (
        (first.finished_at or 0)
        <= (second.started_at or 0)
        < (second.finished_at or 0)
        <= (third.started_at or 0)
    )


def test_the_truth_names_the_request_that_started_an_execution(sandbox: PeakaSandbox, api: Api) -> None:
    """Each execution knows where it came from: a request by its number, a stranger, a cache's creation."""
    api.trigger()
    stranger = sandbox.start_execution(FLIGHTS, "full_refresh")
    found = {e.id: (e.origin, e.request_number) for e in sandbox.executions(FLIGHTS)}
    number = next(r.number for r in sandbox.requests if r.operation == "incrementalUpdateCache")
    assert list(found.values()) == [("creation", None), ("api", number), ("stranger", None)]
    assert list(found)[-1] == stranger


def test_status_shows_the_last_execution_of_each_mode(sandbox: PeakaSandbox, api: Api) -> None:
    """The newest of either mode, with progress and times; the logs unless they are excluded."""
    sandbox.start_execution(FLIGHTS, "full_refresh")
    sandbox.wait_idle()
    incremental, full = sandbox.executions(FLIGHTS)
    status = api.status()
    assert status[LAST]["id"] == incremental.id
    assert status["lastFullRefreshCacheExecution"]["id"] == full.id
    assert status["lastFullRefreshCacheExecution"]["progress"] == {
        "numberOfCachedRecords": 3,
        "numberOfInsertedRecords": 3,
        "numberOfUpdatedRecords": 0,
        "numberOfDeletedRecords": 0,
    }
    assert "cacheActionLogs" not in status
    logs = api.get(f"cache/{sandbox.caches[FLIGHTS]}/status")["cacheActionLogs"]
    assert [log["action"] for log in logs] == ["QUEUED", "STARTED", "COMPLETED"] * 2


def test_the_overall_status_is_that_of_the_most_recent_sync(sandbox: PeakaSandbox, api: Api) -> None:
    """RUNNING while any runs, then how the last one of either mode ended."""
    sandbox.plan(FLIGHTS, mode="full_refresh", fail={"code": 7}, hold=True)
    sandbox.start_execution(FLIGHTS, "full_refresh")
    assert api.status()["status"] == "RUNNING"
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    assert api.status()["status"] == "FAILED"
    api.trigger()
    sandbox.wait_idle()
    assert api.status()["status"] == "COMPLETED"


def test_a_cache_without_a_visible_execution_is_not_initialized(ops: Any) -> None:
    """Before its first execution shows, a cache has a status but no execution."""
    with PeakaSandbox(ops) as sandbox:
        sandbox.behaviour.visible_after = 30
        sandbox.create_cache(FLIGHTS)
        status = Api(sandbox).status()
        assert status["status"] == "NOT_INITIALIZED"
        assert LAST not in status


@pytest.mark.parametrize(
    ("mode", "operation"), [("incremental", "Incremental"), ("full_refresh", "FullRefresh")]
)
def test_a_cancel_stops_what_runs_and_nothing_else(
    sandbox: PeakaSandbox, api: Api, mode: Any, operation: str
) -> None:
    """It stops the running execution of its mode; what waits behind it starts; without any it is a 404."""
    cancel = f"cancel{operation}Update"
    assert api.trigger(cancel).status_code == 404
    sandbox.plan(FLIGHTS, hold=True, times=3)
    for wanted in (mode, mode, "full_refresh" if mode == "incremental" else "incremental"):
        sandbox.start_execution(FLIGHTS, wanted)
    assert api.trigger(cancel).status_code == 200
    running, waiting, other = sandbox.executions(FLIGHTS)[1:]
    wait_for(lambda: sandbox.executions(FLIGHTS)[1].finished_at)
    wait_for(lambda: sandbox.executions(FLIGHTS)[2].status == "RUNNING")
    assert {e.id: e.status for e in sandbox.executions(FLIGHTS)[1:]} == {
        running.id: "CANCELLED",
        waiting.id: "RUNNING",
        other.id: "RUNNING",
    }
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    assert api.trigger(cancel).status_code == 404


def test_a_cancel_answers_before_anything_has_stopped(
    sandbox: PeakaSandbox, api: Api, source: sqlite3.Connection
) -> None:
    """The answer says only that the wish was taken; status tells when the execution has stopped."""
    sandbox.plan(FLIGHTS, hold=True)
    api.trigger()
    assert api.trigger("cancelIncrementalUpdate").status_code == 200
    wait_for(lambda: api.status()[LAST]["status"] == "CANCELLED")
    assert "finishedAt" in api.status()[LAST]


def test_history_is_paged_newest_first(sandbox: PeakaSandbox, api: Api) -> None:
    """Both modes mixed, ten by default, any page by limit and offset."""
    for number in range(12):
        sandbox.start_execution(FLIGHTS, "full_refresh" if number % 3 == 0 else "incremental")
        sandbox.wait_idle()
    newest = [execution.id for execution in reversed(sandbox.executions(FLIGHTS))]
    assert [execution["id"] for execution in api.history()] == newest[:10]
    assert [execution["id"] for execution in api.history(query="?limit=4&offset=3")] == newest[3:7]
    assert [execution["id"] for execution in api.history(query="?limit=2147483647&offset=12")] == newest[12:]
    assert api.history(query="?offset=99") == []
    assert {execution["executionMode"] for execution in api.history()} == {"INCREMENTAL", "FULL_REFRESH"}


@pytest.mark.parametrize(
    ("schedules", "mode"),
    [
        ({}, "INCREMENTAL"),
        ({"incremental_schedule": "PT6H"}, "INCREMENTAL"),
        ({"full_refresh_schedule": "P1D"}, "FULL_REFRESH"),
        ({"incremental_schedule": "PT6H", "full_refresh_schedule": "P1D"}, "FULL_REFRESH"),
    ],
)
def test_creation_starts_one_sync_at_once(
    sandbox: PeakaSandbox, schedules: dict[str, str], mode: str
) -> None:
    """By the schedules that are given: a full refresh if it has one, else an incremental."""
    cache = sandbox.create_cache("ops.public.airlines", **schedules)
    sandbox.wait_idle()
    (first,) = sandbox.executions(cache)
    assert (first.mode, first.origin, first.status, first.inserted) == (mode, "creation", "COMPLETED", 2)


def test_a_schedule_fires_again_and_again_until_it_is_changed(
    sandbox: PeakaSandbox, api: Api, source: sqlite3.Connection, url: str
) -> None:
    """A schedule really syncs what changed; after an update to NONE nothing starts any more."""
    assert api(
        "PUT", url, json={"incrementalCacheSchedule": {"type": "BASIC", "expression": "PT0.2S"}}
    ).json()["incrementalCacheSchedule"] == {"type": "BASIC", "expression": "PT0.2S"}
    source.execute("INSERT INTO flights VALUES (4, 'UA', 0, NULL)")
    wait_for(lambda: len(sandbox.executions(FLIGHTS)) > 3)
    scheduled = sandbox.executions(FLIGHTS)[1:]
    assert {(e.origin, e.mode) for e in scheduled} == {("schedule", "INCREMENTAL")}
    assert scheduled[0].inserted == 1
    answer = api("PUT", url, json={"incrementalCacheSchedule": {"type": "NONE"}})
    assert "incrementalCacheSchedule" not in answer.json()
    count = len(sandbox.executions(FLIGHTS))
    time.sleep(0.6)
    assert len(sandbox.executions(FLIGHTS)) == count


def test_a_schedule_skips_its_turn_while_one_is_unfinished(sandbox: PeakaSandbox) -> None:
    """A slow execution is not followed by a queue of those that its schedule would have started meanwhile."""
    sandbox.plan("ops.public.airlines", hold=True)
    cache = sandbox.create_cache("ops.public.airlines", incremental_schedule="PT0.1S")
    time.sleep(0.5)
    assert len(sandbox.executions(cache)) == 1
    sandbox.release(cache)
    wait_for(lambda: len(sandbox.executions(cache)) > 1)


def test_a_keyless_table_takes_no_incremental_schedule(sandbox: PeakaSandbox, api: Api) -> None:
    """Neither at its creation nor later, and the field is named."""
    cache = sandbox.create_cache("ops.public.notes")
    body = {"incrementalCacheSchedule": {"type": "BASIC", "expression": "PT1H"}}
    response = api("PUT", f"cache/{cache}", json=body)
    assert response.status_code == 400
    assert response.json()["message"].startswith("incrementalCacheSchedule: ")


def test_deleting_a_cache_cancels_what_runs_and_what_waits(sandbox: PeakaSandbox, api: Api, url: str) -> None:
    """A deleted cache is a 404 from then on, and its table can be cached anew; the truth keeps its executions."""
    sandbox.plan(FLIGHTS, hold=True, times=None)
    deleted = sandbox.caches[FLIGHTS]
    api.trigger()
    api.trigger()
    assert api("DELETE", url).status_code == 200
    assert [api("GET", f"{url}{path}").status_code for path in ("", "/status", "/executionHistory")] == [
        404
    ] * 3
    assert api.get("cache/status") == []
    sandbox.wait_idle()
    assert [e.status for e in sandbox.executions(deleted)] == ["COMPLETED", "CANCELLED", "CANCELLED"]
    assert sandbox.create_cache(FLIGHTS) != deleted
