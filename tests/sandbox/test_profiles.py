"""Peaka as its document promises and as people saw it: each difference is a switch, and a profile is all of them."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import (
    Behaviour,
    PeakaSandbox,
    PeakaScript,
    Profile,
    SandboxError,
    ScriptedExecution,
)
from dagster_peaka.sandbox.behaviour import OBSERVED, PROFILES
from tests.sandbox.conftest import FLIGHTS, Api
from tests.sandbox.test_executions import LAST, wait_for

LAST_FULL = "lastFullRefreshCacheExecution"
MISSING = "cache/00000000-0000-0000-0000-000000000000"
ROWS = 505


@pytest.fixture(params=PROFILES)
def peaka_profile(request: pytest.FixtureRequest) -> Profile:
    """Both profiles, one after the other."""
    return request.param


@pytest.fixture
def seen(peaka_profile: Profile) -> bool:
    """Whether it is the live service that is played."""
    return peaka_profile == "observed"


@pytest.fixture
def flights(peaka_sandbox: PeakaSandbox) -> sqlite3.Connection:
    """The source, with a table of many rows and one that cannot be cached."""
    source = peaka_sandbox.database("ops.public")
    source.execute("CREATE TABLE flights (id INTEGER PRIMARY KEY, carrier TEXT, delay REAL)")
    source.execute(
        "WITH RECURSIVE n (id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < ?)"
        " INSERT INTO flights SELECT id, 'UA', id + 0.5 FROM n",
        (ROWS,),
    )
    source.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
    return source


@pytest.fixture
def api(peaka_sandbox: PeakaSandbox, flights: sqlite3.Connection) -> Api:
    """A client of a sandbox whose cache of the flights has had its first sync."""
    peaka_sandbox.create_cache(FLIGHTS)
    peaka_sandbox.wait_idle()
    return Api(peaka_sandbox)


def place(api: Api, table: str = "flights") -> dict[str, Any]:
    """The body that asks for a table's cache."""
    catalog = next(c["id"] for c in api.get("catalogs") if c["name"] == "ops")
    return {"catalogId": catalog, "schemaName": "public", "tableName": table}


def answered(response: httpx.Response) -> tuple[int, Any]:
    """An answer's status and body."""
    return response.status_code, response.json()


# --- Profiles


def test_a_profile_is_the_document_but_for_what_was_seen() -> None:
    """Every switch is named, and nothing that was seen is what the document says anyway."""
    assert Behaviour() == Behaviour.documented()
    assert {name: getattr(Behaviour.observed(), name) for name in OBSERVED} == OBSERVED
    assert all(getattr(Behaviour(), name) != value for name, value in OBSERVED.items())
    assert Behaviour.observed(**{name: getattr(Behaviour(), name) for name in OBSERVED}) == Behaviour()


@pytest.mark.parametrize("name", OBSERVED)
def test_each_switch_can_be_set_back(name: str) -> None:
    """What a test sets counts over the profile, even if it sets what the document says; the others stay."""
    usual = getattr(Behaviour(), name)
    sandbox = PeakaSandbox({}, profile="observed", behaviour=Behaviour(**{name: usual}))
    assert sandbox.behaviour == Behaviour.observed(**{name: usual})


def test_a_whole_reading_leaves_nothing_to_the_profile() -> None:
    """At the start and later; an ordinary one leaves it what it does not say."""
    sandbox = PeakaSandbox({}, profile="observed", behaviour=Behaviour.documented(coalesce=True))
    assert sandbox.behaviour == Behaviour(coalesce=True)
    sandbox.behaviour = Behaviour()
    assert sandbox.behaviour == Behaviour.observed()
    reading = Behaviour()
    reading.query_values = "json"
    sandbox.behaviour = reading
    assert sandbox.behaviour == Behaviour.observed(query_values="json")


def test_unless_told_otherwise_it_is_peaka_as_people_saw_it() -> None:
    """What a package has to live with is the service, not its document."""
    sandbox = PeakaSandbox({})
    assert (sandbox.profile, sandbox.behaviour) == ("observed", Behaviour.observed())


def test_an_unknown_profile_is_refused() -> None:
    """By its name, with those that there are."""
    with pytest.raises(SandboxError, match="profile imagined: it must be one of documented, observed"):
        PeakaSandbox({}, profile="imagined")  # pyright: ignore[reportArgumentType]


# --- Caches


