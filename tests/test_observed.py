"""The Peaka that people have, row by row, and beside it the one of Peaka's document: the package is right on both."""

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Literal

import dagster as dg
import pytest

from dagster_peaka import (
    CacheExecution,
    PeakaApiError,
    PeakaClient,
    PeakaError,
    PeakaNotFoundError,
    PeakaResponseError,
    PeakaServerError,
    PeakaSyncError,
    PeakaUnknownOutcomeError,
    build_peaka_cache_asset,
    build_peaka_polling_sensor,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.fleets import fleet, recorded
from tests.materializing import TRIGGERS, log_of, peaka_for, run_of, sqlite_tables
from tests.raw_server import RawServer, reply
from tests.sensors.polling import Watch, sync_by_others

TABLE = "ops.public.t"
PROFILES = ["observed", "documented"]
Profile = Literal["observed", "documented"]


@pytest.fixture(params=PROFILES)
def peaka(request: pytest.FixtureRequest, ops_database: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka in each profile, with the caches `ops.public.t` and `ops.public.u`; nothing runs."""
    profile: Profile = request.param
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"], profile=profile) as peaka:
        peaka.wait_idle()
        peaka.clear_requests()
        yield peaka


@pytest.fixture
def client(peaka: PeakaSandbox) -> Iterator[PeakaClient]:
    """Its client."""
    with peaka_for(peaka).get_client() as client:
        yield client


def asked(peaka: PeakaSandbox) -> list[str]:
    """The operations that were asked for, in order."""
    return [request.operation or "?" for request in peaka.requests]


# Listings


def test_the_first_example_of_the_readme_syncs_by_table(peaka: PeakaSandbox) -> None:
    """A schema's statuses, which answer 500 every time, are not asked for."""
    execution = peaka_for(peaka).sync(TABLE)

    assert execution.id == peaka.executions(TABLE)[-1].id
    assert "getCacheStatusBySchema" not in asked(peaka)


def many(tmp_path: Path, profile: Profile) -> PeakaSandbox:
    """A local Peaka with eight caches of one schema."""
    source = sqlite_tables(tmp_path / "many.db", [f"t{number}" for number in range(8)])
    return PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"], profile=profile)


def logged_run(peaka: PeakaSandbox) -> tuple[list[str], list[str]]:
    """What a step of all eight caches by their tables records, and the warnings in its log."""
    assets = fleet({f"t{number}": {"peaka/table": f"ops.public.t{number}"} for number in range(8)})
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(assets, peaka_for(peaka), instance=instance)
        logs = instance.all_logs(result.run_id)
    warnings = [
        entry.user_message
        for entry in logs
        if entry.dagster_event is None and int(entry.level) >= logging.WARNING
    ]
    return sorted(recorded(result)), warnings


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("broken", "then"),
    [
        ([], None),
        (["getCacheStatusByCatalog"], "the project's listing is read"),
        (["getCacheStatusByCatalog", "getCacheStatusByProject"], "each cache's own status is read"),
    ],
)
def test_a_listing_that_fails_is_replaced_by_the_next_wider_one(
    tmp_path: Path, profile: Profile, broken: list[str], then: str | None
) -> None:
    """At once, for the rest of the step, with a warning each; in the end each cache is asked by itself."""
    with many(tmp_path, profile) as peaka:
        peaka.wait_idle()
        by_id = {
            f"t{number}": {"peaka/cache_id": peaka.caches[f"ops.public.t{number}"]} for number in range(8)
        }
        catalog = peaka_catalog(peaka)
        for metadata in by_id.values():
            metadata |= {"peaka/catalog_id": catalog, "peaka/supported_modes": "incremental, full_refresh"}
        for operation in broken:
            peaka.fault(operation, times=None, status=500)
        peaka.clear_requests()
        with dg.DagsterInstance.ephemeral() as instance:
            result = run_of(fleet(by_id), peaka_for(peaka), instance=instance)
            warnings = [
                entry.user_message
                for entry in instance.all_logs(result.run_id)
                if entry.dagster_event is None and int(entry.level) >= logging.WARNING
            ]
        counts = {operation: asked(peaka).count(operation) for operation in broken}

    assert sorted(recorded(result)) == sorted(by_id)
    assert counts == dict.fromkeys(broken, 1)
    assert len(warnings) == len(broken)
    assert then is None or then in warnings[-1]


def peaka_catalog(peaka: PeakaSandbox) -> str:
    """The id of its catalog."""
    with peaka_for(peaka).get_client() as client:
        (catalog,) = [each.id for each in client.list_catalogs() if each.name == "ops"]
    return catalog


@pytest.mark.parametrize("profile", PROFILES)
def test_many_caches_are_found_and_synced_by_their_tables(tmp_path: Path, profile: Profile) -> None:
    """Also where the catalog's listing fails as well: the project's serves the look-up."""
    with many(tmp_path, profile) as peaka:
        peaka.wait_idle()
        peaka.fault("getCacheStatusByCatalog", times=None, status=500)

        names, _ = logged_run(peaka)

    assert names == [f"t{number}" for number in range(8)]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_project_s_listing_that_fails_is_put_together_from_its_catalogs(
    tmp_path: Path, profile: Profile
) -> None:
    """By the polling sensor and by a snapshot, which have nothing wider to read."""
    with many(tmp_path, profile) as peaka, dg.DagsterInstance.ephemeral() as instance:
        peaka.wait_idle()
        peaka.fault("getCacheStatusByProject", times=None, status=500)
        asset = build_peaka_cache_asset(table="ops.public.t1", key="t1")
        watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(peaka), instance)
        watch.tick()
        (execution,) = sync_by_others(peaka, ["ops.public.t1"])

        assert [event.metadata["peaka/execution_id"].value for event in watch.tick()] == [execution]
        assert len(peaka_for(peaka).fetch_project().caches) == 8


