"""Every switch of `Behaviour`, every fault and every plan does what it says, and the truth stays exact."""

import email.utils
import json
import threading
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import Behaviour, PeakaSandbox
from tests.sandbox.conftest import FLIGHTS, Api
from tests.sandbox.test_executions import LAST, wait_for


def ended(sandbox: PeakaSandbox, api: Api) -> Any:
    """The last incremental, after another one has come to its end, as the status shows it."""
    api.trigger()
    sandbox.wait_idle()
    return api.status()[LAST]


def test_an_execution_becomes_visible_late(sandbox: PeakaSandbox, api: Api) -> None:
    """Until then neither status nor history know it, though it runs and ends."""
    before = api.status()
    sandbox.behaviour.visible_after = 4
    api.trigger()
    sandbox.wait_idle()
    assert (api.status(), len(api.history())) == (before, 1)
    wait_for(lambda: len(api.history()) == 2)
    assert api.status()[LAST]["id"] == sandbox.executions()[-1].id


def test_a_queued_execution_can_be_hidden_or_shown(sandbox: PeakaSandbox, api: Api) -> None:
    """Shown from the start with a status of choice, or not before it leaves the queue."""
    sandbox.plan(FLIGHTS, hold=True)
    api.trigger()
    api.trigger()
    assert [e["status"] for e in api.history()] == ["RUNNING", "RUNNING", "COMPLETED"]
    sandbox.behaviour.queued_status = "PENDING"
    assert [e["status"] for e in api.history()] == ["PENDING", "RUNNING", "COMPLETED"]
    sandbox.behaviour.hide_queued = True
    assert [e["status"] for e in api.history()] == ["RUNNING", "COMPLETED"]
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    assert [e["status"] for e in api.history()] == ["COMPLETED"] * 3


def test_a_trigger_can_be_coalesced(sandbox: PeakaSandbox, api: Api) -> None:
    """A trigger while one of its mode is unfinished is answered as ever and starts nothing."""
    sandbox.behaviour.coalesce = True
    sandbox.plan(FLIGHTS, hold=True)
    assert [api.trigger().status_code for _ in range(3)] == [200] * 3
    assert len(sandbox.executions()) == 2
    assert api.trigger("fullRefreshUpdate").status_code == 200
    assert len(sandbox.executions()) == 3
    sandbox.start_execution(FLIGHTS)
    assert len(sandbox.executions()) == 4
    sandbox.release(FLIGHTS)


@pytest.mark.parametrize(
    ("reading", "code", "statuses"),
    [
        ("parallel", 200, ["RUNNING", "RUNNING"]),
        ("queue", 200, ["RUNNING", "QUEUED"]),
        ("coalesce", 200, ["RUNNING"]),
        ("refuse", 409, ["RUNNING"]),
    ],
)
def test_a_trigger_while_the_other_mode_runs(
    sandbox: PeakaSandbox, api: Api, reading: Any, code: int, statuses: list[str]
) -> None:
    """It runs beside it, queues behind it, starts nothing, or is refused."""
    sandbox.behaviour.other_mode = reading
    sandbox.plan(FLIGHTS, hold=True, times=2)
    api.trigger("fullRefreshUpdate")
    assert api.trigger().status_code == code
    assert [e.status for e in sandbox.executions()[1:]] == statuses
    while any(e.finished_at is None for e in sandbox.executions()):
        sandbox.release(FLIGHTS)
    assert {e.status for e in sandbox.executions()} == {"COMPLETED"}


def test_the_first_sync_can_be_a_full_refresh(sandbox: PeakaSandbox) -> None:
    """Of a cache without a schedule."""
    sandbox.behaviour.first_sync_mode = "full_refresh"
    cache = sandbox.create_cache("ops.public.airlines")
    assert [e.mode for e in sandbox.executions(cache)] == ["FULL_REFRESH"]


def test_a_trigger_answers_an_object_nothing_or_text(sandbox: PeakaSandbox, api: Api) -> None:
    """No answer names the execution."""
    answer = api.trigger()
    assert isinstance(answer.json(), dict)
    assert sandbox.executions()[-1].id not in answer.text
    sandbox.behaviour.trigger_answer = "empty"
    assert api.trigger().content == b""
    sandbox.behaviour.trigger_answer = "text"
    with pytest.raises(json.JSONDecodeError):
        api.trigger().json()
    assert len(sandbox.executions()) == 4


@pytest.mark.parametrize(
    ("case", "status"), [("upper", "COMPLETED"), ("lower", "completed"), ("title", "Completed")]
)
def test_statuses_come_in_any_case(sandbox: PeakaSandbox, api: Api, case: Any, status: str) -> None:
    """The cache's and its executions'."""
    sandbox.behaviour.status_case = case
    said = api.status()
    assert (said["status"], said[LAST]["status"], api.history()[0]["status"]) == (status,) * 3


