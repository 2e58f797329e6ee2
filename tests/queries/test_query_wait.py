"""`wait=False` for queries: the step ends with the trigger's answer, and a polling sensor records the refresh."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import build_peaka_polling_sensor, build_peaka_query_asset
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import log_of, peaka_for, run_of
from tests.sensors.polling import Watch, values
from tests.sync.steps import wait_until

REPORT = dg.AssetKey(["peaka", "mtquery", "report"])
CHECK = dg.AssetCheckKey(REPORT, "last_sync_succeeded")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka with the materialized query `report`."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    with PeakaSandbox({"shop": {"public": path}}, caches=["shop.public.orders"]) as sandbox:
        sandbox.wait_idle()
        sandbox.queries.create("report", "SELECT id FROM shop.public.orders")
        sandbox.clear_requests()
        yield sandbox


@pytest.fixture
def watch(shop: PeakaSandbox) -> Iterator[Watch]:
    """A polling sensor over a query that nobody waits for."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watch(build_peaka_polling_sensor([deferred()]), peaka_for(shop), instance)


def deferred(retry_policy: dg.RetryPolicy | None = None) -> dg.AssetsDefinition:
    """The query, whose refreshes nobody waits for."""
    return build_peaka_query_asset(query="report", wait=False, retry_policy=retry_policy)


def refreshes_asked_for(sandbox: PeakaSandbox) -> int:
    """How many refreshes came through the API."""
    return sum(request.operation == "refreshMaterializedQuery" for request in sandbox.requests)


def latest(watch: Watch) -> dg.AssetCheckEvaluation:
    """The latest evaluation of the query's check."""
    record = watch.instance.get_latest_asset_check_evaluation_record(CHECK)
    assert record is not None
    assert record.event is not None
    assert record.event.dagster_event is not None
    return record.event.dagster_event.asset_check_evaluation_data


def test_a_refresh_that_runs_already_is_called_a_refresh(shop: PeakaSandbox) -> None:
    """With on_running="attach" nothing is triggered, and the log names what runs as it names any refresh."""
    shop.queries.plan("report", hold=True)
    run_of(deferred(), peaka_for(shop))
    wait_until(lambda: shop.queries.refreshes("report")[-1].started_at is not None, "the refresh")

    lines = [line for _, line in log_of(deferred(), peaka_for(shop, on_running="attach"))]

    (said,) = [line for line in lines if line.startswith("Nothing was triggered")]
    assert re.search(r"peaka\.mtquery\.report \(\d+\) \(the refresh of 20\S+\)", said), said
    assert refreshes_asked_for(shop) == 1


def test_the_step_ends_and_the_sensor_records_the_refresh_with_its_run(
    shop: PeakaSandbox, watch: Watch
) -> None:
    """Nothing is materialized by the run; the sensor's event names it, once the refresh has completed."""
    shop.queries.plan("report", hold=True)

    run = run_of(deferred(), watch.peaka, instance=watch.instance)

    assert run.success
    assert run.get_asset_materialization_events() == []
    assert shop.requests[-1].operation == "refreshMaterializedQuery"
    assert watch.tick() == []

    shop.queries.release("report")
    shop.queries.wait_idle()
    materialization, evaluation = watch.tick()

    assert values(materialization)["peaka/run_id"] == run.run_id
    assert values(materialization)["peaka/origin"] == "triggered"
    assert (evaluation.asset_check_key, evaluation.passed) == (CHECK, True)
    assert watch.tick() == []


def test_a_refresh_that_fails_fails_the_check_once(shop: PeakaSandbox, watch: Watch) -> None:
    """It is no materialization; the check that `wait=False` implies says what to do."""
    shop.queries.plan("report", duration=0.05, fail="no room")
    run_of(deferred(), watch.peaka, instance=watch.instance)
    shop.queries.wait_idle()

    (evaluation,) = watch.tick()

    assert not evaluation.passed
    assert "has ended as FAILED; the snapshot is as it was. Look at the query" in evaluation.description
    assert "peaka.mtquery.report" in evaluation.description
    assert latest(watch).passed is False
    assert watch.tick() == []


def test_the_check_alone_asks_for_the_status(shop: PeakaSandbox) -> None:
    """A run of the check refreshes nothing."""
    asset = deferred()
    definitions = dg.Definitions(assets=[asset], resources={"peaka": peaka_for(shop)})
    job = dg.define_asset_job("check", dg.AssetSelection.checks(CHECK))
    shop.queries.refresh("report")
    shop.queries.wait_idle()

    result = (
        dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
        .resolve_job_def("check")
        .execute_in_process()
    )

    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed
    assert refreshes_asked_for(shop) == 0


def test_a_lost_answer_is_not_asked_for_again(shop: PeakaSandbox, watch: Watch) -> None:
    """Whether it was taken the sensor tells."""
    shop.fault("refreshMaterializedQuery", times=1, lose_reply=True)

    assert run_of(deferred(), watch.peaka, instance=watch.instance).success
    assert refreshes_asked_for(shop) == 1

    shop.queries.wait_idle()
    assert [type(event).__name__ for event in watch.tick()] == [
        "AssetMaterialization",
        "AssetCheckEvaluation",
    ]