# A cache that is not there


def test_a_trigger_of_a_cache_that_does_not_exist_is_not_found(client: PeakaClient) -> None:
    """400 with "Cache settings not found", or 404."""
    with pytest.raises(PeakaNotFoundError) as caught:
        client.trigger_incremental_update("11111111-1111-4111-8111-111111111111")

    assert caught.value.permanent
    assert "Check the id or name" in str(caught.value)


def test_a_cache_that_goes_before_its_trigger_fails_at_once_and_for_good(sandbox: PeakaSandbox) -> None:
    """One trigger, no waiting, and no advice about modes."""
    body = {"error": "WrongRequestException", "message": "Cache settings not found", "errorCode": None}
    sandbox.fault("incrementalUpdateCache", times=None, status=400, body=body)

    with pytest.raises(PeakaSyncError) as caught:
        peaka_for(sandbox, start_timeout=3600.0).sync(TABLE)

    assert caught.value.permanent
    assert "supports" not in str(caught.value)
    assert sum(request.operation in TRIGGERS for request in sandbox.requests) == 1


# Creating, cancelling, changing


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_a_cancel_with_nothing_to_cancel_is_no_error(
    client: PeakaClient, peaka: PeakaSandbox, mode: str
) -> None:
    """It says so."""
    cancel = client.cancel_full_refresh if mode == "full_refresh" else client.cancel_incremental_update

    assert cancel(peaka.caches[TABLE]) is False


def test_a_cancel_before_the_record_shows_is_no_error(sandbox: PeakaSandbox) -> None:
    """It was seen to be answered 500 between a full refresh's trigger and its record."""
    sandbox.behaviour.full_refresh_gap = 3600.0
    with peaka_for(sandbox).get_client() as client:
        client.trigger_full_refresh(sandbox.caches[TABLE])

        assert client.cancel_full_refresh(sandbox.caches[TABLE]) is False