def test_the_statuses_of_a_schema(api: Api, seen: bool) -> None:
    """They are not to be had from the live service; those of the catalog and of the project are."""
    catalog = place(api)["catalogId"]
    above = [api.get("cache/status"), api.get(f"../{api.sandbox.project_id}/catalog/{catalog}/cache/status")]
    assert [len(statuses) for statuses in above] == [1, 1]
    response = api("GET", f"catalog/{catalog}/schema/public/cache/status")
    assert response.status_code == (500 if seen else 200)


@pytest.mark.parametrize("operation", ["incrementalUpdate", "fullRefreshUpdate"])
def test_a_trigger_of_a_cache_that_does_not_exist(api: Api, seen: bool, operation: str) -> None:
    """The document's 404 was seen as a 400; a look at such a cache is a 404 either way."""
    status, body = answered(api("POST", f"{MISSING}/{operation}"))
    if seen:
        wrong = {"error": "WrongRequestException", "message": "Cache settings not found", "errorCode": None}
        assert (status, body) == (400, wrong)
    else:
        assert (status, body["reason"]) == (404, "NOT_FOUND")
    assert api("GET", f"{MISSING}/status").status_code == 404


@pytest.mark.parametrize("operation", ["cancelIncrementalUpdate", "cancelFullRefreshUpdate"])
def test_a_cancel_with_nothing_running_is_a_404(api: Api, operation: str) -> None:
    """Under either profile, and of either mode."""
    assert api.trigger(operation).status_code == 404


def test_a_cancel_before_the_record_shows(api: Api, seen: bool) -> None:
    """It trips over the record that is not there, and stops nothing; without such a gap it cancels."""
    if seen:
        api.sandbox.behaviour.full_refresh_gap = 600
    else:
        api.sandbox.plan(FLIGHTS, hold=True)
    api.trigger("fullRefreshUpdate")
    assert api.trigger("cancelFullRefreshUpdate").status_code == (500 if seen else 200)
    if seen:
        assert api.sandbox.executions()[-1].status == "RUNNING"
        api.sandbox.behaviour.cancel_in_gap = "cancel"
        assert api.trigger("cancelFullRefreshUpdate").status_code == 200
    api.sandbox.wait_idle()
    assert api.sandbox.executions()[-1].status == "CANCELLED"


def test_creating_a_cache_that_exists(api: Api, seen: bool) -> None:
    """Seen: 500 during its first sync, which goes on, and then 200 with the settings that it has."""
    api.sandbox.delete_cache(FLIGHTS)
    api.sandbox.plan(FLIGHTS, hold=True)
    six, day = (
        {"incrementalCacheSchedule": {"type": "BASIC", "expression": text}} for text in ("PT6H", "P1D")
    )
    made = api("POST", "cache", json={**place(api), **six}).json()
    again = {**place(api), **day}
    assert api("POST", "cache", json=again).status_code == (500 if seen else 409)
    (batched,) = api("POST", "cache/batch", json=[again]).json()
    assert batched["success"] is False
    api.sandbox.release(FLIGHTS)
    api.sandbox.wait_idle()
    assert api.sandbox.executions(made["id"])[0].status == "COMPLETED"
    status, body = answered(api("POST", "cache", json=again))
    assert (status, body) == (200, made) if seen else status == 409
    assert api.get(f"cache/{made['id']}") == made
    assert len(api.sandbox.executions(made["id"])) == 1


def test_two_creations_of_a_table_at_once(api: Api, flights: sqlite3.Connection, seen: bool) -> None:
    """Seen: both are answered 200, though one of them only found what the other had made."""
    api.sandbox.delete_cache(FLIGHTS)
    api.sandbox.plan(FLIGHTS, hold=True)
    api.sandbox.clear_requests()
    body = place(api)
    with ThreadPoolExecutor(2) as threads:
        flights.execute("BEGIN EXCLUSIVE")  # which neither creation gets past before both have arrived
        creations = [threads.submit(api, "POST", "cache", json=body) for _ in range(2)]
        wait_for(lambda: [r.operation for r in api.sandbox.requests].count("createCache") == 2)
        flights.rollback()
        found = [creation.result() for creation in creations]
    assert sorted(response.status_code for response in found) == [200, 200 if seen else 409]
    assert {response.json()["id"] for response in found if response.status_code == 200} == {
        api.sandbox.caches[FLIGHTS]
    }
    assert api("POST", "cache", json=body).status_code == (500 if seen else 409)
    api.sandbox.release(FLIGHTS)


