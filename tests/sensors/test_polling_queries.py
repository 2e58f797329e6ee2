"""The polling sensor over materialized queries: the newest refresh of each, once, whoever asked for it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaConfigError,
    build_peaka_cache_asset,
    build_peaka_polling_sensor,
    build_peaka_query_asset,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import acting_when, peaka_for
from tests.sensors.polling import Watch, values

REPORT = dg.AssetKey(["peaka", "mtquery", "report"])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka with the cache `shop.public.orders` and the materialized query `report` over it."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        database.execute("INSERT INTO orders VALUES (1, 'tea')")
    with PeakaSandbox({"shop": {"public": path}}, caches=["shop.public.orders"]) as sandbox:
        sandbox.wait_idle()
        sandbox.behaviour.query_word_lag = 0.0
        sandbox.queries.create("report", "SELECT id, item FROM shop.public.orders")
        yield sandbox


@pytest.fixture
def report() -> dg.AssetsDefinition:
    """The query's asset."""
    return build_peaka_query_asset(query="report")


@pytest.fixture
def watch(shop: PeakaSandbox, report: dg.AssetsDefinition) -> Iterator[Watch]:
    """A polling sensor over that asset alone."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watch(build_peaka_polling_sensor([report]), peaka_for(shop), instance)


def refreshed(shop: PeakaSandbox) -> None:
    """Somebody else has the query refreshed, and it ends."""
    shop.queries.refresh("report")
    shop.queries.wait_idle()


def test_its_description_counts_what_it_watches() -> None:
    """One cache, several, or none; and the materialized queries beside them."""
    query = build_peaka_query_asset(query="report")
    tables = [build_peaka_cache_asset(table=f"ops.public.{name}") for name in "tu"]

    said = [
        str(build_peaka_polling_sensor(assets).description).removeprefix(
            "Records what Peaka and others have "
        )
        for assets in (tables[:1], tables, [query], [*tables, query])
    ]

    assert said == [
        "synced of 1 cache.",
        "synced of 2 caches.",
        "synced of 1 materialized query.",
        "synced of 2 caches and 1 materialized query.",
    ]


def test_a_refresh_by_somebody_else_is_recorded_once(shop: PeakaSandbox, watch: Watch) -> None:
    """With its times, as external, and by the version that a run of ours would have given it."""
    refreshed(shop)

    (event,) = watch.tick()

    assert event.asset_key == REPORT
    metadata = values(event)
    assert metadata["peaka/origin"] == "external"
    assert metadata["peaka/started_at"] <= metadata["peaka/finished_at"]
    assert event.tags["dagster/data_version"].startswith(metadata["peaka/query_id"])
    assert watch.skipped == "Recorded 1 of 1 materialized queries."
    assert [watch.tick() for _ in range(2)] == [[], []]


def test_of_several_between_two_ticks_the_newest_is_recorded(shop: PeakaSandbox, watch: Watch) -> None:
    """Peaka keeps no history of refreshes."""
    refreshed(shop)
    watch.tick()
    refreshed(shop)
    refreshed(shop)

    (event,) = watch.tick()

    started = max(refresh.started_at for refresh in shop.queries.refreshes("report") if refresh.started_at)
    assert values(event)["peaka/started_at"] == pytest.approx(started, abs=0.01)


def test_what_a_run_has_recorded_is_not_recorded_again(
    shop: PeakaSandbox, watch: Watch, report: dg.AssetsDefinition
) -> None:
    """And a later one by somebody else is another version."""
    run = dg.materialize([report], resources={"peaka": watch.peaka}, instance=watch.instance)
    assert run.success
    assert watch.tick() == []

    refreshed(shop)
    (event,) = watch.tick()

    (ours,) = run.asset_materializations_for_node("peaka__mtquery__report")
    assert (ours.tags or {})["dagster/data_version"] != event.tags["dagster/data_version"]


def test_a_refresh_that_a_run_follows_is_left_to_it(
    shop: PeakaSandbox, watch: Watch, report: dg.AssetsDefinition
) -> None:
    """A tick between the refresh's end and the run's own record adds nothing."""
    ticks: list[list[object]] = []
    shop.queries.plan("report", hold=True)

    def end() -> None:
        shop.queries.release("report")
        shop.queries.wait_idle()
        ticks.append(watch.tick())

    slow = peaka_for(shop, poll_interval=2.0)
    with acting_when(lambda: any(each.started_at for each in shop.queries.refreshes("report")), end):
        run = dg.materialize([report], resources={"peaka": slow}, instance=watch.instance)

    assert run.success
    assert ticks == [[]]
    assert watch.tick() == []


def test_the_word_of_the_refresh_before_records_nothing(shop: PeakaSandbox, watch: Watch) -> None:
    """A status whose start has moved, and its word not, was updated before that start."""
    refreshed(shop)
    assert len(watch.tick()) == 1
    shop.behaviour.query_word_lag = 3600.0
    refreshed(shop)

    assert watch.tick() == []

    shop.behaviour.query_word_lag = 0.0
    assert len(watch.tick()) == 1


def test_a_failed_refresh_is_no_materialization(shop: PeakaSandbox, watch: Watch) -> None:
    """It left the snapshot as it was."""
    shop.queries.plan("report", fail="no room")
    refreshed(shop)

    assert watch.tick() == []


def test_a_query_that_is_gone_is_a_warning(shop: PeakaSandbox) -> None:
    """The tick names it, and records the others."""
    assets = [build_peaka_query_asset(query=name) for name in ("report", "gone")]
    refreshed(shop)
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(build_peaka_polling_sensor(assets), peaka_for(shop), instance)

        assert [event.asset_key for event in watch.tick()] == [REPORT]
        assert watch.warnings == ["Not found in Peaka: the materialized queries gone."]


def test_caches_and_queries_share_a_sensor(shop: PeakaSandbox, report: dg.AssetsDefinition) -> None:
    """One tick polls both, and its reason tells of both."""
    orders = build_peaka_cache_asset(table="shop.public.orders")
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(build_peaka_polling_sensor([orders, report]), peaka_for(shop), instance)
        watch.tick()
        shop.start_execution("shop.public.orders")
        shop.wait_idle()
        refreshed(shop)

        events = watch.tick()

    assert {event.asset_key for event in events} == {dg.AssetKey(["shop", "public", "orders"]), REPORT}
    assert watch.skipped is not None
    assert "Polled 1 cache" in watch.skipped
    assert watch.skipped.endswith("Recorded 1 of 1 materialized queries.")


# Where no time tells


@pytest.mark.parametrize("updates", ["absent", "equal"])
def test_without_a_time_of_update_a_refresh_is_recorded_when_its_word_has_stood(
    shop: PeakaSandbox, watch: Watch, updates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute after the start a word is no longer that of the refresh before."""
    refreshed(shop)
    with peaka_for(shop).get_client() as client:
        (status,) = client.queries.list_statuses()
    assert status.started_at is not None
    started = status.started_at.isoformat()
    shown = {
        "queryId": status.query_id,
        "queryName": "report",
        "status": "COMPLETED",
        "lastExecutionStartTime": started,
        "lastUpdateTime": started if updates == "equal" else None,
    }
    shop.fault("listMaterializedQueryStatuses", times=None, status=200, body=[shown])

    assert watch.tick() == []

    monkeypatch.setattr("dagster_peaka.api.query_models.UNCHANGED_WORD", -1.0)  # the Date is in whole seconds
    (event,) = watch.tick()
    assert event.tags["dagster/data_version"] == f"{status.query_id}@{started}"
    assert "peaka/finished_at" not in values(event)
    assert watch.tick() == []