@pytest.mark.parametrize(
    ("spelling", "mode"),
    [("upper", "FULL_REFRESH"), ("lower", "full_refresh"), ("kebab", "full-refresh"), ("absent", None)],
)
def test_modes_are_spelled_in_many_ways(
    sandbox: PeakaSandbox, api: Api, spelling: Any, mode: str | None
) -> None:
    """In status and history."""
    sandbox.behaviour.mode_spelling = spelling
    sandbox.start_execution(FLIGHTS, "full_refresh")
    assert api.history()[0].get("executionMode") == mode
    assert api.status()["lastFullRefreshCacheExecution"].get("executionMode") == mode


def test_cached_records_are_the_table_or_what_was_handled(sandbox: PeakaSandbox, api: Api) -> None:
    """Of an incremental either; of a full refresh always the table."""
    assert ended(sandbox, api)["progress"]["numberOfCachedRecords"] == 3
    sandbox.behaviour.cached_records = "handled"
    assert ended(sandbox, api)["progress"]["numberOfCachedRecords"] == 0
    sandbox.start_execution(FLIGHTS, "full_refresh")
    sandbox.wait_idle()
    assert api.status()["lastFullRefreshCacheExecution"]["progress"]["numberOfCachedRecords"] == 3


def test_times_are_written_in_many_ways(sandbox: PeakaSandbox, api: Api) -> None:
    """In UTC, with an offset, without a fraction, as null, or not at all; the moment is the same."""
    (truth,) = sandbox.executions()
    written: dict[str, Any] = {}
    for style in ("z", "offset", "no_fraction", "null", "absent"):
        sandbox.behaviour.timestamps = style
        written[style] = api.status()[LAST].get("createdAt", "absent")
    moments = {style: moment(written[style]) for style in ("z", "offset", "no_fraction")}
    assert written["z"].endswith("Z")
    assert written["offset"].endswith("+02:00")
    assert len(written["no_fraction"]) == len("2013-01-01T00:00:00Z")
    assert (written["null"], written["absent"]) == (None, "absent")
    assert abs(moments["z"] - truth.created_at) <= 0.001
    assert moments["offset"] == moments["z"]
    assert moments["no_fraction"] == int(moments["z"])