def test_creating_a_cache_of_a_table_that_cannot_have_one(api: Api, seen: bool) -> None:
    """It is a 400 with a message; the code that the document promises was seen as null."""
    status, body = answered(api("POST", "cache", json=place(api, "words")))
    assert (status, body["errorCode"]) == (400, None if seen else "TABLE_NOT_CACHEABLE")
    assert "words" in body["message"]
    api.sandbox.behaviour.error_body = "documented"
    assert api("POST", "cache", json=place(api, "words")).json()["errorCode"] == body["errorCode"]


def test_creating_a_cache_while_it_is_being_deleted(api: Api) -> None:
    """It is a 500 for as long as was asked for, and otherwise works at once."""
    api.sandbox.behaviour.deletion_seconds = 600
    assert api("DELETE", f"cache/{api.sandbox.caches[FLIGHTS]}").status_code == 200
    assert api("POST", "cache", json=place(api)).status_code == 500
    assert FLIGHTS not in api.sandbox.caches
    api.sandbox.behaviour.deletion_seconds = 0
    assert api("POST", "cache", json=place(api)).status_code == 200


def test_a_deletion_in_the_middle_of_a_sync(api: Api) -> None:
    """It is clean; only where that is asked for does the table stay cached without a cache, and then for good."""
    catalog = place(api)["catalogId"]
    is_cached = f"catalogs/{catalog}/schemas/public/tables/flights/isCached"
    api.sandbox.plan(FLIGHTS, hold=True, times=2)
    for left_behind in (False, True):
        api.sandbox.behaviour.left_behind = left_behind
        api.trigger()
        assert api("DELETE", f"cache/{api.sandbox.caches[FLIGHTS]}").status_code == 200
        assert api.get("cache/status") == []
        assert api.get(is_cached)["isCached"] is left_behind
        assert api("POST", "cache", json=place(api)).status_code == (500 if left_behind else 200)
    body = {"statement": "SELECT count(*) FROM ops.public.flights"}
    assert api("POST", "queries/execute", json=body).status_code == 400


@pytest.mark.parametrize(
    "malformed",
    [
        {"type": "BASIC", "expression": "every day"},
        {"type": "BASIC"},
        {"type": "CRON", "expression": "0 0 * * *"},
        "PT6H",
    ],
)
@pytest.mark.parametrize("update", ["patch", "replace"])
def test_an_update_with_a_malformed_schedule(api: Api, seen: bool, malformed: Any, update: Any) -> None:
    """Seen: 200, the old schedule stays, and the other mode's is set."""
    api.sandbox.behaviour.schedule_update = update
    url = f"cache/{api.sandbox.caches[FLIGHTS]}"
    old, other = ({"type": "BASIC", "expression": text} for text in ("PT6H", "P1D"))
    before = api("PUT", url, json={"incrementalCacheSchedule": old}).json()
    wanted = {"incrementalCacheSchedule": malformed, "fullRefreshCacheSchedule": other}
    assert api("PUT", url, json=wanted).status_code == (200 if seen else 400)
    assert api.get(url) == ({**before, "fullRefreshCacheSchedule": other} if seen else before)


# --- Executions


def test_a_full_refresh_shows_late(api: Api, seen: bool) -> None:
    """Seen: until its record appears the old records stay, though the overall status is RUNNING already."""
    before = api.status()
    if seen:
        assert api.sandbox.behaviour.full_refresh_gap == 0.3
        api.sandbox.behaviour.full_refresh_gap = 600
    else:
        api.sandbox.plan(FLIGHTS, hold=True)
    api.trigger("fullRefreshUpdate")
    status = api.status()
    assert (status["status"], status[LAST]) == ("RUNNING", before[LAST])
    assert (LAST_FULL in status) is not seen
    assert len(api.history()) == (1 if seen else 2)


def test_a_record_that_shows_late_shows_before_the_end(api: Api) -> None:
    """A sync takes longer than its record, so that nobody who waits for the end finds no record."""
    api.trigger("fullRefreshUpdate")
    api.sandbox.wait_idle()
    last = api.sandbox.executions()[-1]
    assert api.status()[LAST_FULL]["id"] == last.id
    assert (last.finished_at or 0) - last.created_at >= api.sandbox.behaviour.full_refresh_gap


def test_an_incremental_shows_at_once(api: Api) -> None:
    """Its record is there with the answer to the trigger, under either profile."""
    api.trigger()
    assert api.status()[LAST]["id"] == api.sandbox.executions()[-1].id