def test_a_run_that_follows_a_refresh_without_a_time_of_update_records_it(
    shop: PeakaSandbox, watch: Watch, report: dg.AssetsDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that has stood: the run is under way, and notices the end."""
    monkeypatch.setattr("dagster_peaka.api.query_models.UNCHANGED_WORD", -1.0)  # the Date is in whole seconds
    shop.behaviour.query_updates = "absent"
    ticks: list[list[object]] = []
    shop.queries.plan("report", hold=True)

    def end() -> None:
        shop.queries.release("report")
        shop.queries.wait_idle()
        ticks.append(watch.tick())

    slow = peaka_for(shop, poll_interval=2.0)
    with acting_when(lambda: any(each.started_at for each in shop.queries.refreshes("report")), end):
        run = dg.materialize([report], resources={"peaka": slow}, instance=watch.instance)

    assert run.success
    assert ticks == [[]]
    assert watch.tick() == []


# What the event log holds


def test_a_run_that_records_while_a_tick_reads_is_not_doubled(
    shop: PeakaSandbox, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the runs under way are read, then what is recorded: what such a run has recorded is seen."""
    refreshed(shop)
    (event,) = watch.tick()
    refreshed(shop)
    read = watch.instance.get_run_records
    with peaka_for(shop).get_client() as client:
        (status,) = client.queries.list_statuses()
    assert status.started_at is not None
    started = dg.MetadataValue.timestamp(status.started_at)

    def reading(*arguments: Any, **more: Any) -> Any:
        watch.instance.report_runless_asset_event(
            dg.AssetMaterialization(REPORT, metadata={"peaka/started_at": started}, tags=event.tags)
        )
        return read(*arguments, **more)

    monkeypatch.setattr(watch.instance, "get_run_records", reading)

    assert watch.tick() == []


def test_an_older_refresh_is_recorded_beside_a_run_that_waits_for_its_own(
    shop: PeakaSandbox, watch: Watch, report: dg.AssetsDefinition
) -> None:
    """What a run follows is left to it, and nothing else."""
    refreshed(shop)
    shop.behaviour.query_start_gap = 2.0
    ticks: list[list[object]] = []

    def tick() -> None:
        ticks.append(watch.tick())

    asked = lambda: any(each.origin == "api" for each in shop.queries.refreshes("report"))  # noqa: E731
    with acting_when(asked, tick):
        run = dg.materialize([report], resources={"peaka": watch.peaka}, instance=watch.instance)

    assert run.success
    assert [len(events) for events in ticks] == [1]


def test_row_count_and_fingerprint_are_as_a_run_would_have_recorded_them(shop: PeakaSandbox) -> None:
    """The version too: a refresh of somebody else that changed nothing wakes nobody."""
    asset = build_peaka_query_asset(query="report", row_count="query", fingerprint="count(*), max(id)")
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(shop), instance)
        run = dg.materialize([asset], resources={"peaka": watch.peaka}, instance=instance)
        (ours,) = run.asset_materializations_for_node("peaka__mtquery__report")
        refreshed(shop)

        (event,) = watch.tick()

    assert values(event)["dagster/row_count"] == 1
    assert event.tags["dagster/data_version"] == (ours.tags or {})["dagster/data_version"] == "[1, 1]"


# Several sensors


def test_of_two_sensors_over_one_query_the_first_by_name_takes_it(
    shop: PeakaSandbox, report: dg.AssetsDefinition
) -> None:
    """The other one says so, and records nothing of it."""
    sensors = [build_peaka_polling_sensor([report], name=name) for name in ("first", "second")]
    definitions = dg.Definitions(assets=[report], sensors=sensors, resources={"peaka": peaka_for(shop)})
    refreshed(shop)
    with dg.DagsterInstance.ephemeral() as instance:
        first, second = (
            Watch(sensor, peaka_for(shop), instance, definitions=definitions) for sensor in sensors
        )

        assert second.tick() == []
        assert len(first.tick()) == 1
        assert first.warnings == []
        assert "Sensors first and second both poll assets" in second.warnings[0]


def test_two_assets_of_one_query_are_refused(report: dg.AssetsDefinition) -> None:
    """As of one cache."""
    other = build_peaka_query_asset(query="report", key="other")

    with pytest.raises(PeakaConfigError, match="mean the same Peaka query report"):
        build_peaka_polling_sensor([report, other])