def moment(text: str) -> float:
    """A timestamp in epoch seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize(
    ("shape", "given", "shown"),
    [
        ("object", {"code": 7, "message": "no"}, {"code": 7, "message": "no"}),
        ("object", "no", {"message": "no"}),
        ("string", {"code": 7, "message": "no"}, "no"),
        ("null", {"code": 7}, None),
    ],
)
def test_errors_have_any_shape(sandbox: PeakaSandbox, api: Api, shape: Any, given: Any, shown: Any) -> None:
    """A planned failure shows the error that it was given, as an object, a string or null."""
    sandbox.behaviour.error_shape = shape
    sandbox.plan(FLIGHTS, fail=given)
    failed = ended(sandbox, api)
    assert (failed["status"], failed["error"]) == ("FAILED", shown)
    assert sandbox.executions()[-1].error == given
    assert "error" not in ended(sandbox, api)


def test_the_clock_can_be_off(sandbox: PeakaSandbox, api: Api) -> None:
    """By as much in every time that is reported as in the Date header, which may also be left out."""
    before = moment(api.status()[LAST]["createdAt"])
    sandbox.behaviour.clock_offset = -3600
    response = api("GET", f"cache/{sandbox.caches[FLIGHTS]}/status")
    assert moment(response.json()[LAST]["createdAt"]) == pytest.approx(before - 3600, abs=0.01)
    date = email.utils.parsedate_to_datetime(response.headers["Date"])
    now = datetime.now(date.tzinfo)
    assert timedelta(seconds=3590) < now - date < timedelta(seconds=3620)
    sandbox.behaviour.date_header = False
    assert "Date" not in api("GET", "cache/status").headers


def test_an_update_patches_or_replaces_schedules(sandbox: PeakaSandbox, api: Api, url: str) -> None:
    """What an update does not name stays, or is gone."""
    six, day = ({"type": "BASIC", "expression": text} for text in ("PT6H", "P1D"))
    api("PUT", url, json={"incrementalCacheSchedule": six})
    patched = api("PUT", url, json={"fullRefreshCacheSchedule": day}).json()
    assert (patched["incrementalCacheSchedule"], patched["fullRefreshCacheSchedule"]) == (six, day)
    sandbox.behaviour.schedule_update = "replace"
    replaced = api("PUT", url, json={"fullRefreshCacheSchedule": day}).json()
    assert "incrementalCacheSchedule" not in replaced
    assert replaced["fullRefreshCacheSchedule"] == day


def test_fields_come_and_go(sandbox: PeakaSandbox, api: Api) -> None:
    """Every object may have unknown fields, and executions may lack their progress."""
    known = api.status()
    sandbox.behaviour.extra_fields = True
    sandbox.behaviour.drop_progress = True
    said = api.status()
    assert said.keys() - known.keys()
    assert said[LAST].keys() - known[LAST].keys()
    assert "progress" not in said[LAST]
    assert api.get("catalogs")[0].keys() - {"id", "name", "displayName", "catalogType"}


def test_a_wrong_value_or_field_of_behaviour_is_refused() -> None:
    """A typing error does not pass for a setting."""
    with pytest.raises(ValueError, match=r"Behaviour.other_mode is 'besides'; it must be one of parallel"):
        Behaviour(other_mode="besides")  # pyright: ignore[reportArgumentType]
    with pytest.raises(AttributeError):
        Behaviour().coalese = True  # pyright: ignore[reportAttributeAccessIssue]


def test_a_fault_answers_what_it_was_told(sandbox: PeakaSandbox, api: Api) -> None:
    """Status, body and headers for the chosen operation, as many times as asked; without any effect."""
    fault = sandbox.fault(
        "incrementalUpdateCache", times=2, status=429, body={"code": 429}, headers={"Retry-After": "1"}
    )
    assert api.trigger("fullRefreshUpdate").status_code == 200
    answers = [api.trigger() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].json() == {"code": 429}
    assert answers[0].headers["Retry-After"] == "1"
    assert fault.hits == 2
    assert len(sandbox.executions()) == 3
    sandbox.fault(status=502, body="<html>Bad gateway</html>")
    assert api("GET", "catalogs").text == "<html>Bad gateway</html>"


def test_a_fault_can_be_of_one_cache_and_be_removed(sandbox: PeakaSandbox, api: Api) -> None:
    """Other caches, and the listings, are answered as ever; after its removal this one too."""
    other = sandbox.create_cache("ops.public.airlines")
    fault = sandbox.fault("getCacheStatus", FLIGHTS, times=None)
    url = f"cache/{sandbox.caches[FLIGHTS]}/status"
    assert [api("GET", url).status_code for _ in range(3)] == [503] * 3
    assert api("GET", f"cache/{other}/status").status_code == 200
    assert api("GET", "cache/status").status_code == 200
    fault.remove()
    assert api("GET", url).status_code == 200


def test_a_lost_reply_takes_its_effect(sandbox: PeakaSandbox, api: Api) -> None:
    """The connection breaks after the trigger was taken; the record has the request with status 0."""
    sandbox.fault("incrementalUpdateCache", lose_reply=True)
    with pytest.raises(httpx.RemoteProtocolError):
        api.trigger()
    record = sandbox.requests[-1]
    assert (record.operation, record.status) == ("incrementalUpdateCache", 0)
    assert sandbox.executions()[-1].request_number == record.number


def test_a_refused_request_takes_no_effect(sandbox: PeakaSandbox, api: Api) -> None:
    """The connection breaks before anything was done."""
    sandbox.fault("incrementalUpdateCache", refuse=True)
    with pytest.raises(httpx.RemoteProtocolError):
        api.trigger()
    assert len(sandbox.executions()) == 1


def test_a_slow_answer_took_its_effect_at_once(sandbox: PeakaSandbox, api: Api) -> None:
    """A client that gives up waiting has started its execution all the same; others are served meanwhile."""
    sandbox.fault("incrementalUpdateCache", status=None, delay=3)
    with pytest.raises(httpx.ReadTimeout):
        api("POST", f"cache/{sandbox.caches[FLIGHTS]}/incrementalUpdate", timeout=0.1)
    wait_for(lambda: len(sandbox.executions()) == 2)
    assert sandbox.requests[-1].status == 0
    assert api("GET", "catalogs").status_code == 200
    wait_for(
        lambda: next(r for r in sandbox.requests if r.operation == "incrementalUpdateCache").status == 200
    )


def test_a_plan_gives_executions_their_course(sandbox: PeakaSandbox, api: Api) -> None:
    """A duration, a hold until the release, and only for the mode and the number of times that it names."""
    sandbox.plan(FLIGHTS, duration=0.2)
    api.trigger()
    sandbox.wait_idle()
    taken = sandbox.executions()[-1]
    assert (taken.finished_at or 0) - (taken.started_at or 0) >= 0.2
    sandbox.plan(FLIGHTS, mode="full_refresh", hold=True)
    api.trigger()
    wait_for(lambda: sandbox.executions()[-1].status == "COMPLETED")
    api.trigger("fullRefreshUpdate")
    with pytest.raises(TimeoutError, match="1 executions are not finished"):
        sandbox.wait_idle(0.1)
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()


def test_a_status_nobody_has_seen_before(sandbox: PeakaSandbox, api: Api) -> None:
    """It stands for the execution's status for ever, or until its end."""
    sandbox.plan(FLIGHTS, status="TIMED_OUT", hold=True)
    api.trigger()
    assert (api.status()[LAST]["status"], api.status()["status"]) == ("TIMED_OUT", "RUNNING")
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    assert api.status()[LAST]["status"] == "TIMED_OUT"
    assert "finishedAt" in api.status()[LAST]
    sandbox.plan(FLIGHTS, status="PENDING", until_end=True, hold=True)
    api.trigger()
    assert api.status()[LAST]["status"] == "PENDING"
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    assert api.status()[LAST]["status"] == "COMPLETED"