def test_a_new_cache_without_a_schedule_has_no_full_refresh(api: Api) -> None:
    """Its first sync is an incremental, and the modes run beside each other from then on."""
    assert LAST_FULL not in api.status()
    api.sandbox.plan(FLIGHTS, hold=True, times=2)
    assert [api.trigger(name).status_code for name in ("incrementalUpdate", "fullRefreshUpdate")] == [
        200,
        200,
    ]
    assert [e.status for e in api.sandbox.executions()[1:]] == ["RUNNING", "RUNNING"]
    api.sandbox.release(FLIGHTS)
    api.sandbox.wait_idle()
    assert {e.status for e in api.sandbox.executions()} == {"COMPLETED"}


# --- Counters


def reported(api: Api) -> tuple[int, ...]:
    """The last incremental's counts after it has ended: cached, inserted, updated, deleted."""
    api.sandbox.wait_idle()
    progress = api.status()[LAST]["progress"]
    return tuple(progress[f"numberOf{word}Records"] for word in ("Cached", "Inserted", "Updated", "Deleted"))


def test_counters(api: Api, flights: sqlite3.Connection, seen: bool) -> None:
    """What was seen of a table of 505 rows: too many updates, no deletions, and no count that is a total."""
    found = [reported(api)]
    for change in (
        "INSERT INTO flights VALUES (506, 'AA', 0)",
        "UPDATE flights SET delay = 1 WHERE id = 1",
        "DELETE FROM flights WHERE id = 1",
    ):
        flights.execute(change)
        api.trigger()
        found.append(reported(api))
    if seen:
        assert found == [(707, 505, 202, 0), (3, 1, 2, 0), (2, 0, 2, 0), (2, 0, 2, 0)]
    else:
        assert found == [(505, 505, 0, 0), (506, 1, 0, 0), (506, 0, 1, 0), (505, 0, 0, 1)]
    assert api.query("SELECT count(*) FROM ops.public.flights") == [[505]]
    truth = api.sandbox.executions()[-1]
    assert (truth.inserted, truth.updated, truth.deleted) == (0, 0, 1)


def test_a_sync_that_only_deleted_rows_may_report_nothing(api: Api, flights: sqlite3.Connection) -> None:
    """Where that is asked for; one that did something else besides reports as ever."""
    api.sandbox.behaviour.silent_deletions = True
    flights.execute("DELETE FROM flights WHERE id = 1")
    api.trigger()
    assert reported(api)[1:] == (0, 0, 0)
    flights.execute("DELETE FROM flights WHERE id = 2")
    flights.execute("INSERT INTO flights VALUES (506, 'AA', 0)")
    api.trigger()
    assert reported(api)[1] == 1


def test_rows_that_a_test_writes_down_are_reported_as_they_are(
    peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript
) -> None:
    """A script says what Peaka reports, so nothing is added to it."""
    peaka_script("shop.public.orders", [ScriptedExecution(inserted=3, updated=1, deleted=2, total=40)])
    peaka_sandbox.start_execution("shop.public.orders")
    peaka_sandbox.wait_idle()
    progress = Api(peaka_sandbox).status("shop.public.orders")[LAST]["progress"]
    assert list(progress.values()) == [40, 3, 1, 2]


# --- Queries

STATEMENT = (
    "SELECT id, carrier, delay, id > 1 AS late, 1.50 AS price FROM ops.public.flights ORDER BY id LIMIT 1"
)


def test_values_are_texts_whatever_their_type(api: Api, seen: bool) -> None:
    """Seen of rows and cells; of arrays nobody has told, so they stay."""
    body = {"statement": STATEMENT}
    typed = [1, "UA", 1.5, False, 1.5]
    expected: list[Any] = ["1", "UA", "1.5", "false", "1.50"] if seen else typed
    (simple,) = api("POST", "queries/execute?format=SIMPLE", json=body).json()["data"]
    assert list(simple.values()) == expected
    (cells,) = api("POST", "queries/execute", json=body).json()["data"]
    assert [cell["value"] for cell in cells] == expected
    assert [cell["dataType"] for cell in cells] == ["bigint", "varchar", "double", "boolean", "decimal(3,2)"]
    assert [cell["order"] for cell in cells] == [0, 1, 2, 3, 4]
    assert api("POST", "queries/execute?format=COMPACT", json=body).json()["data"] == [typed]


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("12547407.86e0", "1.254740786E7"),
        ("669.74e0", "669.74"),
        ("10000000e0", "1.0E7"),
        ("9999999e0", "9999999.0"),
        ("0.001e0", "0.001"),
        ("0.0001e0", "1.0E-4"),
        ("-25e22", "-2.5E23"),
        ("0e0", "0.0"),
        ("CAST(NULL AS double)", None),
        ("DATE '2013-01-01'", "2013-01-01"),
        ("9007199254740993", "9007199254740993"),
        ("-0.05", "-0.05"),
        ("12345678901234567.8", "12345678901234567.8"),
    ],
)
def test_a_value_as_a_text(api: Api, sql: str, text: str | None) -> None:
    """Doubles are written as Java writes them, decimals with all of their digits; nothing stays null."""
    api.sandbox.behaviour.query_values = "text"
    (row,) = api("POST", "queries/execute?format=SIMPLE", json={"statement": f"SELECT {sql} AS x"}).json()[
        "data"
    ]
    assert row == {"x": text}


