"""Caches that are created, changed, cancelled, deleted, or not there."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dagster_peaka import (
    PeakaApiError,
    PeakaClient,
    PeakaNotFoundError,
    PeakaResponseError,
    PeakaSyncError,
    PeakaUnknownOutcomeError,
)
from dagster_peaka.api import SyncMode
from dagster_peaka.sandbox import PeakaSandbox
from tests.graphql import until
from tests.materializing import TRIGGERS, peaka_for
from tests.observed.conftest import TABLE, asked


@pytest.mark.parametrize("mode", SyncMode)
def test_a_trigger_of_a_cache_that_does_not_exist_is_not_found(client: PeakaClient, mode: SyncMode) -> None:
    """400 with "Cache settings not found", or 404."""
    full = mode is SyncMode.FULL_REFRESH
    trigger = client.trigger_full_refresh if full else client.trigger_incremental_update
    with pytest.raises(PeakaNotFoundError) as caught:
        trigger("11111111-1111-4111-8111-111111111111")

    assert caught.value.permanent
    assert "Check the id or name" in str(caught.value)


@pytest.mark.parametrize("status", [400, 404])
def test_a_cache_that_goes_before_its_trigger_fails_at_once_and_for_good(
    sandbox: PeakaSandbox, status: int
) -> None:
    """One trigger, no waiting, and no advice about modes."""
    body = {"error": "WrongRequestException", "message": "Cache settings not found", "errorCode": None}
    sandbox.fault("incrementalUpdateCache", times=None, status=status, body=body)

    with pytest.raises(PeakaSyncError) as caught:
        peaka_for(sandbox, start_timeout=3600.0).sync(TABLE)

    assert caught.value.permanent
    assert "supports" not in str(caught.value)
    assert sum(request.operation in TRIGGERS for request in sandbox.requests) == 1


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_a_cancel_with_nothing_to_cancel_is_no_error(
    client: PeakaClient, peaka: PeakaSandbox, mode: str
) -> None:
    """It says so."""
    cancel = client.cancel_full_refresh if mode == "full_refresh" else client.cancel_incremental_update

    assert cancel(peaka.caches[TABLE]) is False


@pytest.mark.parametrize("mode", SyncMode)
def test_a_cancel_of_what_runs_says_so_and_the_execution_ends_as_cancelled(
    client: PeakaClient, peaka: PeakaSandbox, mode: SyncMode
) -> None:
    """The one spelling in either Peaka."""
    peaka.behaviour.full_refresh_gap = 0.0
    peaka.plan(TABLE, hold=True)
    peaka.start_execution(TABLE, mode=mode.value)
    full = mode is SyncMode.FULL_REFRESH
    cancel = client.cancel_full_refresh if full else client.cancel_incremental_update

    assert cancel(peaka.caches[TABLE]) is True
    peaka.wait_idle()
    execution = client.get_cache_status(peaka.caches[TABLE]).last(mode)
    assert execution is not None
    assert execution.status == "CANCELLED"


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


def test_two_creations_of_a_table_at_once_give_one_cache(
    client: PeakaClient, peaka: PeakaSandbox, ops_database: Path
) -> None:
    """Both are answered 200, as new, or the later one 409, as existing: the same cache, with one first sync."""
    peaka.delete_cache(TABLE)
    peaka.plan(TABLE, hold=True)
    peaka.clear_requests()
    catalog = catalog_of(client)
    with ThreadPoolExecutor(2) as threads, closing(sqlite3.connect(ops_database)) as source:
        source.execute("BEGIN EXCLUSIVE")  # which neither creation gets past before both have arrived
        creations = [threads.submit(client.create_cache, catalog, "public", "t") for _ in range(2)]
        until(lambda: asked(peaka).count("createCache") == 2, what="second creation")
        source.rollback()
        created = [creation.result() for creation in creations]

    assert {settings.id for settings in created} == {peaka.caches[TABLE]}
    assert len(peaka.executions(peaka.caches[TABLE])) == 1
    existed = sorted(bool(settings.existed) for settings in created)
    assert existed == ([False, False] if peaka.profile == "observed" else [False, True])
    peaka.release(TABLE)


def test_a_table_that_stays_cached_without_a_cache_is_told_as_it_is(sandbox: PeakaSandbox) -> None:
    """After a deletion in the middle of a sync: only `is_cached` beside the listing shows it, and nothing helps it."""
    sandbox.behaviour.left_behind = True
    sandbox.plan(TABLE, hold=True)
    sandbox.start_execution(TABLE)
    with peaka_for(sandbox).get_client() as client:
        catalog = catalog_of(client)
        client.delete_cache(sandbox.caches[TABLE])
        tables = {table.table_name: table.is_cached for table in client.list_tables(catalog, "public")}
        listed = {status.table_name for status in client.list_cache_statuses()}
        with pytest.raises(PeakaUnknownOutcomeError) as created:
            client.create_cache(catalog, "public", "t")
        with pytest.raises(PeakaApiError) as queried:
            client.execute_query(f"SELECT count(*) FROM {TABLE}")
    sandbox.clear_requests()
    with pytest.raises(PeakaNotFoundError) as looked_up:
        peaka_for(sandbox).sync(TABLE)

    assert (tables, listed) == ({"t": True, "u": True}, {"u"})
    assert created.value.status_code == 500
    assert "first sync" not in str(created.value)
    assert (queried.value.status_code, queried.value.permanent) == (400, True)
    assert looked_up.value.permanent
    assert f"no cache of table {TABLE}" in str(looked_up.value)
    assert not any(operation in TRIGGERS for operation in asked(sandbox))


def test_a_table_that_has_no_cache_because_it_cannot_have_one_says_so(
    client: PeakaClient, peaka: PeakaSandbox, ops_database: Path
) -> None:
    """As those of databases: `list_tables` tells which, and creating its cache is refused for good, with a reason."""
    with closing(sqlite3.connect(ops_database)) as source:
        source.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
    catalog = catalog_of(client)
    tables = {table.table_name: table for table in client.list_tables(catalog, "public")}
    with pytest.raises(PeakaApiError) as refused:
        client.create_cache(catalog, "public", "words")
    with pytest.raises(PeakaNotFoundError, match="no cache of table ops.public.words"):
        peaka_for(peaka).sync("ops.public.words")

    assert (tables["words"].is_cacheable, tables["words"].supported_modes) == (False, frozenset())
    assert (tables["t"].is_cacheable, tables["t"].supported_modes) == (True, frozenset(SyncMode))
    assert (refused.value.status_code, refused.value.permanent) == (400, True)
    assert "the table ops.public.words cannot be cached" in refused.value.reason
    assert refused.value.error_code == (None if peaka.profile == "observed" else "TABLE_NOT_CACHEABLE")


def test_a_table_that_is_called_cacheable_may_be_refused_all_the_same(
    client: PeakaClient, peaka: PeakaSandbox
) -> None:
    """`is_cacheable` promises nothing: what the creation is answered counts."""
    peaka.delete_cache(TABLE)
    body = {"error": "WrongRequestException", "message": "line 1:15: cannot be read", "errorCode": None}
    peaka.fault("createCache", status=400, body=body)
    with pytest.raises(PeakaApiError, match="cannot be read") as refused:
        client.create_cache(catalog_of(client), "public", "t")

    assert refused.value.permanent
    assert TABLE not in peaka.caches


def test_a_cache_that_is_deleted_in_the_middle_of_a_sync_is_gone(
    client: PeakaClient, peaka: PeakaSandbox
) -> None:
    """200, and clean: the table can be cached anew, and synced by its name."""
    peaka.plan(TABLE, hold=True)
    peaka.start_execution(TABLE)
    client.delete_cache(peaka.caches[TABLE])
    listed = {status.table_name for status in client.list_cache_statuses()}

    created = client.create_cache(catalog_of(client), "public", "t")

    assert listed == {"u"}
    assert peaka_for(peaka).sync(TABLE).id == peaka.executions(created.id)[-1].id
