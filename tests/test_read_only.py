"""`read_only`: a branch deployment or a laptop with production's key sees everything and changes nothing."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaClient,
    PeakaConfigError,
    build_peaka_cache_asset,
    build_peaka_polling_sensor,
    build_peaka_query_asset,
)
from dagster_peaka.api import CacheRequest
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import failure_of, peaka_for, run_of
from tests.sensors.polling import Watch, recorded, sync_by_others

TABLE = "ops.public.t"

CHANGES: dict[str, Callable[[PeakaClient, str], Any]] = {
    "trigger": lambda client, cache_id: client.trigger_incremental_update(cache_id),
    "full refresh": lambda client, cache_id: client.trigger_full_refresh(cache_id),
    "cancel": lambda client, cache_id: client.cancel_incremental_update(cache_id),
    "create": lambda client, _: client.create_cache("c", "s", "t"),
    "create many": lambda client, _: client.create_caches(
        [CacheRequest(catalog_id="c", schema_name="s", table_name="t")]
    ),
    "schedules": lambda client, cache_id: client.update_cache(
        cache_id, incremental_schedule="PT6H", full_refresh_schedule=None
    ),
    "delete": lambda client, cache_id: client.delete_cache(cache_id),
    "refresh of a query": lambda client, _: client.queries.refresh("q"),
    "cancel of a query": lambda client, _: client.queries.cancel("q"),
}


def changes_of(sandbox: PeakaSandbox) -> list[str]:
    """The requests that came which are no reads."""
    return [
        str(request.operation)
        for request in sandbox.requests
        if request.method != "GET" and request.operation != "executeQuery"
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_before_it_is_sent(sandbox: PeakaSandbox, change: str) -> None:
    """The error names the setting; nothing reaches Peaka."""
    with peaka_for(sandbox, read_only=True).get_client() as client:
        with pytest.raises(PeakaConfigError, match="read_only"):
            CHANGES[change](client, sandbox.caches[TABLE])
    assert sandbox.requests == []


def test_reads_and_queries_go_on(sandbox: PeakaSandbox) -> None:
    """Statuses, snapshots and SQL are reads, posted or not."""
    peaka = peaka_for(sandbox, read_only=True)
    assert len(peaka.fetch_project().caches) == 2
    with peaka.get_client() as client:
        assert client.execute_query(f"SELECT count(*) AS n FROM {TABLE}").rows == [{"n": 3}]


@pytest.mark.parametrize("wait", [True, False])
def test_a_materialization_fails_in_words_and_triggers_nothing(sandbox: PeakaSandbox, wait: bool) -> None:
    """By the step and by `sync`; what was refused leaves nothing that a later run would adopt."""
    peaka = peaka_for(sandbox, read_only=True)
    asset = build_peaka_cache_asset(table=TABLE, wait=wait, retry_policy=dg.RetryPolicy(max_retries=2))
    sensor = build_peaka_polling_sensor([asset])
    definitions = dg.Definitions(assets=[asset], sensors=[sensor], resources={"peaka": peaka})
    job = definitions.resolve_implicit_global_asset_job_def()

    failed = failure_of(job.execute_in_process(raise_on_error=False))

    assert "read_only" in failed.description
    assert failed.tries == 1
    with pytest.raises(Exception, match="read_only"):
        peaka.sync(TABLE)
    assert changes_of(sandbox) == []


def test_a_query_is_not_refreshed(sandbox: PeakaSandbox) -> None:
    """Nor does its refresh reach Peaka."""
    sandbox.queries.create("report", f"SELECT id FROM {TABLE}")
    asset = build_peaka_query_asset(query="report")

    assert "read_only" in failure_of(run_of(asset, peaka_for(sandbox, read_only=True))).description
    assert changes_of(sandbox) == []


def test_schedules_stay(sandbox: PeakaSandbox) -> None:
    """`on_schedule="disable"` changes nothing either."""
    with peaka_for(sandbox).get_client() as client:
        client.update_cache(sandbox.caches[TABLE], incremental_schedule="PT6H", full_refresh_schedule=None)
    sandbox.clear_requests()
    asset = build_peaka_cache_asset(table=TABLE, on_schedule="disable")

    assert "read_only" in failure_of(run_of(asset, peaka_for(sandbox, read_only=True))).description
    assert changes_of(sandbox) == []


def test_a_polling_sensor_records(sandbox: PeakaSandbox) -> None:
    """What others start becomes materializations, as with any resource."""
    asset = build_peaka_cache_asset(table=TABLE)
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(sandbox, read_only=True), instance)
        watch.tick()
        ids = sync_by_others(sandbox, [TABLE])
        watch.tick()
        assert recorded(instance, asset.key)[-1:] == ids