def test_a_query_during_the_first_sync(
    peaka_sandbox: PeakaSandbox, flights: sqlite3.Connection, seen: bool
) -> None:
    """Seen: it finds the empty copy; later syncs leave in place what is copied."""
    counting = 'SELECT count(*) FROM "ops"."public"."flights"'
    api = Api(peaka_sandbox)
    assert api.query(counting) == [[ROWS]]
    peaka_sandbox.plan(FLIGHTS, hold=True, times=2)
    peaka_sandbox.create_cache(FLIGHTS)
    wait_for(lambda: peaka_sandbox.executions()[0].cached == ROWS)
    assert api.query(counting) == [[0 if seen else ROWS]]
    assert api.query("SELECT id FROM ops.public.flights LIMIT 1") == ([] if seen else [[1]])
    peaka_sandbox.release(FLIGHTS)
    peaka_sandbox.wait_idle()
    assert api.query(counting) == [[ROWS]]
    flights.execute("DELETE FROM flights")
    api.trigger()
    assert peaka_sandbox.executions()[-1].status == "RUNNING"
    wait_for(lambda: peaka_sandbox.executions()[-1].deleted == ROWS)
    assert api.query(counting) == [[0]]
    peaka_sandbox.release(FLIGHTS)


def test_a_stored_query_that_does_not_exist(api: Api, seen: bool) -> None:
    """The sandbox keeps none, and the live service has a 400 for those that are gone."""
    assert api("POST", "queries/execute", json={"id": "7"}).status_code == (400 if seen else 404)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("INSERT INTO ops.public.flights VALUES (1)", "Insert"),
        ("delete from ops.public.flights", "Delete"),
        ("UPDATE ops.public.flights SET id = 1", "Update"),
        ("DROP TABLE ops.public.flights", "DropTable"),
    ],
)
def test_a_writing_statement_is_refused_by_its_kind(api: Api, statement: str, kind: str) -> None:
    """Under either profile; nothing is written."""
    status, body = answered(api("POST", "queries/execute", json={"statement": statement}))
    assert (status, body["message"]) == (400, f"Statement type '{kind}' is not allowed")


# --- Errors, and whose key it is


def test_error_bodies(api: Api, seen: bool) -> None:
    """Seen: a 400 names an exception, others have a number as their code; nothing has what the document has."""
    api.sandbox.fault("listCatalogs", status=503)
    found = [
        api("POST", "cache", json={}),
        api("GET", "nothing"),
        api("PATCH", MISSING),
        api("GET", "catalogs"),
        api("GET", "catalogs", headers={"Authorization": "Bearer wrong"}),
    ]
    assert [response.status_code for response in found] == [400, 404, 405, 503, 401]
    if seen:
        shapes = [{"error", "message", "errorCode"}, *[{"errorCode", "message"}] * 4]
    else:
        shapes = [{"code", "message", "reason"}] * 5
    assert [response.json().keys() for response in found] == shapes
    assert found[0].json().get("error", "WrongRequestException") == "WrongRequestException"
    assert all(response.json().get("errorCode", 100) == 100 for response in found[1:])


def test_a_key_tells_its_project(peaka_sandbox: PeakaSandbox) -> None:
    """Beside the projects, not in one; a wrong key is told nothing."""
    url = f"{peaka_sandbox.base_url}/info"
    mine = httpx.get(url, headers={"Authorization": f"Bearer {peaka_sandbox.api_key}"}, timeout=300)
    assert answered(mine) == (200, {"projectId": "sandbox", "projectName": "Sandbox"})
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}, timeout=300).status_code == 401
    assert httpx.get(url, timeout=300).status_code == 401