def test_a_cancel_that_fails_while_something_runs_is_an_error(sandbox: PeakaSandbox) -> None:
    """It has perhaps stopped nothing."""
    sandbox.plan(TABLE, hold=True)
    sandbox.start_execution(TABLE)
    sandbox.fault("cancelIncrementalCache", times=None, status=500)
    with (
        peaka_for(sandbox).get_client() as client,
        pytest.raises(PeakaUnknownOutcomeError),
    ):
        client.cancel_incremental_update(sandbox.caches[TABLE])
    sandbox.release(TABLE)


def catalog_of(client: PeakaClient) -> str:
    """The id of the catalog `ops`."""
    return next(each.id for each in client.list_catalogs() if each.name == "ops")


def test_creating_a_cache_that_exists_changes_nothing_and_says_so(
    client: PeakaClient, peaka: PeakaSandbox
) -> None:
    """409 in the one Peaka, 200 in the other: the settings are those that the cache has."""
    created = client.create_cache(catalog_of(client), "public", "t", incremental_schedule="PT1H")

    assert created.existed
    assert created.id == peaka.caches[TABLE]
    assert created.incremental_schedule is None or created.incremental_schedule.type == "NONE"


def test_creating_a_new_cache_says_so_too(client: PeakaClient, peaka: PeakaSandbox) -> None:
    """It did not exist before."""
    peaka.delete_cache(TABLE)
    peaka.plan(TABLE, hold=True)

    created = client.create_cache(catalog_of(client), "public", "t", incremental_schedule="PT1H")

    assert created.existed is False
    assert created.incremental_schedule is not None
    assert created.incremental_schedule.expression == "PT1H"
    peaka.release(TABLE)


def test_creating_a_cache_during_its_first_sync_says_what_to_do(sandbox: PeakaSandbox) -> None:
    """500, harmless to that sync."""
    sandbox.delete_cache(TABLE)
    sandbox.plan(TABLE, hold=True)
    with peaka_for(sandbox).get_client() as client:
        first = client.create_cache(catalog_of(client), "public", "t")
        with pytest.raises(PeakaUnknownOutcomeError, match="while the first sync of a cache runs") as caught:
            client.create_cache(catalog_of(client), "public", "t")
    sandbox.release(TABLE)

    assert first.id in str(caught.value)
    assert caught.value.status_code == 500


def test_creating_a_cache_during_its_deletion_is_told_as_it_is(sandbox: PeakaSandbox) -> None:
    """500, harmless too: but no cache is there whose first sync could be waited for."""
    sandbox.behaviour.deletion_seconds = 3600.0
    with peaka_for(sandbox).get_client() as client:
        client.delete_cache(sandbox.caches[TABLE])
        with pytest.raises(PeakaUnknownOutcomeError) as caught:
            client.create_cache(catalog_of(client), "public", "t")

    assert caught.value.status_code == 500
    assert "first sync" not in str(caught.value)
    assert TABLE not in sandbox.caches


def test_a_table_that_cannot_be_cached_is_refused_with_peaka_s_reason(
    client: PeakaClient, peaka: PeakaSandbox
) -> None:
    """With an errorCode, or with null and a message."""
    with pytest.raises(PeakaApiError) as caught:
        client.create_cache(catalog_of(client), "public", "no_such_table")

    assert caught.value.permanent
    assert caught.value.reason
    assert caught.value.reason in str(caught.value)


def test_a_schedule_that_is_not_taken_is_an_error(client: PeakaClient, peaka: PeakaSandbox) -> None:
    """400 in the one Peaka; 200, and the old schedule, in the other."""
    kind = PeakaApiError if peaka.profile == "documented" else PeakaResponseError
    cache = peaka.caches[TABLE]
    client.update_cache(cache, incremental_schedule="PT6H", full_refresh_schedule=None)

    with pytest.raises(kind) as caught:
        client.update_cache(cache, incremental_schedule="every hour", full_refresh_schedule=None)

    if kind is PeakaResponseError:
        assert "keeps its incremental schedule (PT6H) instead of every hour" in str(caught.value)


