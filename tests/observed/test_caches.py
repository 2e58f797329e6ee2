"""Caches that are created, changed, cancelled, deleted, or not there."""

import pytest

from dagster_peaka import (
    PeakaApiError,
    PeakaClient,
    PeakaNotFoundError,
    PeakaResponseError,
    PeakaSyncError,
    PeakaUnknownOutcomeError,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import TRIGGERS, peaka_for
from tests.observed.conftest import TABLE


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