def test_an_execution_that_vanishes(sandbox: PeakaSandbox, api: Api) -> None:
    """At its end nothing shows it any more; the truth still has it."""
    before = api.status()
    sandbox.plan(FLIGHTS, vanish=True, hold=True)
    api.trigger()
    assert api.status()[LAST]["id"] == sandbox.executions()[-1].id
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    assert (api.status(), len(api.history())) == (before, 1)
    assert sandbox.executions()[-1].status == "COMPLETED"


def test_an_outage_refuses_connections_while_executions_go_on(sandbox: PeakaSandbox, api: Api) -> None:
    """The server comes back on the same port, and what ran has ended meanwhile."""
    url = sandbox.base_url
    sandbox.plan(FLIGHTS, duration=0.2)
    api.trigger()
    sandbox.stop()
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            api("GET", "cache/status")
    sandbox.wait_idle()
    sandbox.start()
    assert sandbox.base_url == url
    assert api.status()[LAST]["status"] == "COMPLETED"
    assert len(sandbox.executions()) == 2


def test_an_outage_breaks_what_is_under_way(sandbox: PeakaSandbox, api: Api) -> None:
    """A request that waits for its answer when the server goes gets none."""
    sandbox.fault(status=None, delay=30)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            api.get("cache/status")
        except httpx.HTTPError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: sandbox.requests)
    sandbox.stop()
    thread.join()
    assert isinstance(failed[0], httpx.RemoteProtocolError | httpx.ReadError)


def test_every_request_is_recorded_once(sandbox: PeakaSandbox, api: Api) -> None:
    """From many threads at once: numbers without gaps, and as many executions as triggers that were taken."""
    sandbox.behaviour.execution_seconds = 0.01
    sandbox.fault("incrementalUpdateCache", times=10)

    def trigger() -> None:
        client = Api(sandbox)
        for _ in range(10):
            client.trigger()

    threads = [threading.Thread(target=trigger) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [r for r in sandbox.requests if r.operation == "incrementalUpdateCache"]
    assert [r.number for r in sandbox.requests] == list(range(1, len(sandbox.requests) + 1))
    taken = [r.number for r in records if r.status == 200]
    assert (len(records), len(taken)) == (50, 40)
    assert sorted(e.request_number or 0 for e in sandbox.executions()[1:]) == taken
    sandbox.clear_requests()
    assert sandbox.requests == []
    api.get("catalogs")
    assert sandbox.requests[0].number > 50


def test_the_truth_can_be_read_after_the_end(ops: Any) -> None:
    """Records of executions and requests outlive the sandbox, and no thread of it is left."""
    threads = threading.active_count()
    with PeakaSandbox(ops, [FLIGHTS]) as sandbox:
        Api(sandbox).get("catalogs")
        sandbox.wait_idle()
    assert [e.status for e in sandbox.executions()] == ["COMPLETED"]
    assert [r.operation for r in sandbox.requests] == ["listCatalogs"]
    assert threading.active_count() == threads


def test_a_behaviour_given_as_a_whole_counts_at_once(sandbox: PeakaSandbox, api: Api) -> None:
    """One that replaces the first is the one that requests and executions then follow, as its fields still are."""
    sandbox.behaviour = given = Behaviour(status_case="lower", extra_fields=True)
    assert (api.status()["status"], "somethingNew" in api.status()) == ("completed", True)
    sandbox.behaviour.status_case = "title"
    assert api.status()["status"] == "Completed"
    assert given.status_case == "lower"