@pytest.mark.parametrize(("written", "kept"), [("P1D", "PT24H"), ("PT60M", "PT1H"), ("PT90M", "PT5400S")])
def test_a_schedule_that_peaka_writes_otherwise_is_taken(
    sandbox: PeakaSandbox, written: str, kept: str
) -> None:
    """The same duration in other words is no other schedule."""
    body = {"id": sandbox.caches[TABLE], "incrementalCacheSchedule": {"type": "BASIC", "expression": kept}}
    read = sandbox.fault("getCacheSettings", times=None, status=200, body=body)
    with peaka_for(sandbox).get_client() as client:
        client.update_cache(sandbox.caches[TABLE], incremental_schedule=written, full_refresh_schedule=None)

    assert read.hits == 1


# Errors


@pytest.mark.parametrize(
    "body",
    [
        '{"error": "WrongRequestException", "message": "no such plan", "errorCode": null}',
        '{"errorCode": 100, "message": "no such plan"}',
        '{"errorCode": "100", "reason": "no such plan"}',
    ],
)
def test_no_error_code_hides_peaka_s_message(body: str) -> None:
    """Null, an integer, a string."""
    with (
        RawServer(reply(400, body)) as server,
        PeakaClient("key", "p", server.base_url) as client,
        pytest.raises(PeakaApiError, match="no such plan"),
    ):
        client.list_catalogs()


def test_a_5xx_that_lasts_says_since_when_and_what_works_meanwhile(sandbox: PeakaSandbox) -> None:
    """It may be for good, and then waiting does not help."""
    sandbox.fault("listSchemas", times=None, status=500)
    with peaka_for(sandbox).get_client() as client:
        messages: list[str] = []
        for _ in range(3):
            with pytest.raises(PeakaServerError) as caught:
                client.list_schemas("1")
            messages.append(str(caught.value))
            client.list_catalogs()

    assert "The same" not in messages[0]
    assert "The same 3 times since " in messages[2]
    assert "meanwhile Peaka answered about the project's catalogs" in messages[2]


@pytest.mark.parametrize("word", ["CANCELED", "canceled", "CANCELLED"])
def test_a_cancelled_execution_is_told_in_either_spelling(word: str) -> None:
    """Materialized queries say CANCELED, caches CANCELLED: an end, not an unknown word."""
    execution = CacheExecution.model_validate({"id": "e", "status": word})

    assert execution.status == "CANCELLED"
    assert execution.ended
    assert not execution.succeeded


# Executions


def test_the_gap_after_a_full_refresh_s_trigger_decides_nothing(ops_database: Path) -> None:
    """Old records under a RUNNING status, then the record: the sync is that execution, and one trigger is enough."""
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"]) as peaka:
        peaka.wait_idle()
        peaka.start_execution(TABLE, mode="full_refresh")
        peaka.wait_idle()
        peaka.behaviour.full_refresh_gap = 0.7
        peaka.clear_requests()

        execution = peaka_for(peaka).sync(TABLE, mode="full_refresh")

        assert execution.id == peaka.executions(TABLE)[-1].id
        assert sum(request.operation in TRIGGERS for request in peaka.requests) == 1


def test_each_slot_of_the_status_is_read_by_itself(peaka: PeakaSandbox) -> None:
    """An incremental's old COMPLETED beside a full refresh that runs is no success of ours."""
    peaka.behaviour.full_refresh_gap = 0.0
    peaka.plan(TABLE, mode="full_refresh", hold=True)
    refresh = peaka.start_execution(TABLE, mode="full_refresh")
    peaka.behaviour.visible_after = (
        0.5  # of what is triggered: until then there are the old one and the refresh
    )

    execution = peaka_for(peaka).sync(TABLE)

    assert execution.id != refresh
    assert execution.id == [each.id for each in peaka.executions(TABLE) if each.mode == "INCREMENTAL"][-1]
    peaka.release(TABLE)