def test_a_project_has_the_name_that_it_is_given() -> None:
    """Beside its id."""
    with PeakaSandbox({}, project_id="mtKDhe1U", project_name="Billing") as sandbox:
        found = httpx.get(
            f"{sandbox.base_url}/info", headers={"Authorization": f"Bearer {sandbox.api_key}"}, timeout=300
        )
        assert found.json() == {"projectId": "mtKDhe1U", "projectName": "Billing"}


# --- Only when asked for


def test_no_profile_is_slow_stuck_or_capped(peaka_sandbox: PeakaSandbox) -> None:
    """What was seen now and then is for tests that ask for it."""
    behaviour = peaka_sandbox.behaviour
    asked = ("trigger_seconds", "execution_seconds", "row_seconds", "never_picked_up", "capped_reads")
    assert not any(
        getattr(behaviour, name) for name in (*asked, "silent_deletions", "deletion_seconds", "left_behind")
    )


def test_a_slow_trigger_takes_its_effect_at_once(api: Api, seen: bool) -> None:
    """The answer is late, and the record of a full refresh comes after it."""
    api.sandbox.behaviour.trigger_seconds = 0.4
    with pytest.raises(httpx.ReadTimeout):
        api("POST", f"cache/{api.sandbox.caches[FLIGHTS]}/fullRefreshUpdate", timeout=0.1)
    wait_for(lambda: len(api.sandbox.executions()) == 2)
    response = api.trigger()
    assert (response.status_code, response.elapsed.total_seconds() >= 0.4) == (200, True)
    assert api("POST", f"{MISSING}/incrementalUpdate").status_code in (400, 404)
    api.sandbox.wait_idle()
    full = api.sandbox.executions()[1]
    assert (full.finished_at or 0) - full.created_at >= (0.7 if seen else 0)


def test_a_slow_sync_takes_its_time_for_every_row(api: Api) -> None:
    """Beside the least duration of any."""
    api.sandbox.behaviour.execution_seconds = 0.1
    api.sandbox.behaviour.row_seconds = 0.5 / ROWS
    api.trigger()
    api.sandbox.wait_idle()
    last = api.sandbox.executions()[-1]
    assert (last.finished_at or 0) - (last.started_at or 0) >= 0.6


@pytest.mark.parametrize("by_plan", [True, False])
def test_a_job_that_nobody_picks_up_looks_healthy(
    api: Api, flights: sqlite3.Connection, by_plan: bool
) -> None:
    """RUNNING without progress or error, and never updated; it can be cancelled, and a release lets it go on."""
    if by_plan:
        api.sandbox.plan(FLIGHTS, never_picked_up=True, times=None)
    else:
        api.sandbox.behaviour.never_picked_up = True
    flights.execute("DELETE FROM flights WHERE id = 1")
    for _ in range(2):
        api.trigger()
        stuck = api.status()[LAST]
        assert (stuck["status"], stuck["progress"], stuck["error"]) == ("RUNNING", None, None)
        assert stuck["updatedAt"] == stuck["createdAt"]
        assert "finishedAt" not in stuck
        if len(api.sandbox.executions()) == 2:
            assert api.trigger("cancelIncrementalUpdate").status_code == 200
            api.sandbox.wait_idle()
            assert api.status()[LAST]["status"] == "CANCELLED"
    api.sandbox.release(FLIGHTS)
    api.sandbox.wait_idle()
    assert api.status()[LAST]["status"] == "COMPLETED"
    assert api.sandbox.executions()[-1].deleted == 1


def test_reads_of_a_table_without_a_cache_can_be_capped(
    peaka_sandbox: PeakaSandbox,
    flights: sqlite3.Connection,
) -> None:
    """At 100 rows, silently, for counts, filters and joins too; a cached table answers whole."""
    peaka_sandbox.behaviour.capped_reads = True
    api = Api(peaka_sandbox)
    statements = [
        "SELECT count(*) FROM ops.public.flights",
        "SELECT count(*) FROM ops.public.flights WHERE id > 50",
        "SELECT count(*) FROM ops.public.flights a JOIN ops.public.flights b ON a.id = b.id",
    ]
    assert [api.query(statement) for statement in statements] == [[[100]], [[50]], [[100]]]
    assert len(api.query("SELECT id FROM ops.public.flights")) == 100
    peaka_sandbox.create_cache(FLIGHTS)
    peaka_sandbox.wait_idle()
    assert [api.query(statement) for statement in statements] == [[[ROWS]], [[ROWS - 50]], [[ROWS]]]