def test_both_modes_may_be_triggered_at_once(peaka: PeakaSandbox) -> None:
    """Both triggers are taken, and each sync stands for the execution of its own."""
    with ThreadPoolExecutor(2) as threads:
        modes = ("incremental", "full_refresh")
        syncs = [threads.submit(peaka_for(peaka).sync, TABLE, mode=mode) for mode in modes]
        executions = [sync.result() for sync in syncs]

    newest = {execution.mode: execution.id for execution in peaka.executions(TABLE)}
    assert [execution.id for execution in executions] == [newest["INCREMENTAL"], newest["FULL_REFRESH"]]
    assert sum(request.operation in TRIGGERS for request in peaka.requests) == 2


# Counters


def test_counters_are_shown_as_reported_and_nothing_else(ops_database: Path, peaka: PeakaSandbox) -> None:
    """A deletion reports 0 deleted rows in the observed Peaka: shown, left out of no total, and a new version."""
    before = run_of(build_peaka_cache_asset(table=TABLE, key="t"), peaka_for(peaka))
    with closing(sqlite3.connect(ops_database)) as database, database:
        database.execute("DELETE FROM t WHERE id = 1")
    after = run_of(build_peaka_cache_asset(table=TABLE, key="t"), peaka_for(peaka))

    first, second = (result.asset_materializations_for_node("t")[0] for result in (before, after))
    shown = peaka.executions(TABLE)[-1]
    deleted = 0 if peaka.profile == "observed" else 1
    assert second.metadata["peaka/rows_deleted"].value == deleted
    assert "dagster/row_count" not in second.metadata
    assert (
        (first.tags or {})["dagster/data_version"] != (second.tags or {})["dagster/data_version"] == shown.id
    )


def test_a_deletion_without_any_counter_is_a_new_version(sandbox: PeakaSandbox, ops_database: Path) -> None:
    """0/0/0 was seen too, and the fingerprint sees the deletion all the same."""
    sandbox.behaviour.silent_deletions = True
    asset = build_peaka_cache_asset(table=TABLE, key="t", fingerprint="checksum")
    versions: list[str] = []
    for statement in ("SELECT 1", "DELETE FROM t WHERE id = 1"):
        with closing(sqlite3.connect(ops_database)) as database, database:
            database.execute(statement)
        (event,) = run_of(asset, peaka_for(sandbox)).asset_materializations_for_node("t")
        versions.append((event.tags or {})["dagster/data_version"])

    assert versions[0] != versions[1]
    assert event.metadata["peaka/rows_deleted"].value == 0
    assert event.metadata["dagster/row_count"].value == 2


# Queries


def test_values_have_the_types_of_their_columns(client: PeakaClient) -> None:
    """Whether Peaka sends JSON's types or every value as a string."""
    statement = """
        SELECT id, v, 1.5E0 * id AS half, CAST(id AS decimal(10, 2)) AS money, id > 1 AS big,
               DATE '2026-07-01' AS day, TIMESTAMP '2026-07-01 10:00:00.5' AS at, CAST(NULL AS bigint) AS nothing
        FROM "ops"."public"."t" WHERE id = 2
    """
    result = client.execute_query(statement)

    assert result.rows == [
        {
            "id": 2,
            "v": "b",
            "half": 3.0,
            "money": Decimal("2.00"),
            "big": True,
            "day": date(2026, 7, 1),
            "at": datetime(2026, 7, 1, 10, 0, 0, 500_000),  # noqa: DTZ001 - a timestamp without a zone
            "nothing": None,
        }
    ]
    assert {type(value) for value in result.rows[0].values()} >= {int, str, float, Decimal, bool}
    kinds = {column.name: column.data_type for column in result.columns}
    assert (kinds["id"], kinds["half"], kinds["money"]) == ("bigint", "double", "decimal(10,2)")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1.254740786E7", "double", 12547407.86),
        ("NaN", "double", None),
        (12547407.86, "double", 12547407.86),
        ("9223372036854775807", "bigint", 2**63 - 1),
        ("123456789012345678901234567890.12", "decimal(38,2)", Decimal("123456789012345678901234567890.12")),
        ("true", "boolean", True),
        (
            "2026-07-01 10:00:00.000 UTC",
            "timestamp(3) with time zone",
            datetime(2026, 7, 1, 10, tzinfo=timezone.utc),
        ),
        (
            "2026-07-01T10:00:00Z",
            "timestamp(3) with time zone",
            datetime(2026, 7, 1, 10, tzinfo=timezone.utc),
        ),
        (
            "2026-07-01 12:00:00 +02:00",
            "timestamp with time zone",
            datetime(2026, 7, 1, 10, tzinfo=timezone.utc),
        ),
        ("2026-07-01 10:00:00.1234567", "timestamp(7)", "2026-07-01 10:00:00.1234567"),
        ("yes", "boolean", "yes"),
        ("many", "bigint", "many"),
        ("10:00:00", "time(3)", "10:00:00"),
        ("{1, 2}", "array(integer)", "{1, 2}"),
        ("2026-07-01", "varchar", "2026-07-01"),
        ("5", "", "5"),
    ],
)
def test_a_value_is_read_by_its_type_and_stays_as_it_is_otherwise(
    value: object, kind: str, expected: object
) -> None:
    """What does not read as its type says is not guessed at."""
    answer = f"""{{"columns": [{{"columnName": "x"}}], "data": [[{{"name": "x", "dataType": "{kind}", "order": 0,
        "value": {f'"{value}"' if isinstance(value, str) else value}}}]]}}"""
    with RawServer(reply(body=answer)) as server, PeakaClient("key", "p", server.base_url) as client:
        (row,) = client.execute_query("SELECT 1").rows

    found = row["x"]
    if value == "NaN":
        assert isinstance(found, float)
        assert found != found
    else:
        assert (found, type(found)) == (expected, type(expected))


# Caches in between


@pytest.mark.parametrize("age", ["30", "0", "old", ""])
@pytest.mark.parametrize("call", ["get_cache_status", "get_execution_history"])
def test_a_status_from_a_cache_in_between_is_no_answer(call: str, age: str) -> None:
    """It would be a false success; the error names the proxy. Requests say that they want none."""
    body = '{"id": "c"}' if call == "get_cache_status" else "[]"
    head = f"HTTP/1.1 200 OK\r\nAge: {age}\r\nVia: 1.1 squid\r\nConnection: close\r\n\r\n"
    with (
        RawServer((head + body).encode()) as server,
        PeakaClient("key", "p", server.base_url) as client,
    ):
        if age == "30":
            with pytest.raises(PeakaResponseError, match=r"30 s old \(Via: 1\.1 squid\)"):
                getattr(client, call)("c")
        else:
            getattr(client, call)("c")

    assert server.requests[0].headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("end", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
def test_an_end_before_the_creation_is_no_end(end: str) -> None:
    """A service's word for "not yet"; an unknown status with such an end goes on."""
    fields = {"id": "e", "status": "PENDING", "createdAt": "2026-07-01T12:00:00Z", "finishedAt": end}
    execution = CacheExecution.model_validate(fields)

    assert execution.finished_at is None
    assert not execution.ended
    assert execution.duration_seconds is None


# Jobs that nobody picks up


def test_stuck_timeout_fails_a_job_that_nobody_picks_up(sandbox: PeakaSandbox) -> None:
    """The error names the execution and the time; nothing is cancelled."""
    sandbox.behaviour.never_picked_up = True

    with pytest.raises(
        PeakaSyncError, match="neither its progress nor its time of update has changed"
    ) as caught:
        peaka_for(sandbox, stuck_timeout=0.5).sync(TABLE)

    assert caught.value.execution_id == sandbox.executions(TABLE)[-1].id
    assert not caught.value.permanent
    assert not any("cancel" in operation for operation in asked(sandbox))


def test_a_job_that_nobody_picks_up_is_named_once(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning after five minutes of the same readings; the failure at the deadline says it again."""
    monkeypatch.setattr("dagster_peaka.sync.log.HANGING", 0.3)
    monkeypatch.setattr("dagster_peaka.records.failures.HANGING", 0.3)
    sandbox.behaviour.never_picked_up = True
    lines = log_of(build_peaka_cache_asset(table=TABLE, key="t"), peaka_for(sandbox, poll_timeout=1.5))

    warnings = [text for level, text in lines if level == "WARNING"]
    assert len(warnings) == 1
    assert "perhaps nobody picks it up" in warnings[0]
    assert sandbox.executions(TABLE)[-1].id in warnings[0]


# Bounded answers

CALLS: dict[str, Callable[[PeakaClient], object]] = {
    "status": lambda client: client.get_cache_status("c"),
    "history": lambda client: client.get_execution_history("c"),
    "query": lambda client: client.execute_query("SELECT 1"),
    "trigger": lambda client: client.trigger_incremental_update("c"),
    "tables": lambda client: client.list_tables("1", "s"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_too_large_is_an_error(call: str) -> None:
    """Whatever it says of its length, at any endpoint."""
    body = b'{"a": "' + b"x" * 300_000 + b'"}'
    announced = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    silent = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    for head in (announced, silent):
        with (
            RawServer(head + body) as server,
            PeakaClient("key", "p", server.base_url, max_response_bytes=100_000) as client,
            pytest.raises(PeakaError, match="100,000"),
        ):
            CALLS[call](client)


FLOOD = """
import gzip, itertools, resource, socket, sys, threading

kind, call = sys.argv[1:]
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nConnection: close\\r\\n"
PIECE = b"[" * 65_536


def pieces():
    if kind == "long":
        yield HEAD + b"Content-Length: %d\\r\\n\\r\\n" % 500_000_000
        yield from itertools.repeat(PIECE, 500_000_000 // len(PIECE))
    elif kind == "endless":
        yield HEAD + b"Transfer-Encoding: chunked\\r\\n\\r\\n"
        yield from itertools.repeat(b"10000\\r\\n" + PIECE + b"\\r\\n")
    else:
        bomb = gzip.compress(b"[" * 500_000_000, 9)
        yield HEAD + b"Content-Encoding: gzip\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(bomb) + bomb


def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.recv(65_536)
        try:
            for piece in pieces():
                connection.sendall(piece)
        except OSError:
            pass
        connection.close()


prepared = list(pieces()) if kind == "bomb" else None
if prepared:
    pieces = lambda: prepared
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=[listener], daemon=True).start()

from dagster_peaka import PeakaClient, PeakaError

with PeakaClient("key", "p", f"http://127.0.0.1:{listener.getsockname()[1]}", request_max_retries=0) as client:
    import dagster_peaka.api.connection
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        getattr(client, call)(*(["SELECT 1"] if call == "execute_query" else ["c"]))
    except PeakaError as error:
        print(type(error).__name__, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["long", "endless", "bomb"])
@pytest.mark.parametrize("call", ["get_cache", "trigger_incremental_update", "execute_query"])
def test_no_answer_fills_the_memory(tmp_path: Path, kind: str, call: str) -> None:
    """500 MB, chunks without an end, a gzip bomb: an error, and less than 100 MB more memory; seen from outside."""
    script = tmp_path / "flood.py"
    script.write_text(FLOOD)
    done = subprocess.run(
        [sys.executable, str(script), kind, call], capture_output=True, text=True, check=True, timeout=120
    )

    name, megabytes = done.stdout.split()
    expected = "PeakaUnknownOutcomeError" if call == "trigger_incremental_update" else "PeakaResponseError"
    assert name == expected
    assert int(megabytes) < 100
